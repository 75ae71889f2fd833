// Mapped experts with a budget: the budget is advice to the system. A ghost, a cache of numbers only,
// decides which experts would have slots; what it would load the system is told to read, what it would
// evict the system is told it may drop. Every expert has its place in the map all the while, so what
// is computed does not depend on any of this, and whether the system obeyed only a probe can tell:
// hits are counted as of any mapped expert, not as the ghost sees them. What may surprise: advice is
// given at `place`, so the device must stop at each layer (lockstep).
import { type Cache, MappedCache, type Plan } from './cache.js'
import { type LayerCounts, newLayerCounts } from './counts.js'
import { type Expert, nowhere, placeOf, slotOf, Tier } from './place.js'
import type { CacheShape, Policy } from './policy.js'
import { EventField, EventKind, OrderField, Orders, Urgency } from './records.js'
import { SlotCache } from './slotcache.js'

export class AdvisedCache implements Cache {
  readonly #mapped: MappedCache
  readonly #ghost: SlotCache
  /** [ghost slot] its expert, or -1 */
  readonly #expertIn: Int32Array
  readonly #advice = new Orders()
  readonly #event = new Int32Array(EventField.count)

  constructor(shape: CacheShape, policy: Policy, counts: LayerCounts) {
    const { evictions } = counts
    this.#mapped = new MappedCache(shape.experts, counts)
    this.#ghost = new SlotCache(shape, policy, { ...newLayerCounts(shape.moeLayers), evictions })
    this.#expertIn = new Int32Array(shape.slots).fill(-1)
    for (let slot = 0; slot < shape.slots; slot += 1) this.#tell(EventKind.touched, -1, slot)
  }

  used(records: Int32Array): void {
    this.#mapped.used(records)
    this.#ghost.used(records)
  }

  settle(): void {}

  place(moeLayer: number, wanted: Int32Array, stepTokens: number): Plan {
    this.#advice.clear()
    for (let left = wanted; left.length > 0; ) {
      const plan = this.#ghost.place(moeLayer, left, stepTokens)
      const orders = plan.orders.slice()
      const isWaiting = plan.places.map((place) => (place === nowhere ? 1 : 0))
      this.#pass(orders)
      left = left.filter((_, at) => isWaiting[at] === 1)
    }
    return { places: this.#mapped.place(moeLayer, wanted).places, orders: this.#advice.records }
  }

  /** What the ghost orders arrives at once, and becomes advice. */
  #pass(orders: Int32Array): void {
    for (let at = 0; at < orders.length; at += OrderField.count) {
      const expert = (orders[at + OrderField.expert] ?? -1) as Expert
      const slot = slotOf(orders[at + OrderField.to] ?? 0)
      const evicted = (this.#expertIn[slot] ?? -1) as Expert
      if (evicted >= 0) {
        this.#advice.add(evicted, placeOf(Tier.map, evicted), nowhere, Urgency.cancel)
      }
      this.#advice.load(expert, placeOf(Tier.map, expert), Urgency.demand)
      this.#expertIn[slot] = expert
      this.#tell(EventKind.arrived, expert, slot)
    }
  }

  #tell(kind: number, expert: number, slot: number): void {
    this.#event[EventField.kind] = kind
    this.#event[EventField.expert] = expert
    this.#event[EventField.to] = placeOf(Tier.ram, slot)
    this.#ghost.settle(this.#event)
  }
}
