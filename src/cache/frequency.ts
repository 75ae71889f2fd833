// How often each expert is used, older uses counting less: with every step that a layer takes, what it
// counted before shrinks by the same factor. Kept as weights that grow instead, so that nothing is
// touched but what was used, and experts of one layer compare directly. Among many tokens of a step
// the count enters by its square root: a prompt says what is common, but must not drown what the
// tokens after it say.
import { type Expert, expertOf } from './place.js'
import { UseField } from './records.js'

/** Weights are scaled back long before they leave the range of a double. */
const largestWeight = 2 ** 500

export class Frequency {
  /** [expert of the model] */
  readonly #counts: Float64Array
  /** [MoE layer] what a use counts now */
  readonly #weights: Float64Array
  readonly #experts: number
  readonly #growth: number

  /** `decay`: what a use is worth one step later. */
  constructor(moeLayers: number, expertsPerLayer: number, decay: number) {
    this.#counts = new Float64Array(moeLayers * expertsPerLayer)
    this.#weights = new Float64Array(moeLayers).fill(1)
    this.#experts = expertsPerLayer
    this.#growth = 1 / decay
  }

  /** One step of a layer: records [expert, tokens], `count` of them. */
  add(moeLayer: number, records: Int32Array, count: number): void {
    const weight = this.#nextWeight(moeLayer)
    for (let at = 0; at < count * UseField.count; at += UseField.count) {
      const expert = records[at + UseField.expert] ?? 0
      const tokens = records[at + UseField.tokens] ?? 0
      this.#counts[expert] = (this.#counts[expert] ?? 0) + weight * Math.sqrt(tokens)
    }
  }

  /** The expert of the layer that is used least among those that may leave, or -1. */
  least(moeLayer: number, mayLeave: (expert: Expert) => boolean): number {
    let least = -1
    let fewest = Number.POSITIVE_INFINITY
    for (let index = 0; index < this.#experts; index += 1) {
      const expert = expertOf(moeLayer, index, this.#experts)
      const count = this.#counts[expert] ?? 0
      if (count < fewest && mayLeave(expert)) {
        least = expert
        fewest = count
      }
    }
    return least
  }

  #nextWeight(moeLayer: number): number {
    const weight = (this.#weights[moeLayer] ?? 1) * this.#growth
    if (weight < largestWeight) {
      this.#weights[moeLayer] = weight
      return weight
    }
    const first = moeLayer * this.#experts
    for (let expert = first; expert < first + this.#experts; expert += 1) {
      this.#counts[expert] = (this.#counts[expert] ?? 0) / weight
    }
    this.#weights[moeLayer] = 1
    return 1
  }
}
