// How the blocks of a file are cut into pieces for several threads to read: no piece is so large that
// a single huge file would leave threads idle, and none so small that handing it over would show. A
// piece is of consecutive blocks, because that is how a journal notes them. It touches no disk.
import { BLOCK_BYTES, firstBlocks } from './manifestfile.js'

export interface Piece {
  readonly firstBlock: number
  /** Offset and bytes of each stretch; all but the last of an extent are of whole blocks. */
  readonly spans: Float64Array
}

/** What one call into native reads: so long must a person wait who wants to stop. */
export const SPAN_BLOCKS = 16
/** What is handed to a thread at once; so much of its work is lost when it is killed. */
export const PIECE_BLOCKS = 32
const PIECE_BYTES = PIECE_BLOCKS * BLOCK_BYTES
/** Tensors can be tiny. */
export const PIECE_SPANS = 256

/** Bytes of pairs of offset and bytes. */
export function bytesIn(pairs: Float64Array): number {
  return pairs.reduce((sum, value, index) => (index % 2 === 1 ? sum + value : sum), 0)
}

/** All blocks that are not known (0 in `known`), each in one piece. */
export function cutPieces(extents: Float64Array, known: Uint8Array): Piece[] {
  const pieces: Piece[] = []
  let spans: number[] = []
  let [firstBlock, nextBlock, bytes] = [0, 0, 0]
  const end = () => {
    if (bytes > 0) pieces.push({ firstBlock, spans: Float64Array.from(spans) })
    spans = []
    bytes = 0
  }
  for (const span of missingSpans(extents, known)) {
    const isFull = bytes + span.bytes > PIECE_BYTES || spans.length >= 2 * PIECE_SPANS
    if (isFull || span.block !== nextBlock) end()
    if (bytes === 0) firstBlock = span.block
    spans.push(span.offset, span.bytes)
    bytes += span.bytes
    nextBlock = span.block + span.blocks
  }
  end()
  return pieces
}

interface Span {
  readonly block: number
  readonly blocks: number
  readonly offset: number
  readonly bytes: number
}

/** Stretches of missing blocks; none reaches past its extent. */
function* missingSpans(extents: Float64Array, known: Uint8Array): Generator<Span> {
  const first = firstBlocks(extents)
  for (let extent = 0; 2 * extent < extents.length; extent += 1) {
    const [offset = 0, bytes = 0] = extents.subarray(2 * extent, 2 * extent + 2)
    const [begin = 0, end = 0] = first.subarray(extent, extent + 2)
    for (let block = begin; block < end; ) {
      let next = block
      while (next < end && next - block < SPAN_BLOCKS && known[next] === 0) next += 1
      if (next > block) {
        const start = (block - begin) * BLOCK_BYTES
        const stop = Math.min(bytes, (next - begin) * BLOCK_BYTES)
        yield { block, blocks: next - block, offset: offset + start, bytes: stop - start }
      }
      block = Math.max(next, block + 1)
    }
  }
}
