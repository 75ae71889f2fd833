// The policy `lru`: what was used longest ago gives way, one order per layer. A sweep uses nearly all
// experts of a layer once, in rising index: that says nothing about what comes next, so it moves
// nothing in the order.
import { LRUCache } from 'lru-cache'
import type { Expert } from './place.js'
import type { CacheShape, Policy } from './policy.js'
import { UseField } from './records.js'

export class LruPolicy implements Policy {
  readonly name: string = 'lru'
  readonly #experts: number
  /** [MoE layer] the experts that have a slot */
  readonly #orders: readonly LRUCache<Expert, true>[]

  constructor({ moeLayers, experts }: CacheShape) {
    this.#experts = experts
    this.#orders = Array.from({ length: moeLayers }, () => new LRUCache({ max: experts }))
  }

  used(moeLayer: number, records: Int32Array, count: number, isSweep: boolean): void {
    if (isSweep) return
    const order = this.#orders[moeLayer]
    for (let at = 0; at < count * UseField.count; at += UseField.count) {
      order?.get((records[at + UseField.expert] ?? -1) as Expert)
    }
  }

  entered(expert: Expert): void {
    this.#orderOf(expert)?.set(expert, true)
  }

  left(expert: Expert): void {
    this.#orderOf(expert)?.delete(expert)
  }

  victim(moeLayer: number, mayLeave: (expert: Expert) => boolean): number {
    for (const expert of this.#orders[moeLayer]?.rkeys() ?? []) {
      if (mayLeave(expert)) return expert
    }
    return -1
  }

  #orderOf(expert: Expert): LRUCache<Expert, true> | undefined {
    return this.#orders[Math.floor(expert / this.#experts)]
  }
}
