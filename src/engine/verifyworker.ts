// What a verifying thread does: the checksums of one run of blocks, and of a whole file where its runs come
// in order. Piscina calls it; the reading blocks its thread, which is what the thread is for.
import { hashExtent, isDeviceError } from '../../native/index.js'
import { BLOCK_BYTES } from './manifestfile.js'
import { WholeFile } from './wholefile.js'

export interface Task {
  readonly path: string
  /** See Piece.spans. */
  readonly spans: Float64Array
  /** A word that is not 0 as soon as nothing more is wanted. */
  readonly stop: Int32Array
  /**
   * Where the SHA-256 of the file is wanted: all its pieces come to one thread, in order. Null: it is not.
   */
  readonly whole: {
    readonly isFirst: boolean
    readonly isLast: boolean
    readonly sizeBytes: number
  } | null
}

/** The sums of the piece's blocks, of fewer when it was stopped, and the bytes they are of. */
export interface FoundSums {
  readonly sums: Uint32Array
  readonly bytes: number
  /** Of the whole file, with its last piece; else null. */
  readonly sha256: string | null
}

/** What was found, or why it cannot be. */
export type TaskResult = FoundSums | { readonly refused: string }

/** The file whose pieces come to this thread. */
let whole = new WholeFile('')

export default function hashPiece(task: Task): TaskResult {
  try {
    return hashed(task)
  } catch (error) {
    // Only its message outlives the way between threads.
    if (isDeviceError(error)) return { refused: error.message }
    throw error
  }
}

function hashed({ path, spans, stop, whole: wanted }: Task): FoundSums {
  if (wanted?.isFirst) whole = new WholeFile(path)
  const sums: number[] = []
  let read = 0
  let index = 0
  for (; index < spans.length && Atomics.load(stop, 0) === 0; index += 2) {
    const [offset = 0, bytes = 0] = spans.subarray(index, index + 2)
    const found = new Uint32Array(Math.ceil(bytes / BLOCK_BYTES))
    if (wanted === null) hashExtent(path, offset, bytes, found)
    else whole.take(offset, bytes, found)
    sums.push(...found)
    read += bytes
  }
  const isWhole = wanted?.isLast === true && index >= spans.length
  const sha256 = isWhole ? whole.end(wanted.sizeBytes) : null
  return { sums: Uint32Array.from(sums), bytes: read, sha256 }
}
