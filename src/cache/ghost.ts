// A slot cache of numbers only, whose loads land at once: what a cache would do, with no device, no
// time and no failure in it. Advice over maps and simulations go by it.
import type { LayerCounts } from './counts.js'
import { nowhere, placeOf, slotOf, Tier } from './place.js'
import type { CacheShape, Policy } from './policy.js'
import { EventField, EventKind, OrderField } from './records.js'
import { SlotCache } from './slotcache.js'

export class GhostCache {
  readonly #cache: SlotCache
  readonly #event = new Int32Array(EventField.count)

  constructor(shape: CacheShape, policy: Policy, counts: LayerCounts) {
    this.#cache = new SlotCache(shape, policy, counts)
    for (let slot = 0; slot < shape.slots; slot += 1) this.#tell(EventKind.touched, -1, slot)
  }

  /** As Cache.used. */
  used(records: Int32Array): void {
    this.#cache.used(records)
  }

  /** Places all of the layer's wanted experts, wave after wave; `onLoad` hears of every load. */
  place(
    moeLayer: number,
    wanted: Int32Array,
    stepTokens: number,
    onLoad: (expert: number, slot: number) => void = () => {},
  ): void {
    for (let left = wanted; left.length > 0; ) {
      const { places, orders } = this.#cache.place(moeLayer, left, stepTokens)
      const isWaiting = places.map((place) => (place === nowhere ? 1 : 0))
      this.#land(orders.slice(), onLoad)
      left = left.filter((_, at) => isWaiting[at] === 1)
    }
  }

  #land(orders: Int32Array, onLoad: (expert: number, slot: number) => void): void {
    for (let at = 0; at < orders.length; at += OrderField.count) {
      const expert = orders[at + OrderField.expert] ?? -1
      const slot = slotOf(orders[at + OrderField.to] ?? 0)
      onLoad(expert, slot)
      this.#tell(EventKind.arrived, expert, slot)
    }
  }

  #tell(kind: number, expert: number, slot: number): void {
    this.#event[EventField.kind] = kind
    this.#event[EventField.expert] = expert
    this.#event[EventField.to] = placeOf(Tier.ram, slot)
    this.#cache.settle(this.#event)
  }
}
