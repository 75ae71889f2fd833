// Which expert is where. Integers in, integers out: it never sees native, so the same code serves a
// live device, a replayed trace and injected faults. This is what the engine asks; with every expert
// mapped in its checkpoint file there is nothing to decide (MappedCache, here), a budget over maps is
// advice (advised.ts), and slots in memory are where the decisions are (slotcache.ts, then residents.ts
// for who stays, policy.ts for what a policy is).
import { increase, type LayerCounts } from './counts.js'
import { expertOf, type Place, placeOf, Tier } from './place.js'
import { UseField } from './records.js'

/** For one layer: where each wanted expert lies (`nowhere` if it must wait), and what to load. */
export interface Plan {
  readonly places: Int32Array
  readonly orders: Int32Array
}

export interface Cache {
  /** What layers routed to since the last call, in the order of time: records [UseField.count]. */
  used(records: Int32Array): void
  /** What became of orders, and which slots may be used now: records [kind, expert, to, code]. */
  settle(events: Int32Array): void
  /**
   * Places for the wanted experts of a MoE layer (indices within the layer, rising), in a step of so
   * many tokens. Its orders may also be for layers that come next.
   */
  place(moeLayer: number, wanted: Int32Array, stepTokens: number): Plan
}

const noOrders = new Int32Array(0)

/**
 * Every expert has its place in the map of its file from the start. A hit is an expert whose pages lay
 * in memory when its layer routed, as far as the system tells; where it does not, nothing is counted.
 */
export class MappedCache implements Cache {
  readonly #experts: number
  readonly #places: Int32Array

  readonly #counts: LayerCounts

  constructor(expertsPerLayer: number, counts: LayerCounts) {
    this.#experts = expertsPerLayer
    this.#counts = counts
    this.#places = new Int32Array(expertsPerLayer)
  }

  used(records: Int32Array): void {
    const { requests, hits, misses } = this.#counts
    for (let at = 0; at < records.length; at += UseField.count) {
      const resident = records[at + UseField.resident] ?? -1
      if (resident < 0) continue
      const moeLayer = Math.floor((records[at + UseField.expert] ?? 0) / this.#experts)
      increase(requests, moeLayer)
      increase(resident === 1 ? hits : misses, moeLayer)
    }
  }

  settle(): void {}

  place(moeLayer: number, wanted: Int32Array): Plan {
    for (const [at, index] of wanted.entries()) this.#places[at] = this.#home(moeLayer, index)
    return { places: this.#places.subarray(0, wanted.length), orders: noOrders }
  }

  #home(moeLayer: number, index: number): Place {
    return placeOf(Tier.map, expertOf(moeLayer, index, this.#experts))
  }
}
