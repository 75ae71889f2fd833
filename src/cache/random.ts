// The policy `random:SEED`: any expert that may leave, for tests: what comes out must not depend on
// what the cache did. The same seed gives the same evictions for the same calls.
import { type Expert, expertOf } from './place.js'
import type { CacheShape, Policy } from './policy.js'

export class RandomPolicy implements Policy {
  readonly name = 'random'
  readonly #experts: number
  #state: number

  constructor({ experts }: CacheShape, seed: number) {
    this.#experts = experts
    this.#state = seed >>> 0
  }

  used(): void {}

  entered(): void {}

  left(): void {}

  victim(moeLayer: number, mayLeave: (expert: Expert) => boolean): number {
    const start = this.#below(this.#experts)
    for (let step = 0; step < this.#experts; step += 1) {
      const expert = expertOf(moeLayer, (start + step) % this.#experts, this.#experts)
      if (mayLeave(expert)) return expert
    }
    return -1
  }

  /** From 0 to limit - 1, by xorshift; a state of 0 would stay 0. */
  #below(limit: number): number {
    let mixed = this.#state === 0 ? 0x9e3779b9 : this.#state
    mixed ^= mixed << 13
    mixed ^= mixed >>> 17
    mixed ^= mixed << 5
    this.#state = mixed >>> 0
    return Math.floor((this.#state / 2 ** 32) * limit)
  }
}
