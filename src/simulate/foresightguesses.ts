// Guesses that a forecast must beat: the early scores as the router would take them, its groups cut off
// hard; what follows what an earlier layer used; what was used last. Each is a number for every expert of
// a layer, the larger the likelier.
import { UseField } from '../cache/records.js'
import type { ForecastShape } from '../prefetch/forecast.js'
import { History } from '../prefetch/history.js'
import { Margins } from '../prefetch/margins.js'
import { Transitions } from '../prefetch/transitions.js'

/** Puts groups that are not kept behind all others: margins are far smaller. */
const behind = 1e4

export class Guesses {
  readonly #shape: ForecastShape
  readonly #bias: Float32Array | null
  readonly #margins: Margins
  readonly #history: History
  readonly #transitions: readonly Transitions[]
  /** [MoE layer][expert] the step of its last use */
  readonly #usedIn: Float32Array
  readonly #values: Float32Array

  constructor(shape: ForecastShape, bias: Float32Array | null) {
    const { moeLayers, experts, topK, distances } = shape
    this.#shape = shape
    this.#bias = bias
    this.#margins = new Margins(shape)
    this.#history = new History(moeLayers, experts, topK)
    const gaps = distances.length > 0 ? distances : [1]
    this.#transitions = gaps.map((gap) => new Transitions(gap, moeLayers, experts, topK))
    this.#usedIn = new Float32Array(moeLayers * experts).fill(-1)
    this.#values = new Float32Array(experts)
  }

  begin(): void {
    this.#history.begin()
  }

  /** As Foresight.used. */
  used(moeLayer: number, records: Int32Array, count: number, tokens: number): void {
    this.#history.used(moeLayer, records, count, tokens)
    for (const transitions of this.#transitions) transitions.learn(moeLayer, this.#history)
    for (let at = 0; at < count; at += 1) {
      this.#usedIn[records[at * UseField.count + UseField.expert] ?? 0] = this.#history.step
    }
  }

  /** What the router would choose by these scores [experts]: best first, its groups first. */
  gate(scores: Float32Array, moeLayer: number): Float32Array {
    const { experts, groups } = this.#shape
    this.#margins.weigh(scores, 0, this.#bias, moeLayer * experts)
    for (let index = 0; index < experts; index += 1) {
      const group = this.#margins.group[Math.floor((index * groups) / experts)] ?? 0
      this.#values[index] = (this.#margins.own[index] ?? 0) - (group < 0 ? behind : 0)
    }
    return this.#values
  }

  /** By what an earlier layer has used; null where it has not routed, or there is none. */
  transition(moeLayer: number, gap: number): Float32Array | null {
    const transitions = this.#transitions.find((one) => one.gap === gap)
    if (transitions === undefined || transitions.known(moeLayer, this.#history) === 0) return null
    const { experts } = this.#shape
    for (let index = 0; index < experts; index += 1) {
      const usual = this.#history.usual[moeLayer * experts + index] ?? 0
      this.#values[index] = transitions.follows(moeLayer, index, usual, this.#history)
    }
    return this.#values
  }

  /** What was used last comes first. */
  previous(moeLayer: number): Float32Array {
    const { experts } = this.#shape
    return this.#usedIn.subarray(moeLayer * experts, (moeLayer + 1) * experts)
  }
}
