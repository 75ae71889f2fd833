/**
 * Small read-only windows of a model's files: headers, index, config, tokenizer. It must not know
 * what the bytes mean. Windows are mapped by the optional package mmap-io where that is installed
 * and the window is large, and read otherwise. The package keeps offsets and sizes in 32-bit integers and silently maps
 * other bytes past that, so both are refused from 2 GiB on, however a window is made; weights never
 * come through here.
 */
import fs from 'node:fs'
import { createRequire } from 'node:module'
import { basename, dirname } from 'node:path'
import { ModelError } from './error.js'

/** First offset or size that a window may not have: 2^31, where a signed 32-bit integer ends. */
export const WINDOW_LIMIT = 2 ** 31

/** Smaller windows are read: loading the package takes longer than reading this much. */
const MAPPED_FROM_BYTES = 2 ** 20

/** A regular file that is open for reading, with its size when it was opened. */
export interface OpenFile {
  readonly name: string
  readonly descriptor: number
  readonly sizeBytes: number
}

/**
 * Opens a regular, non-empty file for as long as `use` runs. Errors name the file by its last path
 * component: missing, a folder, a pipe or device, empty, not permitted.
 */
export function withFile<Result>(path: string, use: (file: OpenFile) => Result): Result {
  const descriptor = openForReading(path)
  try {
    const name = basename(path)
    const status = fs.fstatSync(descriptor)
    if (status.isDirectory()) throw new ModelError(`${name}: expected a file, found a folder`)
    if (!status.isFile()) {
      throw new ModelError(`${name}: expected a regular file, found a pipe, socket or device`)
    }
    if (status.size === 0) throw new ModelError(`${name}: expected data, found an empty file`)
    return use({ name, descriptor, sizeBytes: status.size })
  } finally {
    fs.closeSync(descriptor)
  }
}

/**
 * Bytes [offset, offset + sizeBytes) of an open file; not to be written to. Throws RangeError when
 * the window is not inside the file or outgrows 32-bit integers: both are mistakes of the caller,
 * who knows the file's size.
 */
export function windowOf(file: OpenFile, offset: number, sizeBytes: number): Buffer {
  if (!isWithin32Bits(offset) || !isWithin32Bits(sizeBytes) || sizeBytes === 0) {
    throw new RangeError(
      `a window of ${file.name} must start below 2^31 and hold 1 to 2^31 - 1 bytes, asked for ${sizeBytes} at ${offset}`,
    )
  }
  if (offset + sizeBytes > file.sizeBytes) {
    throw new RangeError(
      `a window of ${file.name} must end within its ${file.sizeBytes} bytes, asked for ${sizeBytes} at ${offset}`,
    )
  }
  const map = sizeBytes >= MAPPED_FROM_BYTES ? mapped(file, offset, sizeBytes) : null
  return map ?? read(file, offset, sizeBytes)
}

/** A whole text file of at most `limitBytes` (below 2 GiB), strictly UTF-8, without a byte order mark. */
export function readText(path: string, limitBytes: number): string {
  return withFile(path, (file) => {
    if (file.sizeBytes > limitBytes) {
      throw new ModelError(
        `${file.name}: expected at most ${limitBytes} bytes, found ${file.sizeBytes}`,
      )
    }
    return decodeText(windowOf(file, 0, file.sizeBytes), file.name)
  })
}

/** Strict UTF-8 to text; `name` is what the error calls the source. */
export function decodeText(bytes: Uint8Array, name: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    throw new ModelError(`${name}: expected UTF-8 text, found other bytes`)
  }
}

function isWithin32Bits(value: number): boolean {
  return Number.isInteger(value) && value >= 0 && value < WINDOW_LIMIT
}

/** O_NONBLOCK, because opening a pipe that nobody writes to would otherwise wait for ever. */
function openForReading(path: string): number {
  try {
    return fs.openSync(path, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK)
  } catch (error) {
    const name = basename(path)
    const code = systemCode(error)
    if (code === 'ENOENT') {
      throw new ModelError(`${name}: file not found, expected in ${dirname(path)}`)
    }
    throw new ModelError(`${name}: cannot be opened for reading (${code}), in ${dirname(path)}`)
  }
}

function read(file: OpenFile, offset: number, sizeBytes: number): Buffer {
  const bytes = Buffer.allocUnsafe(sizeBytes)
  let filled = 0
  while (filled < sizeBytes) {
    let count: number
    try {
      count = fs.readSync(file.descriptor, bytes, filled, sizeBytes - filled, offset + filled)
    } catch (error) {
      throw new ModelError(
        `${file.name}: reading ${sizeBytes} bytes at ${offset} failed (${systemCode(error)})`,
      )
    }
    if (count === 0) {
      throw new ModelError(
        `${file.name}: expected ${sizeBytes} bytes at ${offset}, the file ended after ${filled}`,
      )
    }
    filled += count
  }
  return bytes
}

function systemCode(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : 'unknown error'
}

/** The part of mmap-io that is used: map(size, protection, flags, descriptor, offset). */
interface Mapper {
  map(size: number, protection: number, flags: number, descriptor: number, offset?: number): Buffer
  readonly PROT_READ: number
  readonly MAP_SHARED: number
  readonly PAGESIZE: number
}

/** Undefined until the first window asks; null where the package is absent or its build failed. */
let mapper: Mapper | null | undefined

/** The window as a map, or null where it cannot be mapped (no package, or a file system without maps). */
function mapped(file: OpenFile, offset: number, sizeBytes: number): Buffer | null {
  if (mapper === undefined) mapper = loadMapper()
  if (mapper === null) return null
  const lead = offset % mapper.PAGESIZE
  if (!isWithin32Bits(lead + sizeBytes)) return null
  try {
    const pages = mapper.map(
      lead + sizeBytes,
      mapper.PROT_READ,
      mapper.MAP_SHARED,
      file.descriptor,
      offset - lead,
    )
    return pages.subarray(lead, lead + sizeBytes)
  } catch {
    return null
  }
}

function loadMapper(): Mapper | null {
  try {
    const loaded: unknown = createRequire(import.meta.url)('mmap-io')
    const candidate =
      typeof loaded === 'object' && loaded !== null && 'default' in loaded ? loaded.default : loaded
    return isMapper(candidate) ? candidate : null
  } catch {
    return null
  }
}

function isMapper(value: unknown): value is Mapper {
  return (
    typeof value === 'object' &&
    value !== null &&
    'map' in value &&
    typeof value.map === 'function' &&
    'PROT_READ' in value &&
    typeof value.PROT_READ === 'number' &&
    'MAP_SHARED' in value &&
    typeof value.MAP_SHARED === 'number' &&
    'PAGESIZE' in value &&
    typeof value.PAGESIZE === 'number' &&
    value.PAGESIZE > 0
  )
}
