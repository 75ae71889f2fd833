// What a layer routes to after what a layer before it has routed to, in the same token: counts of pairs.
// One table for each gap between the two layers, 16 bits a pair: 10 MB for 76 layers of 256 experts.
// Knows nothing of scores and of time.
import type { Learnt } from '../cache/learnt.js'
import type { History } from './history.js'

/** Pairs of an expert are halved before a count leaves 16 bits. */
const mostVisits = 2 ** 15
/** What one was told beforehand counts as so many visits. */
const doubt = 8

export class Transitions {
  readonly gap: number
  readonly #experts: number
  readonly #topK: number
  /** [MoE layer after][expert before][expert after] */
  readonly #pairs: Uint16Array
  /** [MoE layer after][expert before] */
  readonly #visits: Uint16Array

  /** `gap`: MoE layers between the two. */
  constructor(gap: number, moeLayers: number, experts: number, topK: number) {
    this.gap = gap
    this.#experts = experts
    this.#topK = topK
    this.#pairs = new Uint16Array(moeLayers * experts * experts)
    this.#visits = new Uint16Array(moeLayers * experts)
  }

  get learnt(): Learnt {
    return { pairs: this.#pairs, visits: this.#visits }
  }

  /** The layer has routed, as `history` holds. */
  learn(moeLayer: number, history: History): void {
    const earlier = moeLayer - this.gap
    const count = history.chosenCount(moeLayer)
    const before = history.chosenCount(earlier)
    for (let from = 0; count > 0 && from < before; from += 1) {
      const row = moeLayer * this.#experts + (history.chosen[earlier * this.#topK + from] ?? 0)
      this.#visits[row] = (this.#visits[row] ?? 0) + 1
      for (let at = 0; at < count; at += 1) {
        const after = history.chosen[moeLayer * this.#topK + at] ?? 0
        const pair = row * this.#experts + after
        this.#pairs[pair] = (this.#pairs[pair] ?? 0) + 1
      }
      if (this.#visits[row] === mostVisits) this.#halve(row)
    }
  }

  /** How many of the earlier layer's experts `follows` can go by in this step. */
  known(moeLayer: number, history: History): number {
    return history.chosenCount(moeLayer - this.gap)
  }

  /**
   * The share of tokens that used the expert after what the earlier layer has used in this step, which
   * must be `known`; `usual` is its share of all tokens.
   */
  follows(moeLayer: number, index: number, usual: number, history: History): number {
    const earlier = moeLayer - this.gap
    const before = history.chosenCount(earlier)
    let sum = 0
    for (let from = 0; from < before; from += 1) {
      const row = moeLayer * this.#experts + (history.chosen[earlier * this.#topK + from] ?? 0)
      const pairs = this.#pairs[row * this.#experts + index] ?? 0
      sum += (pairs + doubt * usual) / ((this.#visits[row] ?? 0) + doubt)
    }
    return sum / before
  }

  #halve(row: number): void {
    this.#visits[row] = (this.#visits[row] ?? 0) >> 1
    const first = row * this.#experts
    for (let pair = first; pair < first + this.#experts; pair += 1) {
      this.#pairs[pair] = (this.#pairs[pair] ?? 0) >> 1
    }
  }
}
