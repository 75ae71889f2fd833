// The bytes of a manifest: a line of JSON, the extents of one checkpoint file, and a CRC32C for every
// block of each extent. It touches no disk. What it decodes comes from the cache folder and is checked
// like any other file from a stranger: nothing is believed before it fits. Numbers are little-endian,
// as the processors are that the addon runs on.
import { crc32 } from 'node:zlib'
import { ModelError, shown } from '../model/error.js'
import { parseObject } from '../model/json.js'

/** Bytes of one checksum, counted from the start of an extent; the last may have fewer. */
export const BLOCK_BYTES = 2 ** 20

/** A checkpoint file at a moment; where any of this is another, it is another file. */
export interface FileIdentity {
  /** With all links followed. */
  readonly path: string
  readonly sizeBytes: number
  /** Text, because nanoseconds and inodes outgrow a number. */
  readonly mtimeNs: string
  readonly inode: string
}

/** What all of a file's checksums are about; the beginning of a manifest and of a journal. */
export interface ManifestHead {
  readonly identity: FileIdentity
  readonly recorded: Date
  /** Offset and bytes of each extent in rising order, the header first. */
  readonly extents: Float64Array
  /** The hub's SHA-256 of the file, which it had when it was recorded; absent: it was not known. */
  readonly sha256?: string
}

export interface FileManifest {
  readonly head: ManifestHead
  /** Block after block, extent after extent. */
  readonly sums: Uint32Array
}

const LINE_BYTES_LIMIT = 2 ** 16
const EXTENT_BYTES = 2 * Float64Array.BYTES_PER_ELEMENT

/** First block of each extent, and the number of all blocks behind the last. */
export function firstBlocks(extents: Float64Array): Float64Array {
  const first = new Float64Array(extents.length / 2 + 1)
  for (let index = 1; index < first.length; index += 1) {
    const bytes = extents[2 * index - 1] ?? 0
    first[index] = (first[index - 1] ?? 0) + Math.ceil(bytes / BLOCK_BYTES)
  }
  return first
}

export function isSameExtents(one: ManifestHead, other: ManifestHead): boolean {
  const { length } = one.extents
  return length === other.extents.length && one.extents.every((n, i) => n === other.extents[i])
}

/** One line of JSON, then the extents. */
export function encodeHead({ identity, recorded, extents, sha256 }: ManifestHead): Buffer {
  const line = JSON.stringify({
    version: 1,
    path: identity.path,
    size: identity.sizeBytes,
    mtime_ns: identity.mtimeNs,
    inode: identity.inode,
    recorded: recorded.toISOString(),
    block_bytes: BLOCK_BYTES,
    extents: extents.length / 2,
    sha256,
  })
  return Buffer.concat([Buffer.from(`${line}\n`), bytesOf(extents)])
}

/** The head at the start of the bytes, and where what follows it begins. */
export function decodeHead(bytes: Buffer, name: string): { head: ManifestHead; end: number } {
  const lineBytes = bytes.subarray(0, LINE_BYTES_LIMIT).indexOf(10)
  if (lineBytes < 0) throw new ModelError(`${name}: expected a line of JSON, found none`)
  const line = parseObject(bytes.toString('utf8', 0, lineBytes), name)
  const {
    version,
    path,
    size,
    mtime_ns,
    inode,
    recorded,
    block_bytes,
    extents: count,
    sha256,
  } = line
  const refuse = (key: string, expected: string): never => {
    throw new ModelError(`${name}: ${key} must be ${expected}, found ${shown(line[key])}`)
  }
  if (version !== 1) refuse('version', '1')
  if (block_bytes !== BLOCK_BYTES) refuse('block_bytes', String(BLOCK_BYTES))
  if (typeof path !== 'string') return refuse('path', 'text')
  if (!isSize(size)) return refuse('size', 'a whole number from 0')
  if (!isDigits(mtime_ns)) return refuse('mtime_ns', 'digits')
  if (!isDigits(inode)) return refuse('inode', 'digits')
  const date = new Date(typeof recorded === 'string' ? recorded : Number.NaN)
  if (Number.isNaN(date.getTime())) return refuse('recorded', 'a date')
  if (sha256 !== undefined && !isSum(sha256)) return refuse('sha256', '64 hexadecimal digits')
  const start = lineBytes + 1
  if (!isSize(count) || count > (bytes.length - start) / EXTENT_BYTES) {
    return refuse('extents', 'the number of extents that follow')
  }
  const end = start + count * EXTENT_BYTES
  const extents = new Float64Array(copyOf(bytes, start, end))
  checkExtents(extents, size, name)
  const identity = { path, sizeBytes: size, mtimeNs: mtime_ns, inode }
  const known = sha256 === undefined ? {} : { sha256 }
  return { head: { identity, recorded: date, extents, ...known }, end }
}

/** The head, the sums, and a CRC-32 of all of it. */
export function encodeManifest({ head, sums }: FileManifest): Buffer {
  const body = Buffer.concat([encodeHead(head), bytesOf(sums)])
  return Buffer.concat([body, bytesOf(Uint32Array.of(crc32(body)))])
}

export function decodeManifest(bytes: Buffer, name: string): FileManifest {
  const { head, end } = decodeHead(bytes, name)
  const blocks = firstBlocks(head.extents).at(-1) ?? 0
  const sumsEnd = end + blocks * Uint32Array.BYTES_PER_ELEMENT
  if (bytes.length !== sumsEnd + Uint32Array.BYTES_PER_ELEMENT) {
    throw new ModelError(
      `${name}: expected ${blocks} checksums in ${sumsEnd + 4} bytes, found ${bytes.length} bytes`,
    )
  }
  if (bytes.readUInt32LE(sumsEnd) !== crc32(bytes.subarray(0, sumsEnd))) {
    throw new ModelError(`${name}: expected its own checksum at the end, found another`)
  }
  return { head, sums: new Uint32Array(copyOf(bytes, end, sumsEnd)) }
}

function checkExtents(extents: Float64Array, sizeBytes: number, name: string): void {
  let end = 0
  for (let index = 0; index < extents.length; index += 2) {
    const [offset, bytes] = [extents[index], extents[index + 1]]
    const isExtent = isSize(offset) && isSize(bytes) && bytes > 0
    if (!isExtent || offset < end || bytes > sizeBytes - offset) {
      throw new ModelError(
        `${name}: expected extents in rising order within ${sizeBytes} bytes, found ${bytes} bytes at ${offset}`,
      )
    }
    end = offset + bytes
  }
}

function isSize(value: unknown): value is number {
  return Number.isSafeInteger(value) && Number(value) >= 0
}

function isDigits(value: unknown): value is string {
  return typeof value === 'string' && /^-?\d{1,20}$/.test(value)
}

function isSum(value: unknown): value is string {
  return typeof value === 'string' && /^[0-9a-f]{64}$/.test(value)
}

function bytesOf(numbers: Float64Array | Uint32Array): Uint8Array {
  return new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength)
}

/** The bytes in memory of their own, so that numbers in them are aligned. */
function copyOf(bytes: Buffer, start: number, end: number): ArrayBuffer {
  return new Uint8Array(bytes.subarray(start, end)).buffer
}
