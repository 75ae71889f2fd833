/**
 * Checkpoints changed at random, for a bounded count and time: headers, configs and indexes with
 * flipped bits, cut ends, other numbers, swapped keys and absurd lengths. Whatever comes, the result
 * is a checkpoint whose every matrix and scale lies inside its file, or a ModelError of one line.
 */
import fs from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import type { Dtype } from '../src/model/architecture.js'
import { type Checkpoint, type Matrix, type Mlp, openCheckpoint } from '../src/model/checkpoint.js'
import { ModelError } from '../src/model/error.js'
import { Dice } from './dice.js'
import { headerBytes, hollowOf, inTemporaryFolder, writeHollow } from './hollow.js'
import { edge, ringTiny } from './paths.js'

const ROUNDS = 400
const TIME_LIMIT_MS = 2500

/** A file that is mutated: its bytes up to the body, and the whole size. */
interface Target {
  path: string
  head: Buffer
  sizeBytes: number
}

const numbers = [
  '-1',
  '0',
  '1',
  '1.5',
  '127',
  '128',
  '2147483648',
  '4294967296',
  '9007199254740991',
  '9007199254740993',
  '18446744073709551615',
  '1e30',
  '1e999',
  '-0',
  'null',
  '"8"',
  '[]',
  '{}',
]

const mutations: readonly ((head: Buffer, dice: Dice) => Buffer)[] = [
  function flipBits(head, dice) {
    const changed = Buffer.from(head)
    for (let count = 1 + dice.below(4); count > 0; count -= 1) {
      const at = dice.below(changed.length)
      changed[at] = (changed[at] ?? 0) ^ (1 << dice.below(8))
    }
    return changed
  },
  function cutEnd(head, dice) {
    return head.subarray(0, dice.below(head.length))
  },
  function cutMiddle(head, dice) {
    const at = dice.below(head.length)
    return Buffer.concat([head.subarray(0, at), head.subarray(at + 1 + dice.below(40))])
  },
  function replaceNumber(head, dice) {
    return replaceOne(head, /-?\d+(\.\d+)?(e-?\d+)?/g, () => dice.pick(numbers), dice)
  },
  function repeatDigit(head, dice) {
    return replaceOne(head, /\d+/g, (number) => number + dice.below(10), dice)
  },
  function swapWords(head, dice) {
    const words = head.toString('latin1').match(/"[^"]*"/g) ?? ['""']
    return replaceOne(head, /"[^"]*"/g, () => dice.pick(words), dice)
  },
  function hugeLength(head, dice) {
    const changed = Buffer.from(head)
    for (let at = dice.below(8); at < 8 && at < changed.length; at += 1) {
      changed[at] = dice.below(256)
    }
    return changed
  },
]

function replaceOne(
  head: Buffer,
  pattern: RegExp,
  replacement: (found: string) => string,
  dice: Dice,
): Buffer {
  const text = head.toString('latin1')
  const found = [...text.matchAll(pattern)]
  if (found.length === 0) return head
  const match = dice.pick(found)
  const end = match.index + match[0].length
  const changed = text.slice(0, match.index) + replacement(match[0]) + text.slice(end)
  return Buffer.from(changed, 'latin1')
}

const dtypeBytes: Record<Dtype, number> = { F8_E4M3: 1, BF16: 2, F32: 4 }

function* matricesOf({ embedding, finalNorm, head, layers }: Checkpoint): Iterable<Matrix> {
  yield* [embedding, finalNorm, head]
  for (const layer of layers) {
    const { experts, mlp, ...single } = layer
    for (const matrix of Object.values(single)) if (matrix !== null) yield matrix
    const mlps: Mlp[] = mlp === null ? [...experts] : [mlp, ...experts]
    for (const { gate, up, down } of mlps) yield* [gate, up, down]
  }
}

