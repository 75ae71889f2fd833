// How often an expert of a layer was used by the token after one that used another: plain counts, which
// tell something after a few tokens already. Knows single tokens only: of many at once nobody can say
// which followed which.
import { UseField } from './records.js'

/** A use in a pair that was not seen yet. */
const unseen = 0.5
const nobody = -1

export class Followers {
  readonly #experts: number
  readonly #topK: number
  /** [MoE layer][expert before][expert after] */
  readonly #pairs: Float32Array
  /** [expert of the model] uses that followed it */
  readonly #all: Float64Array
  /** [MoE layer][topK] experts that the last token used, or nobody */
  readonly #before: Int32Array
  #known = 0

  constructor(moeLayers: number, experts: number, topK: number) {
    this.#experts = experts
    this.#topK = topK
    this.#pairs = new Float32Array(moeLayers * experts * experts).fill(unseen)
    this.#all = new Float64Array(moeLayers * experts).fill(unseen * experts)
    this.#before = new Int32Array(moeLayers * topK).fill(nobody)
  }

  /**
   * A layer has routed so many tokens: records [UseField.count], `count` of them. Into `out` [expert of
   * the model]: how often each of the layer's followed what is used now, relative to chance; 1 is unknown.
   */
  used(
    moeLayer: number,
    records: Int32Array,
    count: number,
    tokens: number,
    out: Float64Array,
  ): void {
    const start = moeLayer * this.#topK
    this.#known = tokens === 1 ? Math.min(count, this.#topK) : 0
    for (let at = start; this.#known > 0 && at < start + this.#topK; at += 1) {
      const earlier = this.#before[at] ?? nobody
      if (earlier >= 0) this.#count(moeLayer, records, earlier)
    }
    for (let at = 0; at < this.#topK; at += 1) {
      const expert = records[at * UseField.count + UseField.expert] ?? nobody
      this.#before[start + at] = at < this.#known ? expert : nobody
    }
    this.#relate(moeLayer, out)
  }

  #count(moeLayer: number, records: Int32Array, earlier: number): void {
    const first = moeLayer * this.#experts
    for (let at = 0; at < this.#known * UseField.count; at += UseField.count) {
      const after = (records[at + UseField.expert] ?? 0) - first
      const pair = earlier * this.#experts + after
      this.#pairs[pair] = (this.#pairs[pair] ?? 0) + 1
    }
    this.#all[earlier] = (this.#all[earlier] ?? 0) + this.#known
  }

  #relate(moeLayer: number, out: Float64Array): void {
    const start = moeLayer * this.#topK
    const first = moeLayer * this.#experts
    out.fill(this.#known === 0 ? 1 : 0, first, first + this.#experts)
    // Two rows at a time, in their order, so that a sum is the same as by one.
    for (let at = 0; at < this.#known; at += 2) {
      const isLast = at + 1 === this.#known
      const expert = this.#before[start + at] ?? 0
      const other = isLast ? expert : (this.#before[start + at + 1] ?? 0)
      this.#add(expert, this.#weight(expert), other, isLast ? 0 : this.#weight(other), out)
    }
  }

  /** Of a row: chance would give each expert of the layer a sum of 1. */
  #weight(expert: number): number {
    return this.#experts / this.#known / (this.#all[expert] ?? 1)
  }

  #add(
    expert: number,
    weight: number,
    other: number,
    otherWeight: number,
    out: Float64Array,
  ): void {
    const pairs = this.#pairs
    const row = expert * this.#experts
    const otherRow = other * this.#experts
    const first = Math.floor(expert / this.#experts) * this.#experts
    for (let index = 0; index < this.#experts; index += 1) {
      out[first + index] =
        (out[first + index] ?? 0) +
        weight * (pairs[row + index] ?? 0) +
        otherWeight * (pairs[otherRow + index] ?? 0)
    }
  }
}
