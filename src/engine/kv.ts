// The KV blocks of the device, handed out by number. A sequence takes the blocks it may ever need
// before its first token, so that no step can run out of them half-way.

/** Tokens of one block: small enough that a short chat wastes little, large enough to list cheaply. */
export const kvBlockTokens = 32

export function blocksFor(tokens: number): number {
  return Math.ceil(tokens / kvBlockTokens)
}

export class KvBlocks {
  readonly #free: number[]

  constructor(count: number) {
    // Popped from the end: block 0 is used first, again and again, and stays touched.
    this.#free = Array.from({ length: count }, (_, index) => count - 1 - index)
  }

  get free(): number {
    return this.#free.length
  }

  /** Takes `count` blocks, or none and returns null when there are fewer. */
  take(count: number): number[] | null {
    if (count > this.#free.length) return null
    return this.#free.splice(this.#free.length - count).reverse()
  }

  give(blocks: readonly number[]): void {
    for (let index = blocks.length - 1; index >= 0; index -= 1) this.#free.push(blocks[index] ?? 0)
  }
}
