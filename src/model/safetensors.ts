/**
 * The header of one safetensors file: which tensors it holds, of what type and shape, and where.
 * It must not know which tensors a model needs. Nothing a header says is believed: every range must
 * lie inside the file, fit its type and shape, and overlap no other. Holes are permitted, and a type
 * we do not know is an error only for whoever needs that tensor.
 *
 * Format: 8 bytes little-endian length, that many bytes of JSON, then the body; offsets in the JSON
 * count from the start of the body (published safetensors format description).
 */
import { ModelError, shown } from './error.js'
import { isRecord, parseObject } from './json.js'
import { decodeText, type OpenFile, windowOf, withFile } from './window.js'

export interface TensorEntry {
  readonly name: string
  readonly dtype: string
  readonly shape: readonly number[]
  /** Which file of the checkpoint, as numbered by the caller. */
  readonly file: number
  /** Absolute byte offset in that file; nothing may be assumed about its alignment. */
  readonly offset: number
  readonly bytes: number
}

export interface ShardHeader {
  readonly path: string
  readonly sizeBytes: number
  readonly tensors: readonly TensorEntry[]
}

/** The public reader's own bound; the header of a whole 1T model in one file would be 17 MB. */
const HEADER_BYTES_LIMIT = 100_000_000

/** Bytes of one element; types of less than a byte and unknown ones are absent. */
const elementBytes = new Map([
  ...['BOOL', 'U8', 'I8', 'F8_E4M3', 'F8_E5M2', 'F8_E8M0'].map((type) => [type, 1] as const),
  ...['I16', 'U16', 'F16', 'BF16'].map((type) => [type, 2] as const),
  ...['I32', 'U32', 'F32'].map((type) => [type, 4] as const),
  ...['I64', 'U64', 'F64', 'C64'].map((type) => [type, 8] as const),
])

/** Reads and checks the header of the file at `path`; `file` is the number its entries carry. */
export function readHeader(path: string, file: number): ShardHeader {
  return withFile(path, (open) => {
    const length = headerLength(open)
    const text = decodeText(windowOf(open, 8, length), open.name)
    const bodyStart = 8 + length
    const bodyBytes = open.sizeBytes - bodyStart
    const tensors = parseHeader(text, { name: open.name, file, bodyStart, bodyBytes })
    return { path, sizeBytes: open.sizeBytes, tensors }
  })
}

/** The file that a header text belongs to: its name in errors, its number, where its body lies. */
export interface HeaderPlace {
  readonly name: string
  readonly file: number
  readonly bodyStart: number
  readonly bodyBytes: number
}

/** The tensors a header names, in its order. Throws ModelError naming file and tensor. */
export function parseHeader(text: string, place: HeaderPlace): TensorEntry[] {
  const tensors: TensorEntry[] = []
  for (const [name, value] of Object.entries(parseObject(text, place.name))) {
    if (name !== '__metadata__') tensors.push(parseEntry(name, value, place))
  }
  refuseOverlaps(tensors, place)
  return tensors
}

function headerLength(open: OpenFile): number {
  if (open.sizeBytes < 10) {
    throw new ModelError(
      `${open.name}: expected a safetensors file of at least 10 bytes, found ${open.sizeBytes}`,
    )
  }
  const length = windowOf(open, 0, 8).readBigUInt64LE(0)
  const room = open.sizeBytes - 8
  if (length > room) {
    throw new ModelError(
      `${open.name}: expected a header of at most the ${room} bytes that follow its length, found length ${length}`,
    )
  }
  if (length < 2 || length > HEADER_BYTES_LIMIT) {
    throw new ModelError(
      `${open.name}: expected a header of 2 to ${HEADER_BYTES_LIMIT} bytes, found length ${length}`,
    )
  }
  return Number(length)
}

function parseEntry(name: string, value: unknown, place: HeaderPlace): TensorEntry {
  const refuse = (expected: string, found: unknown): never => {
    throw new ModelError(
      `${place.name}: ${shown(name)}: expected ${expected}, found ${shown(found)}`,
    )
  }
  if (!isRecord(value)) return refuse('dtype, shape and data_offsets', value)
  const { dtype, shape, data_offsets: range } = value
  if (typeof dtype !== 'string') return refuse('a dtype that is text', dtype)
  if (!isSizes(shape)) return refuse('a shape of whole numbers from 0', shape)
  if (!isSizes(range) || range.length !== 2) {
    return refuse('data_offsets of two whole numbers from 0', range)
  }
  const [begin = 0, end = 0] = range
  if (begin > end) refuse('data_offsets in rising order', range)
  if (end > place.bodyBytes) {
    refuse(`data_offsets within the ${place.bodyBytes} bytes of data in the file`, range)
  }
  const width = elementBytes.get(dtype)
  const bytes = end - begin
  if (width !== undefined) {
    const wanted = shape.reduce((product, size) => product * size, width)
    // Above 2^53 a product is rounded, so an equal byte count would prove nothing.
    if (!(wanted <= Number.MAX_SAFE_INTEGER)) refuse('a shape of less than 2^53 bytes', shape)
    if (wanted !== bytes) refuse(`${wanted} bytes for ${dtype} [${shape.join(', ')}]`, bytes)
  }
  return { name, dtype, shape, file: place.file, offset: place.bodyStart + begin, bytes }
}

function isSizes(value: unknown): value is number[] {
  return (
    Array.isArray(value) &&
    value.every((item: unknown) => Number.isSafeInteger(item) && Number(item) >= 0)
  )
}

function refuseOverlaps(tensors: readonly TensorEntry[], place: HeaderPlace): void {
  const byOffset = tensors
    .filter((tensor) => tensor.bytes > 0)
    .sort((first, second) => first.offset - second.offset)
  let previous: TensorEntry | undefined
  for (const tensor of byOffset) {
    if (previous !== undefined && tensor.offset < previous.offset + previous.bytes) {
      throw new ModelError(
        `${place.name}: ${shown(tensor.name)}: expected bytes of its own, found them shared with ${shown(previous.name)}`,
      )
    }
    previous = tensor
  }
}
