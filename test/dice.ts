/** Whole numbers from the tests' seeded generator, for tests that change things at random places. */
import { pick, randomFrom } from './random.js'

export class Dice {
  private readonly random: () => number

  constructor(seed: number) {
    this.random = randomFrom(seed)
  }

  /** From 0 to `limit` - 1. */
  below(limit: number): number {
    return Math.floor(this.random() * limit)
  }

  pick<Item>(items: readonly Item[]): Item {
    return pick(this.random, items)
  }
}
