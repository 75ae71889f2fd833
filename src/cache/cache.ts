// Which expert is where. Integers in, integers out: it never sees native, so the same code serves a
// live device, a replayed trace and injected faults. This is what the engine asks; with every expert
// mapped in its checkpoint file there is nothing to decide (MappedCache, here), a budget over maps is
// advice (advised.ts), and slots in memory are where the decisions are (slotcache.ts, then residents.ts
// for who stays, policy.ts for what a policy is).
import { expertOf, type Place, placeOf, Tier } from './place.js'

/** For one layer: where each wanted expert lies (`nowhere` if it must wait), and what to load. */
export interface Plan {
  readonly places: Int32Array
  readonly orders: Int32Array
}

export interface Cache {
  /** What layers routed to since the last call, in the order of time: records [expert, tokens]. */
  used(records: Int32Array): void
  /** What became of orders, and which slots may be used now: records [kind, expert, to, code]. */
  settle(events: Int32Array): void
  /**
   * Places for the wanted experts of a MoE layer (indices within the layer, rising), in a step of so
   * many tokens.
   */
  place(moeLayer: number, wanted: Int32Array, stepTokens: number): Plan
}

const noOrders = new Int32Array(0)

/** Every expert has its place in the map of its file from the start. */
export class MappedCache implements Cache {
  readonly #experts: number
  readonly #places: Int32Array

  constructor(expertsPerLayer: number) {
    this.#experts = expertsPerLayer
    this.#places = new Int32Array(expertsPerLayer)
  }

  used(): void {}

  settle(): void {}

  place(moeLayer: number, wanted: Int32Array): Plan {
    for (const [at, index] of wanted.entries()) this.#places[at] = this.#home(moeLayer, index)
    return { places: this.#places.subarray(0, wanted.length), orders: noOrders }
  }

  #home(moeLayer: number, index: number): Place {
    return placeOf(Tier.map, expertOf(moeLayer, index, this.#experts))
  }
}
