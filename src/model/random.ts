/**
 * Random weights, fast and repeatable: a stream of bits for a seed and a name, and numbers made of it
 * as they are stored. Normal numbers come from a table of 65,536 equally likely values, which is as
 * fine as 8 and 16 bits can tell; none of them is zero. It must not know any model.
 */
import { createHash } from 'node:crypto'

/** Marsaglia's xorshift with 128 bits of state; not for secrets. */
export class Stream {
  readonly #state: Uint32Array

  constructor(seed: number, name: string) {
    const digest = createHash('sha256').update(`${seed} ${name}`).digest()
    this.#state = Uint32Array.from({ length: 4 }, (_, word) => digest.readUInt32LE(4 * word))
  }

  /** Fills with random bits. */
  fill(words: Uint32Array): void {
    let [x = 0, y = 0, z = 0, w = 0] = this.#state
    for (let index = 0; index < words.length; index += 1) {
      const mixed = x ^ (x << 11)
      x = y
      y = z
      z = w
      w = w ^ (w >>> 19) ^ mixed ^ (mixed >>> 8)
      words[index] = w
    }
    this.#state.set([x, y, z, w])
  }
}

/** The standard deviation of the values that `normalCodes` encodes; the largest is about 4.3 times that. */
export const codeSpread = 100

/** E4M3 codes of normal numbers. */
export function normalCodes(count: number, stream: Stream): Iterable<Uint8Array> {
  codeTable ??= Uint8Array.from(standardNormal(), (value) => codeOf(value * codeSpread))
  return looked(codeTable, count, stream)
}

/** BF16 numbers, normal around zero. */
export function normalBfloat16(
  spread: number,
  count: number,
  stream: Stream,
): Iterable<Uint8Array> {
  let table = bfloat16Tables.get(spread)
  if (table === undefined) {
    table = bfloat16Of(standardNormal().map((value) => value * spread))
    bfloat16Tables.set(spread, table)
  }
  return looked(table, count, stream)
}

/** Evenly spread over centre plus and minus spread. */
export function around(
  centre: number,
  spread: number,
  count: number,
  stream: Stream,
): Float32Array {
  const words = new Uint32Array(count)
  stream.fill(words)
  const values = new Float32Array(count)
  for (let index = 0; index < count; index += 1) {
    values[index] = centre + spread * (((words[index] ?? 0) + 0.5) / 2 ** 31 - 1)
  }
  return values
}

/** The nearest BF16 numbers, ties to even. */
export function bfloat16Of(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  const rounded = new Uint16Array(bits.length)
  for (let index = 0; index < bits.length; index += 1) {
    const word = bits[index] ?? 0
    rounded[index] = (word + 0x7fff + ((word >>> 16) & 1)) >>> 16
  }
  return rounded
}

let codeTable: Uint8Array | undefined
const bfloat16Tables = new Map<number, Uint16Array>()
let normal: Float32Array | undefined

const TABLE_SIZE = 2 ** 16
const PIECE_WORDS = 2 ** 18

/** As many entries of the table as asked for, each with 16 random bits, in pieces that share their memory. */
function* looked(
  table: Uint8Array | Uint16Array,
  count: number,
  stream: Stream,
): Iterable<Uint8Array> {
  const words = new Uint32Array(Math.min(PIECE_WORDS, Math.ceil(count / 2)))
  const piece = new Uint8Array(words.length * 2 * table.BYTES_PER_ELEMENT)
  for (let left = count * table.BYTES_PER_ELEMENT; left > 0; left -= piece.length) {
    stream.fill(words)
    if (table instanceof Uint8Array) lookBytes(table, words, new Uint16Array(piece.buffer))
    else lookHalves(table, words, new Uint32Array(piece.buffer))
    yield piece.subarray(0, left)
  }
}

// Two loops, because one over both kinds of table would run at half the speed.

function lookBytes(table: Uint8Array, words: Uint32Array, pairs: Uint16Array): void {
  for (let index = 0; index < words.length; index += 1) {
    const word = words[index] ?? 0
    pairs[index] = (table[word & 0xffff] ?? 0) | ((table[word >>> 16] ?? 0) << 8)
  }
}

function lookHalves(table: Uint16Array, words: Uint32Array, pairs: Uint32Array): void {
  for (let index = 0; index < words.length; index += 1) {
    const word = words[index] ?? 0
    pairs[index] = (table[word & 0xffff] ?? 0) | ((table[word >>> 16] ?? 0) << 16)
  }
}

/** 65,536 equally likely values of the standard normal distribution, rising. */
function standardNormal(): Float32Array {
  normal ??= makeNormal()
  return normal
}

/** Walks along the bell curve, noting where its area passes each mark; the lower half mirrors the upper. */
function makeNormal(): Float32Array {
  const values = new Float32Array(TABLE_SIZE)
  const step = 2e-5
  let area = 0
  let x = 0
  for (let index = 0; index < TABLE_SIZE / 2; index += 1) {
    const mark = (index + 0.5) / TABLE_SIZE
    while (area < mark) {
      const middle = x + step / 2
      area += (step * Math.exp((-middle * middle) / 2)) / Math.sqrt(2 * Math.PI)
      x += step
    }
    values[TABLE_SIZE / 2 + index] = x
    values[TABLE_SIZE / 2 - 1 - index] = -x
  }
  return values
}

/** The E4M3 code nearest to a number, but never a zero. */
function codeOf(value: number): number {
  const size = Math.abs(value)
  let code = 1
  while (code < 0x7e && size > ((codeSizes[code] ?? 0) + (codeSizes[code + 1] ?? 0)) / 2) code += 1
  return value < 0 ? code + 128 : code
}

/** What the positive E4M3 codes stand for: 4 bits of exponent with bias 7, 3 bits of fraction. */
const codeSizes = Float64Array.from({ length: 127 }, (_, code) => {
  const exponent = code >> 3
  const fraction = code & 7
  return exponent === 0 ? fraction * 2 ** -9 : (8 + fraction) * 2 ** (exponent - 10)
})