/** The first matrix or scale that is not inside its file, or null. */
function findOutside(checkpoint: Checkpoint): Matrix | null {
  const isInside = (file: number, offset: number, bytes: number) => {
    const size = checkpoint.files[file]?.sizeBytes ?? -1
    return Number.isSafeInteger(offset) && offset >= 0 && bytes > 0 && offset + bytes <= size
  }
  for (const matrix of matricesOf(checkpoint)) {
    const { file, offset, rows, columns, dtype, scale } = matrix
    if (!isInside(file, offset, rows * columns * dtypeBytes[dtype])) return matrix
    if ((scale === null) === (dtype === 'F8_E4M3')) return matrix
    if (scale === null) continue
    const scaleBytes = scale.rows * scale.columns * dtypeBytes[scale.dtype]
    if (!isInside(scale.file, scale.offset, scaleBytes)) return matrix
    if (scale.rows * scale.blockRows < rows || scale.columns * scale.blockColumns < columns) {
      return matrix
    }
  }
  return null
}

/** Opens and judges; returns whether the checkpoint opened. */
function judge(folder: string, options: { ropeScaling?: { factor: number } }): boolean {
  try {
    expect(findOutside(openCheckpoint(folder, options))).toBeNull()
    return true
  } catch (error) {
    if (!(error instanceof ModelError)) throw error
    expect(error.message).toMatch(/^[^\p{Cc}\u2028\u2029]{1,399}$/u)
    return false
  }
}

function targetsIn(folder: string): Target[] {
  return fs.readdirSync(folder).map((file) => {
    const path = join(folder, file)
    const head = file.endsWith('.safetensors') ? headerWithLength(path) : fs.readFileSync(path)
    return { path, head, sizeBytes: fs.statSync(path).size }
  })
}

function headerWithLength(path: string): Buffer {
  return fs.readFileSync(path).subarray(0, 8 + headerBytes(path).length)
}

/**
 * Writes a changed head over the file. A changed header usually keeps a true length, or the parser
 * behind the length would hardly ever be reached.
 */
function write({ path, head, sizeBytes }: Target, changed: Buffer, keepsLength: boolean): void {
  const isShard = path.endsWith('.safetensors')
  const bytes = Buffer.from(changed)
  if (isShard && keepsLength && bytes.length > 8) {
    bytes.writeBigUInt64LE(BigInt(bytes.length - 8))
  }
  fs.writeFileSync(path, bytes)
  if (isShard) fs.truncateSync(path, bytes.length + sizeBytes - head.length)
}

function fuzz(source: string, seed: number): { opened: number; refused: number } {
  const dice = new Dice(seed)
  const deadline = performance.now() + TIME_LIMIT_MS
  return inTemporaryFolder((folder) => {
    writeHollow(hollowOf(source), folder)
    const targets = targetsIn(folder)
    const tally = { opened: 0, refused: 0 }
    for (let round = 0; round < ROUNDS && performance.now() < deadline; round += 1) {
      const target = dice.pick(targets)
      const mutate = dice.pick(mutations)
      write(target, mutate(target.head, dice), dice.below(4) > 0)
      const options = dice.below(8) === 0 ? { ropeScaling: { factor: dice.below(9) - 1 } } : {}
      if (judge(folder, options)) tally.opened += 1
      else tally.refused += 1
      write(target, target.head, false)
    }
    expect(judge(folder, {})).toBe(true)
    return tally
  })
}

describe('a changed checkpoint opens within its files or is refused in one line', () => {
  it.each([
    ['ring-tiny', ringTiny, 11],
    ['block FP8 with partial blocks', edge('partial-fp8'), 12],
    ['per-channel FP8', edge('channel-fp8'), 13],
  ])('%s', (_, source, seed) => {
    const { opened, refused } = fuzz(source, seed)
    // A fuzzer that only ever opens, or only ever fails, has lost its way; a slow machine that cuts
    // it short has not.
    expect((opened > 0 && refused > 0) || opened + refused < 50).toBe(true)
  })
})
