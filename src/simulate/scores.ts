// Router probabilities of a trace, one layer of one token at a time: from the trace file, read as they
// are wanted, so that a trace may be larger than memory; or from an array, where they were generated.
import { closeSync, openSync, readSync } from 'node:fs'
import { valueOfHalf } from '../engine/half.js'
import { ModelError } from '../model/error.js'

/** Where the scores lie. Plain data, which crosses to other threads. */
export type ScorePlace =
  | { readonly kind: 'memory'; readonly halves: Uint16Array }
  | {
      readonly kind: 'file'
      readonly path: string
      /** Of the first record. */
      readonly offset: number
      /** Of one token in one MoE layer. */
      readonly recordBytes: number
      /** What precedes the scores in a record. */
      readonly idsBytes: number
      /** Distances of the look-ahead scores, which follow them. */
      readonly ahead: readonly number[]
      /** Whether the same made behind the next layer's attention come after them. */
      readonly isAttended: boolean
    }

/** [16 bits] the number they stand for */
let values: Float32Array | undefined

export class ScoreReader {
  readonly #place: ScorePlace
  readonly #layers: number
  readonly #experts: number
  readonly #file: number | null
  readonly #record: Buffer
  readonly #halves: Uint16Array
  readonly #values: Float32Array

  /** Throws ModelError when the file is gone. `layers`: MoE layers. */
  constructor(place: ScorePlace, layers: number, experts: number) {
    this.#place = place
    this.#layers = layers
    this.#experts = experts
    this.#record = Buffer.alloc(2 * experts)
    this.#halves = new Uint16Array(experts)
    values ??= Float32Array.from({ length: 2 ** 16 }, (_, half) => valueOfHalf(half))
    this.#values = values
    this.#file = place.kind === 'file' ? open(place.path) : null
  }

  /** Distances that `readAhead` knows, in layers. */
  get ahead(): readonly number[] {
    return this.#place.kind === 'file' ? this.#place.ahead : []
  }

  /** Whether there are those behind the attention of the next layer too. */
  get isAttended(): boolean {
    return this.#place.kind === 'file' && this.#place.isAttended
  }

  /** The probability of each expert, into `out` [experts]. */
  read(token: number, moeLayer: number, out: Float32Array): void {
    this.#read(token * this.#layers + moeLayer, 0, out)
  }

  /** The same as this layer's state gives it for the layer `ahead[at]` further on; 0 where there is none. */
  readAhead(token: number, moeLayer: number, at: number, out: Float32Array): void {
    this.#read(token * this.#layers + moeLayer, 1 + at, out)
  }

  /** The same behind the attention of the next layer. */
  readAttended(token: number, moeLayer: number, at: number, out: Float32Array): void {
    this.#read(token * this.#layers + moeLayer, 1 + this.ahead.length + at, out)
  }

  close(): void {
    if (this.#file !== null) closeSync(this.#file)
  }

  /** `kind`: of the scores that follow each other in a record. */
  #read(record: number, kind: number, out: Float32Array): void {
    const halves = this.#halvesOf(record, kind)
    for (let index = 0; index < this.#experts; index += 1) {
      out[index] = this.#values[halves[index] ?? 0] ?? 0
    }
  }

  #halvesOf(record: number, kind: number): Uint16Array {
    const place = this.#place
    const experts = this.#experts
    if (place.kind === 'memory') {
      return place.halves.subarray(record * experts, (record + 1) * experts)
    }
    const at = place.offset + record * place.recordBytes + place.idsBytes + 2 * experts * kind
    const read = readSync(this.#file ?? -1, this.#record, 0, 2 * experts, at)
    if (read !== 2 * experts) throw new ModelError(`${place.path}: has become shorter`)
    for (let index = 0; index < experts; index += 1) {
      this.#halves[index] = this.#record.readUInt16LE(2 * index)
    }
    return this.#halves
  }
}

function open(path: string): number {
  try {
    return openSync(path, 'r')
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    throw new ModelError(`${path}: cannot be read: ${reason}`)
  }
}
