// The SHA-256 of a file that is read stretch by stretch, in order, for the checksums of its blocks: the
// same bytes serve both. What lies between the stretches, and behind the last, is read for it alone.
import { createHash } from 'node:crypto'
import { hashExtent } from '../../native/index.js'
import { BLOCK_BYTES } from './manifestfile.js'
import { SPAN_BLOCKS } from './pieces.js'

const ROOM_BYTES = SPAN_BLOCKS * BLOCK_BYTES

export class WholeFile {
  readonly #hash = createHash('sha256')
  #room = new Uint8Array(0)
  #offset = 0

  constructor(private readonly path: string) {}

  /** A stretch of at most ROOM_BYTES, and the CRC32C of its blocks. Throws a DeviceError. */
  take(offset: number, bytes: number, sums: Uint32Array): void {
    this.#skip(offset)
    this.#read(bytes, sums)
  }

  /** In hexadecimal digits. Throws a DeviceError. */
  end(sizeBytes: number): string {
    this.#skip(sizeBytes)
    return this.#hash.digest('hex')
  }

  #skip(until: number): void {
    while (this.#offset < until) {
      const bytes = Math.min(ROOM_BYTES, until - this.#offset)
      this.#read(bytes, new Uint32Array(Math.ceil(bytes / BLOCK_BYTES)))
    }
  }

  #read(bytes: number, sums: Uint32Array): void {
    if (this.#room.length === 0) this.#room = new Uint8Array(ROOM_BYTES)
    hashExtent(this.path, this.#offset, bytes, sums, this.#room)
    this.#hash.update(this.#room.subarray(0, bytes))
    this.#offset += bytes
  }
}
