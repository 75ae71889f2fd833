// Mapped experts with a budget: the budget is advice to the system. A ghost, a cache of numbers only,
// decides which experts would have slots; what it would load the system is told to read, what it would
// evict the system is told it may drop. Every expert has its place in the map all the while, so what
// is computed does not depend on any of this, and whether the system obeyed only a probe can tell:
// hits are counted as of any mapped expert, not as the ghost sees them. What may surprise: advice is
// given at `place`, so the device must stop at each layer (lockstep).
import { type Cache, MappedCache, type Plan } from './cache.js'
import { type LayerCounts, newLayerCounts } from './counts.js'
import { GhostCache } from './ghost.js'
import { type Expert, nowhere, placeOf, Tier } from './place.js'
import type { CacheShape, Policy } from './policy.js'
import { Orders, Urgency } from './records.js'

export class AdvisedCache implements Cache {
  readonly #mapped: MappedCache
  readonly #ghost: GhostCache
  /** [ghost slot] its expert, or -1 */
  readonly #expertIn: Int32Array
  readonly #advice = new Orders()

  constructor(shape: CacheShape, policy: Policy, counts: LayerCounts) {
    const { evictions } = counts
    this.#mapped = new MappedCache(shape.experts, counts)
    this.#ghost = new GhostCache(shape, policy, { ...newLayerCounts(shape.moeLayers), evictions })
    this.#expertIn = new Int32Array(shape.slots).fill(-1)
  }

  used(records: Int32Array): void {
    this.#mapped.used(records)
    this.#ghost.used(records)
  }

  settle(): void {}

  place(moeLayer: number, wanted: Int32Array, stepTokens: number): Plan {
    this.#advice.clear()
    this.#ghost.place(moeLayer, wanted, stepTokens, (expert, slot) =>
      this.#advise(expert as Expert, slot),
    )
    return { places: this.#mapped.place(moeLayer, wanted).places, orders: this.#advice.records }
  }

  /** What the ghost would load will be wanted, what it would give up for that will not. */
  #advise(expert: Expert, slot: number): void {
    const evicted = (this.#expertIn[slot] ?? -1) as Expert
    if (evicted >= 0) {
      this.#advice.add(evicted, placeOf(Tier.map, evicted), nowhere, Urgency.cancel)
    }
    this.#advice.load(expert, placeOf(Tier.map, expert), Urgency.demand)
    this.#expertIn[slot] = expert
  }
}
