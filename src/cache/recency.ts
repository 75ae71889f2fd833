// Worth by recency: what was used last is worth most. A sweep uses nearly all experts of a layer once,
// in rising index: that says nothing about what comes next. Knows nothing of slots.
import { UseField } from './records.js'
import type { Worth } from './worth.js'

export class Recency implements Worth {
  readonly name = 'recency'
  /** The token of its layer that used it last. */
  readonly of: Float64Array
  /** [MoE layer] tokens that have passed */
  readonly #now: Float64Array

  constructor(moeLayers: number, expertsPerLayer: number) {
    this.of = new Float64Array(moeLayers * expertsPerLayer)
    this.#now = new Float64Array(moeLayers)
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
      this.of[records[at + UseField.expert] ?? 0] = now
    }
  }
}
