// What each layer has routed to lately: the experts of this step, those of the step before, and shares
// of tokens that used each expert, over few, many and very many tokens. Knows nothing of scores.
import type { Learnt } from '../cache/learnt.js'
import { UseField } from '../cache/records.js'

/** What is kept of a share when a token passes. */
const kept = { lately: 0.75, long: 0.98, usual: 0.998 }

export class History {
  /** [MoE layer][expert] 1 if the layer's last step used it */
  readonly before: Uint8Array
  /** [MoE layer][expert] shares of tokens; `usual` begins as chance has it. */
  readonly lately: Float32Array
  readonly long: Float32Array
  readonly usual: Float32Array
  /** [MoE layer][topK] indices that the only token of a step used, `chosenCount` of them */
  readonly chosen: Int32Array
  readonly #chosenCounts: Int32Array
  /** [MoE layer] the step in which it routed last */
  readonly #routedIn: Float64Array
  readonly #experts: number
  readonly #topK: number
  #step = 0

  constructor(moeLayers: number, experts: number, topK: number) {
    const all = moeLayers * experts
    this.#experts = experts
    this.#topK = topK
    this.before = new Uint8Array(all)
    this.lately = new Float32Array(all).fill(topK / experts)
    this.long = new Float32Array(all).fill(topK / experts)
    this.usual = new Float32Array(all).fill(topK / experts)
    this.chosen = new Int32Array(moeLayers * topK)
    this.#chosenCounts = new Int32Array(moeLayers)
    this.#routedIn = new Float64Array(moeLayers)
  }

  get learnt(): Learnt {
    return { long: this.long, usual: this.usual }
  }

  begin(): void {
    this.#step += 1
  }

  get step(): number {
    return this.#step
  }

  /** How many experts the layer's only token has used in this step; 0 where it has not routed yet, or for several. */
  chosenCount(moeLayer: number): number {
    if (moeLayer < 0 || this.#routedIn[moeLayer] !== this.#step) return 0
    return this.#chosenCounts[moeLayer] ?? 0
  }

  /** As Foresight.used. */
  used(moeLayer: number, records: Int32Array, count: number, tokens: number): void {
    const first = moeLayer * this.#experts
    this.before.fill(0, first, first + this.#experts)
    const lately = kept.lately ** tokens
    const long = kept.long ** tokens
    const usual = kept.usual ** tokens
    this.#pass(this.lately, first, lately)
    this.#pass(this.long, first, long)
    this.#pass(this.usual, first, usual)
    for (let at = 0; at < count; at += 1) {
      const expert = records[at * UseField.count + UseField.expert] ?? 0
      const share = (records[at * UseField.count + UseField.tokens] ?? 0) / tokens
      this.before[expert] = 1
      add(this.lately, expert, (1 - lately) * share)
      add(this.long, expert, (1 - long) * share)
      add(this.usual, expert, (1 - usual) * share)
    }
    this.#choose(moeLayer, records, tokens === 1 ? Math.min(count, this.#topK) : 0)
  }

  #choose(moeLayer: number, records: Int32Array, count: number): void {
    const first = moeLayer * this.#experts
    for (let at = 0; at < count; at += 1) {
      const expert = records[at * UseField.count + UseField.expert] ?? 0
      this.chosen[moeLayer * this.#topK + at] = expert - first
    }
    this.#chosenCounts[moeLayer] = count
    this.#routedIn[moeLayer] = this.#step
  }

  #pass(shares: Float32Array, first: number, keep: number): void {
    for (let expert = first; expert < first + this.#experts; expert += 1) {
      shares[expert] = keep * (shares[expert] ?? 0)
    }
  }
}

function add(shares: Float32Array, at: number, value: number): void {
  shares[at] = (shares[at] ?? 0) + value
}
