/**
 * The header reader by properties, over random headers: what is valid comes back exactly, and what
 * has been changed either still lies inside the file or is refused in one line. And the windows that
 * it reads through, with the guard around the 32-bit integers of the mapping package.
 */
import fs from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { ModelError } from '../src/model/error.js'
import { parseHeader, readHeader } from '../src/model/safetensors.js'
import { readText, WINDOW_LIMIT, windowOf, withFile } from '../src/model/window.js'
import { Dice } from './dice.js'
import {
  type HollowShard,
  type HollowTensor,
  headerText,
  inTemporaryFolder,
  writeShard,
} from './hollow.js'
import { edge, ringTiny } from './paths.js'

const widths: readonly (readonly [string, number])[] = [
  ['F8_E4M3', 1],
  ['BF16', 2],
  ['F32', 4],
  ['I64', 8],
  ['BOOL', 1],
]

/** A valid header: tensors of random shapes in random order, some empty, with holes between them. */
function randomShard(dice: Dice): HollowShard {
  const entries: [string, HollowTensor][] = []
  let end = 0
  for (let index = dice.below(12); index >= 0; index -= 1) {
    const [dtype, width] = dice.pick(widths)
    const shape = Array.from({ length: dice.below(4) }, () => dice.below(9))
    const begin = end + dice.below(2) * dice.below(100)
    end = begin + shape.reduce((product, size) => product * size, width)
    entries.push([`tensor ${index}`, { dtype, shape, data_offsets: [begin, end] }])
  }
  const isReversed = dice.below(2) === 1
  const tensors = new Map(isReversed ? entries.reverse() : entries)
  return { tensors, bodyBytes: end + dice.below(2) * dice.below(100) }
}

function place(shard: HollowShard) {
  return { name: 'shard', file: 3, bodyStart: 1000, bodyBytes: shard.bodyBytes }
}

describe('a header', () => {
  it('that is valid comes back exactly (200 random ones, seed 1)', () => {
    const dice = new Dice(1)
    for (let round = 0; round < 200; round += 1) {
      const shard = randomShard(dice)
      const expected = [...shard.tensors].map(([name, { dtype, shape, data_offsets }]) => {
        const [begin = 0, end = 0] = data_offsets
        return { name, dtype, shape, file: 3, offset: 1000 + begin, bytes: end - begin }
      })
      expect(parseHeader(headerText(shard), place(shard))).toEqual(expected)
    }
  })

  it('with one changed character is refused or stays inside the file (3,000 times, seed 2)', () => {
    const dice = new Dice(2)
    for (let round = 0; round < 3000; round += 1) {
      const shard = randomShard(dice)
      const text = headerText(shard)
      const at = dice.below(text.length)
      const changed = `${text.slice(0, at)}${dice.pick([...'0123456789-.eE,:"[]{}x '])}${text.slice(at + 1)}`
      expectHarmless(changed, shard)
    }
  })

  it('whose tensors share a byte is refused (200 random ones, seed 3)', () => {
    const dice = new Dice(3)
    for (let round = 0; round < 200; round += 1) {
      const shard = randomShard(dice)
      shard.bodyBytes += 100
      const begin = dice.below(shard.bodyBytes - 9)
      const range = [begin, begin + 8]
      for (const name of ['first', 'second']) {
        shard.tensors.set(name, { dtype: 'I64', shape: [], data_offsets: range })
      }
      expect(() => parseHeader(headerText(shard), place(shard))).toThrow(/bytes of its own/)
    }
  })

  it.each([
    ['a tensor that is a number', '{"a": 5}'],
    ['no dtype', '{"a": {"shape": [1], "data_offsets": [0, 1]}}'],
    ['a shape of text', '{"a": {"dtype": "U8", "shape": "1", "data_offsets": [0, 1]}}'],
    ['a negative size', '{"a": {"dtype": "U8", "shape": [-1, -1], "data_offsets": [0, 1]}}'],
    ['a fractional size', '{"a": {"dtype": "U8", "shape": [0.5, 2], "data_offsets": [0, 1]}}'],
    ['no range', '{"a": {"dtype": "U8", "shape": [1]}}'],
    ['an endless size', '{"a": {"dtype": "U8", "shape": [1e999], "data_offsets": [0, 1]}}'],
  ])('with %s is refused', (_, text) => {
    const read = () => parseHeader(text, { name: 'shard', file: 0, bodyStart: 0, bodyBytes: 8 })
    expect(read).toThrow(ModelError)
    expect(read).toThrow(/^shard: "a": expected /)
  })

  it('may name a tensor __proto__ or anything else', () => {
    const text = '{"__proto__": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}'
    const tensors = parseHeader(text, { name: 'shard', file: 0, bodyStart: 0, bodyBytes: 1 })
    expect(tensors.map((tensor) => tensor.name)).toEqual(['__proto__'])
  })

  it('that is not UTF-8 is refused', () => {
    inTemporaryFolder((folder) => {
      const path = join(folder, 'shard')
      writeShard(path, Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x7d]), 10)
      expect(() => readHeader(path, 0)).toThrow('shard: expected UTF-8 text')
    })
  })

  it('never puts a line break or a control character into a message', () => {
    const name = `a\n\u001b[31m\u2028${'b'.repeat(9999)}`
    const text = JSON.stringify({ [name]: { dtype: 'U8' } })
    try {
      parseHeader(text, { name: 'shard', file: 0, bodyStart: 0, bodyBytes: 0 })
      expect.unreachable()
    } catch (error) {
      expect(error).toBeInstanceOf(ModelError)
      expect(String(error)).toMatch(/^[^\p{Cc}\u2028]{1,400}$/u)
    }
  })
})

