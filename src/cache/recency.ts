// Worth by recency: what was used last is worth most. A sweep uses nearly all experts of a layer once,
// in rising index: that says nothing about what comes next. Knows nothing of slots.
import { UseField } from './records.js'
import type { Worth } from './worth.js'

export class Recency implements Worth {
  readonly name = 'recency'
  /** [expert of the model] the token of its layer that used it last */
  readonly #usedAt: Float64Array
  /** [MoE layer] tokens that have passed */
  readonly #now: Float64Array

  constructor(moeLayers: number, expertsPerLayer: number) {
    this.#usedAt = new Float64Array(moeLayers * expertsPerLayer)
    this.#now = new Float64Array(moeLayers)
  }

  of(expert: number): number {
    return this.#usedAt[expert] ?? 0
  }

  used(
    moeLayer: number,
    records: Int32Array,
    count: number,
    tokens: number,
    isSweep: boolean,
  ): void {
    const now = (this.#now[moeLayer] ?? 0) + tokens
    this.#now[moeLayer] = now
    for (let at = 0; !isSweep && at < count * UseField.count; at += UseField.count) {
      this.#usedAt[records[at + UseField.expert] ?? 0] = now
    }
  }
}
