// The policy of sweeps, and `--policy sweep`: a step of many tokens wants nearly every expert of a
// layer once, in rising index, and recency would give up each one just before it is wanted again. So
// what is used most stays, sweep after sweep, and the others stream through the few slots that no
// layer's floor claims. What the policy of decode has pinned stays pinned.
import { Frequency } from './frequency.js'
import type { Expert } from './place.js'
import type { CacheShape, Policy } from './policy.js'

/** Slower to forget than decode: what a layer wants of a text changes less than of a token. */
const decay = 0.98

export class SweepPolicy implements Policy {
  readonly name = 'sweep'
  readonly #frequency: Frequency
  readonly #decode: Policy | null

  constructor({ moeLayers, experts }: CacheShape, decode: Policy | null = null) {
    this.#frequency = new Frequency(moeLayers, experts, decay)
    this.#decode = decode
  }

  used(moeLayer: number, records: Int32Array, count: number): void {
    this.#frequency.add(moeLayer, records, count)
  }

  entered(): void {}

  left(): void {}

  victim(moeLayer: number, mayLeave: (expert: Expert) => boolean): number {
    const decode = this.#decode
    if (decode?.isPinned === undefined) return this.#frequency.least(moeLayer, mayLeave)
    const unpinned = (expert: Expert) => mayLeave(expert) && !decode.isPinned?.(expert)
    const victim = this.#frequency.least(moeLayer, unpinned)
    return victim >= 0 ? victim : this.#frequency.least(moeLayer, mayLeave)
  }
}
