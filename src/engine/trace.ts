// Recorded routing, one JSON header line and then packed records; docs/formats.md describes the format. A
// reader for replay. A trace may come from a stranger, so its header is checked and its length must
// fit before anything is read by it.
import { readFileSync } from 'node:fs'
import { ModelError, shown } from '../model/error.js'
import {
  among,
  list,
  object,
  oneOf,
  optional,
  parseFields,
  type Read,
  text,
  whole,
} from '../model/fields.js'

const count = whole(1, 2 ** 24)

const headerShape = object({
  version: oneOf(1),
  model: text(),
  layers: list(whole(0, 1023), 1, 1024),
  experts: whole(1, 65_535),
  top_k: whole(1, 1024),
  id_bytes: whole(1, 2),
  scores: among('none', 'f16'),
  ahead: list(whole(1, 1024), 0, 32),
  /** So many of the last distances are the ones before them again, behind the next layer's attention. */
  attended: optional(whole(0, 1024)),
  sequences: list(
    object({
      tokens: count,
      prompt: whole(0, 2 ** 24),
      label: text(),
      ids: optional(list(whole(0, Number.MAX_SAFE_INTEGER))),
    }),
    1,
  ),
})

export type TraceHeader = Read<typeof headerShape>

export interface TracedSequence {
  readonly tokens: number
  /** The first so many tokens are prefill. */
  readonly prompt: number
  readonly label: string
  readonly ids: readonly number[] | null
  /** Index of its first token among all of the trace. */
  readonly first: number
}

export class Trace {
  readonly model: string
  /** Index of each MoE layer in the model. */
  readonly layers: readonly number[]
  readonly experts: number
  readonly topK: number
  readonly sequences: readonly TracedSequence[]
  readonly #body: Buffer
  readonly #idBytes: number
  readonly #recordBytes: number

  /** Throws ModelError when the bytes are no trace. `file` is for the message. */
  constructor(bytes: Buffer, file: string) {
    const lineEnd = bytes.indexOf(0x0a)
    if (lineEnd < 0) throw new ModelError(`${file}: expected a JSON header line, found none`)
    const header = parseTraceHeader(bytes.toString('utf8', 0, lineEnd), file)
    this.model = header.model
    this.layers = header.layers
    this.experts = header.experts
    this.topK = header.top_k
    this.#idBytes = header.id_bytes
    const scoreBytes = header.scores === 'f16' ? 2 * header.experts : 0
    this.#recordBytes =
      header.top_k * header.id_bytes + scoreBytes + 2 * header.experts * header.ahead.length
    this.#body = bytes.subarray(lineEnd + 1)
    let first = 0
    this.sequences = header.sequences.map((sequence) => {
      const traced = { ...sequence, ids: sequence.ids ?? null, first }
      first += sequence.tokens
      return traced
    })
    const expectedBytes = first * this.layers.length * this.#recordBytes
    if (this.#body.length !== expectedBytes) {
      throw new ModelError(
        `${file}: expected ${expectedBytes} bytes of records after the header, found ${this.#body.length}`,
      )
    }
  }

  /** The experts of one token in one MoE layer (counted from 0), best first, into `out` [topK]. */
  expertsOf(sequence: TracedSequence, token: number, moeLayer: number, out: Uint16Array): void {
    const record = (sequence.first + token) * this.layers.length + moeLayer
    for (let rank = 0; rank < this.topK; rank += 1) {
      const at = record * this.#recordBytes + rank * this.#idBytes
      out[rank] = this.#idBytes === 1 ? this.#body.readUInt8(at) : this.#body.readUInt16LE(at)
    }
  }
}

export function readTrace(path: string): Trace {
  return new Trace(readFileSync(path), path)
}

/** The header line of a trace. Throws ModelError when it is none; `file` is for the message. */
export function parseTraceHeader(text: string, file: string): TraceHeader {
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch {
    throw new ModelError(`${file}: expected a JSON header line, found ${shown(text.slice(0, 40))}`)
  }
  return parseFields(headerShape, json, `${file}: header`)
}
