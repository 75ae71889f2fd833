/**
 * Random numbers for tests: seeded, so that a failure can be repeated. Must not know any test.
 * The generator is mulberry32, which is small and good enough for making inputs.
 */

/** A source of numbers in [0, 1), the same ones for the same seed. */
export function randomFrom(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** One entry of a list that is not empty. */
export function pick<Item>(random: () => number, items: readonly Item[]): Item {
  const item = items[Math.floor(random() * items.length)]
  if (item === undefined) throw new RangeError('nothing to pick from')
  return item
}

/** Text of up to `pieces` awkward pieces: scripts, emoji, joiners, blanks, tags, control characters. */
export function awkwardText(random: () => number, pieces: number): string {
  const count = Math.floor(random() * (pieces + 1))
  return Array.from({ length: count }, () =>
    random() < 0.7 ? pick(random, AWKWARD) : String.fromCodePoint(scalarValue(random)),
  ).join('')
}

const AWKWARD = [
  "'s", "'LL", "don't", ' ', '   ', '\n', '\r\n', '\n\n \n', '\t', '\u00a0', '\u3000', '\ufeff',
  '123', '\u0663', '\u00bd', 'e\u0301', 'naïve', '東京', '🎉', '👨\u200d👩\u200d👧', '\u0000',
  '\u2028', '!!\n', '<think>', '</think>', '<|role_end|>', '<|role_end', 'Hello', ' world', 'int x;',
] // biome-ignore format: one entry a line would hide the list

/** A code point that is no surrogate. */
function scalarValue(random: () => number): number {
  const value = Math.floor(random() * (0x110000 - 0x800))
  return value < 0xd800 ? value : value + 0x800
}
