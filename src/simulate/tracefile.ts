// Reads a routing trace (docs/formats.md describes the format) without holding the file: what each token was
// routed to goes into shared memory, scores stay where they are. A trace may come from a stranger, so
// header, length and every expert are checked before anything else is done with them.
import { closeSync, fstatSync, openSync, readSync } from 'node:fs'
import { parseTraceHeader, type TraceHeader } from '../engine/trace.js'
import { ModelError } from '../model/error.js'
import type { RoutedSequence, Routing } from './routing.js'

/** Token ids of some ten million tokens; what is longer is no header. */
const headerBytesMost = 2 ** 27
const pieceBytes = 2 ** 22

/** Throws ModelError with one sentence when the file is no trace. */
export function readTraceFile(path: string, name: string): Routing {
  const file = openSync(path, 'r')
  try {
    const line = headerLine(file, name)
    const header = parseTraceHeader(line.toString('utf8'), name)
    return routingOf(file, header, line.length + 1, { path, name })
  } finally {
    closeSync(file)
  }
}

/** [token of all sequences] its id, or -1 where the trace does not tell. Throws as readTraceFile does. */
export function tokenIdsOf({ name, scores, ids, layers, topK }: Routing): Int32Array {
  if (scores?.kind !== 'file') return new Int32Array(ids.length / layers.length / topK).fill(-1)
  const file = openSync(scores.path, 'r')
  try {
    const { sequences } = parseTraceHeader(headerLine(file, name).toString('utf8'), name)
    const ids = sequences.flatMap((sequence) =>
      Array.from({ length: sequence.tokens }, (_, token) => sequence.ids?.[token] ?? -1),
    )
    return Int32Array.from(ids)
  } finally {
    closeSync(file)
  }
}

interface Named {
  readonly path: string
  readonly name: string
}

function routingOf(
  file: number,
  header: TraceHeader,
  offset: number,
  { path, name }: Named,
): Routing {
  const { experts, top_k: topK, layers, id_bytes: idBytes } = header
  const sequences = placed(header)
  const tokens = sequences.reduce((sum, sequence) => sum + sequence.tokens, 0)
  const idsBytes = topK * idBytes
  const hasScores = header.scores === 'f16'
  const kinds = (hasScores ? 1 : 0) + header.ahead.length
  const recordBytes = idsBytes + 2 * experts * kinds
  const records = tokens * layers.length
  const foundBytes = fstatSync(file).size - offset
  if (foundBytes !== records * recordBytes) {
    throw new ModelError(
      `${name}: expected ${records * recordBytes} bytes of records after the header, found ${foundBytes}`,
    )
  }
  const ids = readIds(file, { offset, records, recordBytes, topK, idBytes, experts }, name)
  const { model, attended = 0 } = header
  const plain = header.ahead.length - attended
  const ahead = header.ahead.slice(0, plain)
  if (attended > 0 && String(header.ahead.slice(plain)) !== String(ahead)) {
    throw new ModelError(`${name}: attended distances are not those that stand before them`)
  }
  const isAttended = attended > 0
  const scores = hasScores
    ? ({ kind: 'file', path, offset, recordBytes, idsBytes, ahead, isAttended } as const)
    : null
  return { name, model, layers, experts, topK, sequences, isPromptJoint: true, ids, scores }
}

function placed({ sequences }: TraceHeader): RoutedSequence[] {
  let first = 0
  return sequences.map(({ tokens, prompt }) => {
    const sequence = { first, tokens, prompt: Math.min(prompt, tokens) }
    first += tokens
    return sequence
  })
}

interface Records {
  readonly offset: number
  readonly records: number
  readonly recordBytes: number
  readonly topK: number
  readonly idBytes: number
  readonly experts: number
}

function readIds(file: number, shape: Records, name: string): Uint16Array {
  const { offset, records, recordBytes, topK, idBytes, experts } = shape
  const ids = new Uint16Array(new SharedArrayBuffer(2 * records * topK))
  const perPiece = Math.max(1, Math.floor(pieceBytes / recordBytes))
  const piece = Buffer.alloc(perPiece * recordBytes)
  for (let first = 0; first < records; first += perPiece) {
    const count = Math.min(perPiece, records - first)
    fill(file, piece.subarray(0, count * recordBytes), offset + first * recordBytes, name)
    for (let record = 0; record < count; record += 1) {
      for (let rank = 0; rank < topK; rank += 1) {
        const id = piece.readUIntLE(record * recordBytes + rank * idBytes, idBytes)
        if (id >= experts) {
          throw new ModelError(`${name}: record ${first + record} names expert ${id} of ${experts}`)
        }
        ids[(first + record) * topK + rank] = id
      }
    }
  }
  return ids
}

/** A system may give less than was asked for. */
function fill(file: number, bytes: Buffer, at: number, name: string): void {
  for (let filled = 0; filled < bytes.length; ) {
    const read = readSync(file, bytes, filled, bytes.length - filled, at + filled)
    if (read === 0) throw new ModelError(`${name}: has become shorter`)
    filled += read
  }
}

/** All before the first line break. */
function headerLine(file: number, name: string): Buffer {
  const pieces: Buffer[] = []
  for (let length = 0; length < headerBytesMost; ) {
    const piece = Buffer.alloc(2 ** 16)
    const read = readSync(file, piece, 0, piece.length, length)
    const end = piece.subarray(0, read).indexOf(0x0a)
    if (end >= 0) return Buffer.concat([...pieces, piece.subarray(0, end)])
    if (read === 0) break
    pieces.push(piece.subarray(0, read))
    length += read
  }
  throw new ModelError(`${name}: expected a JSON header line, found none`)
}
