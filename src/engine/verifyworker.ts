// What a verifying thread does: the checksums of one run of blocks. Piscina calls it; the reading
// blocks its thread, which is what the thread is for.
import { hashExtent, isDeviceError } from '../../native/index.js'
import { BLOCK_BYTES } from './manifestfile.js'

export interface Task {
  readonly path: string
  /** See Piece.spans. */
  readonly spans: Float64Array
  /** A word that is not 0 as soon as nothing more is wanted. */
  readonly stop: Int32Array
}

/** The sums of the piece's blocks, of fewer when it was stopped, and the bytes they are of. */
export interface FoundSums {
  readonly sums: Uint32Array
  readonly bytes: number
}

/** What was found, or why it cannot be. */
export type TaskResult = FoundSums | { readonly refused: string }

export default function hashPiece({ path, spans, stop }: Task): TaskResult {
  const sums: number[] = []
  let read = 0
  try {
    for (let index = 0; index < spans.length && Atomics.load(stop, 0) === 0; index += 2) {
      const [offset = 0, bytes = 0] = spans.subarray(index, index + 2)
      const found = new Uint32Array(Math.ceil(bytes / BLOCK_BYTES))
      hashExtent(path, offset, bytes, found)
      sums.push(...found)
      read += bytes
    }
  } catch (error) {
    // Only its message outlives the way between threads.
    if (isDeviceError(error)) return { refused: error.message }
    throw error
  }
  return { sums: Uint32Array.from(sums), bytes: read }
}
