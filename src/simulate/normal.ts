// Random numbers of the standard normal distribution, fast and repeatable; not for secrets. They are
// picked from a table of 65,536 that were drawn once by the polar method: a generated trace takes a
// hundred thousand of them a token.

const tableSize = 2 ** 16
let table: Float64Array | undefined

export class Normal {
  /** Neighbouring seeds shall give numbers that have nothing to do with each other. */
  readonly #key: number
  readonly #table: Float64Array
  #count = 0

  constructor(seed: number) {
    this.#key = mixed(Math.imul(seed, 0x9e3779b1) ^ Math.floor(seed / 2 ** 32), 0x6d2b79f5)
    table ??= drawTable()
    this.#table = table
  }

  /** Evenly from 0 to below 1: a counter, well mixed with the key. */
  uniform(): number {
    this.#count = (this.#count + 1) >>> 0
    return mixed(this.#count, this.#key) / 2 ** 32
  }

  next(): number {
    this.#count = (this.#count + 1) >>> 0
    return this.#table[mixed(this.#count, this.#key) >>> 16] ?? 0
  }
}

/** 32 bits that each bit of both words changes about half of. */
function mixed(word: number, key: number): number {
  let bits = Math.imul(word, 0x9e3779b1) ^ key
  bits = Math.imul(bits ^ (bits >>> 16), 0x85ebca6b) + key
  bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2ae35)
  return (bits ^ (bits >>> 16)) >>> 0
}

function drawTable(): Float64Array {
  const drawn = new Float64Array(tableSize)
  let word = 0
  const uniform = () => (2 * mixed(++word, 0x51ed270b)) / 2 ** 32 - 1
  for (let at = 0; at < tableSize; ) {
    const [x, y] = [uniform(), uniform()]
    const square = x * x + y * y
    if (square >= 1 || square === 0) continue
    const scale = Math.sqrt((-2 * Math.log(square)) / square)
    drawn[at] = x * scale
    drawn[at + 1] = y * scale
    at += 2
  }
  return drawn
}
