// Which of several rules of worth should rule: all hear everything, each has a shadow that counts what
// it would have missed, and the one that misses least takes over once its lead is beyond chance.
// Older misses count less, so that a rule that suits another text can come to rule again.
import { Shadow } from './shadow.js'
import type { Worth } from './worth.js'

/** What is kept of the counts when a token has passed all layers: some hundred tokens tell. */
const kept = 0.995
/** Another rule takes over when it misses this share less, and this many standard deviations of chance. */
const lead = 0.02
const deviations = 3

export class Choice {
  readonly #rules: readonly Worth[]
  readonly #shadows: readonly Shadow[]
  /** [rule] */
  readonly #misses: Float64Array
  readonly #lastLayer: number
  #ruling: Worth

  /** The first rule rules until another has shown more. */
  constructor(
    first: Worth,
    others: readonly Worth[],
    moeLayers: number,
    expertsPerLayer: number,
    slots: number,
  ) {
    const each = Math.max(1, Math.floor(slots / moeLayers))
    this.#rules = [first, ...others]
    this.#ruling = first
    this.#shadows = this.#rules.map((rule) => new Shadow(rule, moeLayers, expertsPerLayer, each))
    this.#misses = new Float64Array(this.#rules.length)
    this.#lastLayer = moeLayers - 1
  }

  get ruling(): Worth {
    return this.#ruling
  }

  scored(moeLayer: number, probabilities: Float32Array): void {
    for (let rule = 0; rule < this.#rules.length; rule += 1) {
      this.#rules[rule]?.scored?.(moeLayer, probabilities)
    }
  }

  /** As Worth.used. Sweeps, which another policy serves, are no test. */
  used(
    moeLayer: number,
    records: Int32Array,
    count: number,
    tokens: number,
    isSweep: boolean,
  ): void {
    for (let rule = 0; rule < this.#rules.length; rule += 1) {
      this.#rules[rule]?.used(moeLayer, records, count, tokens, isSweep)
      const misses = isSweep ? 0 : (this.#shadows[rule]?.visit(moeLayer, records, count) ?? 0)
      this.#misses[rule] = (this.#misses[rule] ?? 0) + misses
    }
    if (moeLayer === this.#lastLayer) this.#choose()
  }

  #choose(): void {
    let best = 0
    let ruling = 0
    for (let rule = 0; rule < this.#rules.length; rule += 1) {
      if (this.#rules[rule] === this.#ruling) ruling = this.#misses[rule] ?? 0
      if ((this.#misses[rule] ?? 0) < (this.#misses[best] ?? 0)) best = rule
    }
    const enough = (1 - lead) * ruling - deviations * Math.sqrt(ruling)
    if ((this.#misses[best] ?? 0) < enough) this.#ruling = this.#rules[best] ?? this.#ruling
    for (let rule = 0; rule < this.#rules.length; rule += 1) {
      this.#misses[rule] = kept * (this.#misses[rule] ?? 0)
    }
  }
}
