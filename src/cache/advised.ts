// Mapped experts with a budget: the budget is advice to the system. A ghost, a cache of numbers only,
// decides which experts would have slots; what it would load the system is told to read, what it would
// evict the system is told it may drop. Every expert has its place in the map all the while, so what
// is computed does not depend on any of this, and whether the system obeyed only a probe can tell.
// What may surprise: a device over maps says nothing of what layers routed to, so the layers are taken
// from `place`, and the device must stop at each (lockstep).
import { type Cache, MappedCache, type Plan } from './cache.js'
import type { LayerCounts } from './counts.js'
import { type Expert, expertOf, nowhere, placeOf, slotOf, Tier } from './place.js'
import type { CacheShape, Policy } from './policy.js'
import { EventField, EventKind, OrderField, Orders, Urgency, UseField } from './records.js'
import { SlotCache } from './slotcache.js'

export class AdvisedCache implements Cache {
  readonly #shape: CacheShape
  readonly #mapped: MappedCache
  readonly #ghost: SlotCache
  /** [ghost slot] its expert, or -1 */
  readonly #expertIn: Int32Array
  readonly #advice = new Orders()
  readonly #uses: Int32Array
  readonly #event = new Int32Array(EventField.count)

  constructor(shape: CacheShape, policy: Policy, counts: LayerCounts) {
    this.#shape = shape
    this.#mapped = new MappedCache(shape.experts)
    this.#ghost = new SlotCache(shape, policy, counts)
    this.#expertIn = new Int32Array(shape.slots).fill(-1)
    this.#uses = new Int32Array(shape.experts * UseField.count)
    for (let slot = 0; slot < shape.slots; slot += 1) this.#tell(EventKind.touched, -1, slot)
  }

  used(): void {}

  settle(): void {}

  place(moeLayer: number, wanted: Int32Array, stepTokens: number): Plan {
    this.#route(moeLayer, wanted, stepTokens)
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

  /** The ghost hears what the layer wants, every expert for the same share of the tokens. */
  #route(moeLayer: number, wanted: Int32Array, stepTokens: number): void {
    const { experts, topK } = this.#shape
    const tokens = Math.max(1, Math.floor((stepTokens * topK) / wanted.length))
    for (const [at, index] of wanted.entries()) {
      this.#uses[at * UseField.count + UseField.expert] = expertOf(moeLayer, index, experts)
      this.#uses[at * UseField.count + UseField.tokens] = tokens
    }
    this.#ghost.used(this.#uses.subarray(0, wanted.length * UseField.count))
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