/** Refused in one line, or every tensor inside the body and none sharing a byte with another. */
function expectHarmless(text: string, shard: HollowShard): void {
  try {
    const tensors = parseHeader(text, place(shard))
    const ranges = tensors.filter((tensor) => tensor.bytes > 0)
    let end = 1000
    for (const tensor of ranges.sort((first, second) => first.offset - second.offset)) {
      expect(tensor.offset).toBeGreaterThanOrEqual(end)
      end = tensor.offset + tensor.bytes
    }
    expect(end).toBeLessThanOrEqual(1000 + shard.bodyBytes)
  } catch (error) {
    if (!(error instanceof ModelError)) throw error
    expect(error.message).toMatch(/^.{1,399}$/)
  }
}

describe('a window', () => {
  const path = join(ringTiny, 'model-00002-of-00004.safetensors')

  it('holds the bytes of the file at any offset (100 random windows, seed 4)', () => {
    const dice = new Dice(4)
    const whole = fs.readFileSync(path)
    withFile(path, (file) => {
      for (let round = 0; round < 100; round += 1) {
        const offset = dice.below(whole.length)
        const size = 1 + dice.below(Math.min(20_000, whole.length - offset))
        expect(windowOf(file, offset, size).equals(whole.subarray(offset, offset + size))).toBe(
          true,
        )
      }
    })
  })

  it.each([
    [-1, 8],
    [0, 0],
    [0, -1],
    [0.5, 8],
    [0, 1.5],
    [Number.NaN, 8],
    [WINDOW_LIMIT, 8],
    [2 ** 32, 8],
    [0, WINDOW_LIMIT],
    [0, Number.POSITIVE_INFINITY],
  ])('at %d of %d bytes is refused, even of a file that is large enough', (offset, size) => {
    inTemporaryFolder((folder) => {
      const large = join(folder, 'large')
      fs.writeFileSync(large, '')
      fs.truncateSync(large, 2 ** 33)
      withFile(large, (file) => {
        expect(() => windowOf(file, offset, size)).toThrow(RangeError)
      })
    })
  })

  it('that ends behind the file is refused', () => {
    withFile(path, (file) => {
      expect(() => windowOf(file, file.sizeBytes - 4, 8)).toThrow(RangeError)
    })
  })

  it('of text is bounded by the limit that the caller sets', () => {
    expect(readText(join(edge('bf16'), 'generation_config.json'), 62)).toContain('eos_token_id')
    expect(() => readText(join(edge('bf16'), 'generation_config.json'), 61)).toThrow(
      'generation_config.json: expected at most 61 bytes, found 62',
    )
  })
})
