// Records routing while an engine runs, in the format that trace.ts reads. A trace wants its header
// first and each sequence in one piece, and neither is known before the end: so a sequence's records
// are kept in a file of their own while it runs, joined to a body when it ends, and the header is
// written when the engine closes. What is killed before leaves no half trace under the final name.
import {
  appendFileSync,
  closeSync,
  existsSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
  writeSync,
} from 'node:fs'
import { ModelError } from '../model/error.js'
import { halfOf } from './half.js'
import type { StepOutcome } from './outcome.js'
import type { Sequence } from './sequence.js'

export interface TraceShape {
  readonly model: string
  /** Index of each MoE layer in the model. */
  readonly layers: readonly number[]
  readonly experts: number
  readonly topK: number
  /** Distances of the look-ahead scores; null: no scores at all. */
  readonly ahead: readonly number[] | null
  /** So many of the last are the ones before them again, behind the next layer's attention. */
  readonly attended: number
}

interface Recorded {
  readonly tokens: number
  readonly prompt: number
  readonly label: string
  readonly ids: readonly number[]
}

const copyBytes = 1 << 20

export class TraceRecorder {
  readonly #ended: Recorded[] = []
  readonly #running = new Map<Sequence, { readonly path: string; tokens: number }>()
  readonly #body: string
  readonly #idBytes: 1 | 2
  #count = 0

  /** Throws ModelError when the file cannot be written. */
  constructor(
    private readonly path: string,
    private readonly shape: TraceShape,
  ) {
    this.#body = `${path}.body`
    this.#idBytes = shape.experts <= 256 ? 1 : 2
    this.#write(() => closeSync(openSync(this.#body, 'w')))
  }

  /**
   * Keeps the routing of `tokens` tokens of a sequence, which lie from `first` on in a step of
   * `stepTokens` tokens.
   */
  record(
    sequence: Sequence,
    outcome: StepOutcome,
    first: number,
    tokens: number,
    stepTokens: number,
  ): void {
    let entry = this.#running.get(sequence)
    if (entry === undefined) {
      entry = { path: `${this.path}.sequence-${this.#count}`, tokens: 0 }
      this.#count += 1
      this.#running.set(sequence, entry)
    }
    entry.tokens += tokens
    const { path } = entry
    const records = this.#pack(outcome, first, tokens, stepTokens)
    this.#write(() => appendFileSync(path, records))
  }

  /** The sequence is over, however it ended. */
  end(sequence: Sequence): void {
    const entry = this.#running.get(sequence)
    if (entry === undefined) return
    this.#running.delete(sequence)
    this.#write(() => appendFile(this.#body, entry.path))
    rmSync(entry.path, { force: true })
    const ids = [...sequence.tokens.subarray(0, entry.tokens)]
    const prompt = Math.min(sequence.promptLength, entry.tokens)
    this.#ended.push({ tokens: entry.tokens, prompt, label: `sequence ${this.#ended.length}`, ids })
  }

  /** Writes the trace, unless nothing was recorded. */
  close(): void {
    for (const sequence of [...this.#running.keys()]) this.end(sequence)
    const { model, layers, experts, topK, ahead, attended } = this.shape
    const header = {
      version: 1,
      model,
      layers,
      experts,
      top_k: topK,
      id_bytes: this.#idBytes,
      scores: ahead === null ? 'none' : 'f16',
      ahead: ahead ?? [],
      ...(attended > 0 ? { attended } : {}),
      sequences: this.#ended,
    }
    this.#write(() => {
      if (this.#ended.length > 0) {
        const part = `${this.path}.part`
        closeSync(openSync(part, 'w'))
        appendFileSync(part, `${JSON.stringify(header)}\n`)
        appendFile(part, this.#body)
        renameSync(part, this.path)
      }
      rmSync(this.#body, { force: true })
    })
  }

  #pack(outcome: StepOutcome, first: number, tokens: number, stepTokens: number): Buffer {
    const { layers, experts, topK, ahead } = this.shape
    const kinds = ahead === null ? 0 : 1 + ahead.length
    const recordBytes = topK * this.#idBytes + 2 * experts * kinds
    const records = Buffer.allocUnsafe(tokens * layers.length * recordBytes)
    let at = 0
    for (let token = first; token < first + tokens; token += 1) {
      for (let layer = 0; layer < layers.length; layer += 1) {
        const row = layer * stepTokens + token
        for (let rank = 0; rank < topK; rank += 1) {
          const expert = outcome.experts[row * topK + rank] ?? 0
          at =
            this.#idBytes === 1 ? records.writeUInt8(expert, at) : records.writeUInt16LE(expert, at)
        }
        const scores = kinds * experts
        for (let index = 0; index < scores; index += 1)
          at = records.writeUInt16LE(halfOf(outcome.scores[row * scores + index] ?? 0), at)
      }
    }
    return records
  }

  #write(action: () => void): void {
    try {
      action()
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error)
      throw new ModelError(`--trace ${this.path}: cannot be written: ${reason}`)
    }
  }
}

/** Appends one file to another. */
function appendFile(target: string, source: string): void {
  if (!existsSync(source)) return
  const from = openSync(source, 'r')
  const to = openSync(target, 'a')
  try {
    const buffer = Buffer.allocUnsafe(copyBytes)
    for (let read = readSync(from, buffer); read > 0; read = readSync(from, buffer))
      writeSync(to, buffer, 0, read)
  } finally {
    closeSync(from)
    closeSync(to)
  }
}
