// Recorded routing, one JSON header line and then packed records; docs/formats.md describes the format. A
// reader for replay. A trace may come from a stranger, so its header is checked and its length must
// fit before anything is read by it.
import { readFileSync } from 'node:fs'
import { z } from 'zod'
import { ModelError, shown } from '../model/error.js'

const count = z
  .number()
  .int()
  .positive()
  .max(2 ** 24)

const headerShape = z.object({
  version: z.literal(1),
  model: z.string(),
  layers: z.array(z.number().int().nonnegative().max(1023)).min(1).max(1024),
  experts: count.max(65_535),
  top_k: count.max(1024),
  id_bytes: z.union([z.literal(1), z.literal(2)]),
  scores: z.enum(['none', 'f16']),
  ahead: z.array(z.number().int().positive().max(1024)).max(32),
  /** So many of the last distances are the ones before them again, behind the next layer's attention. */
  attended: z.number().int().nonnegative().optional(),
  sequences: z
    .array(
      z.object({
        tokens: count,
        prompt: z.number().int().nonnegative(),
        label: z.string(),
        ids: z.array(z.number().int().nonnegative()).optional(),
      }),
    )
    .min(1),
})

export type TraceHeader = z.infer<typeof headerShape>

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
  const result = headerShape.safeParse(json)
  if (result.success) return result.data
  const issue = result.error.issues[0]
  throw new ModelError(`${file}: header field ${issue?.path.join('.')}: ${issue?.message}`)
}
