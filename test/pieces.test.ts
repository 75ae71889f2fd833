// How a file's blocks are cut for several threads: every missing block once, none too large or small.
import { describe, expect, it } from 'vitest'
import { firstBlocks } from '../src/engine/manifestfile.js'
import {
  bytesIn,
  cutPieces,
  PIECE_BLOCKS,
  PIECE_SPANS,
  type Piece,
  SPAN_BLOCKS,
} from '../src/engine/pieces.js'
import { randomFrom } from './random.js'

const MIB = 2 ** 20

/** The blocks of a piece by number, each with the place and bytes that it would be made of. */
function blocksOf({ firstBlock, spans }: Piece): Map<number, string> {
  const blocks = new Map<number, string>()
  for (let index = 0; index < spans.length; index += 2) {
    const [offset = 0, bytes = 0] = spans.subarray(index, index + 2)
    for (let start = 0; start < bytes; start += MIB) {
      const place = `${offset + start}+${Math.min(MIB, bytes - start)}`
      blocks.set(firstBlock + blocks.size, place)
    }
  }
  return blocks
}

/** The same of the extents themselves. */
function wantedBlocks(extents: Float64Array): string[] {
  const wanted: string[] = []
  for (let index = 0; index < extents.length; index += 2) {
    const [offset = 0, bytes = 0] = extents.subarray(index, index + 2)
    for (let start = 0; start < bytes; start += MIB) {
      wanted.push(`${offset + start}+${Math.min(MIB, bytes - start)}`)
    }
  }
  return wanted
}

function nothingKnown(extents: Float64Array): Uint8Array {
  return new Uint8Array(firstBlocks(extents).at(-1) ?? 0)
}

describe('pieces', () => {
  it('of one huge tensor are enough for many threads', () => {
    const extents = Float64Array.of(0, 900, 900, 4096 * MIB)
    const pieces = cutPieces(extents, nothingKnown(extents))
    expect(pieces.length).toBeGreaterThanOrEqual(4096 / PIECE_BLOCKS)
    for (const { spans } of pieces) {
      expect(bytesIn(spans)).toBeLessThanOrEqual(PIECE_BLOCKS * MIB)
      expect(Math.max(...spans.filter((_, index) => index % 2 === 1))).toBeLessThanOrEqual(
        SPAN_BLOCKS * MIB,
      )
    }
  })

  it('of many tiny tensors are few, and each of a bounded number', () => {
    const extents = Float64Array.from({ length: 2000 }, (_, index) =>
      index % 2 === 0 ? index * 50 : 100,
    )
    const pieces = cutPieces(extents, nothingKnown(extents))
    expect(pieces.length).toBe(Math.ceil(1000 / PIECE_SPANS))
  })

  it('hold every missing block once, at its place, and no other', () => {
    const random = randomFrom(20261124)
    for (let round = 0; round < 200; round += 1) {
      const values: number[] = []
      let place = 0
      for (let extent = 0; extent < 12; extent += 1) {
        const bytes = 1 + Math.floor(random() ** 3 * 80 * MIB)
        values.push(place, bytes)
        place += bytes + (random() < 0.5 ? 0 : 17)
      }
      const extents = Float64Array.from(values)
      const known = nothingKnown(extents)
      const share = random()
      for (let block = 0; block < known.length; block += 1) {
        if (random() < share * share) known[block] = 1
      }
      const found = cutPieces(extents, known).flatMap((piece) => [...blocksOf(piece)])
      const wanted = [...wantedBlocks(extents).entries()].filter(([block]) => known[block] === 0)
      expect(found).toEqual(wanted)
    }
  })

  it('are none where all is known', () => {
    const extents = Float64Array.of(0, 100, 100, 5 * MIB)
    expect(cutPieces(extents, nothingKnown(extents).fill(1))).toEqual([])
  })
})
