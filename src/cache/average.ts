// Worth by an average over tokens, older ones counting less: of uses, or of the probability that the
// router gave, where near misses count too. Where nobody tells probabilities, uses stand in for them.
// Knows nothing of slots.
import { UseField } from './records.js'
import type { Worth } from './worth.js'

export class Average implements Worth {
  readonly name: string
  /** From 0 to 1. */
  readonly of: Float64Array
  readonly #experts: number
  readonly #kept: number
  /** [experts] of the layer in hand; null where only uses count */
  readonly #scores: Float32Array | null
  #isScored = false

  /** `kept`: what is left of a token's weight when the next one has come. */
  constructor(
    moeLayers: number,
    expertsPerLayer: number,
    kept: number,
    source: 'uses' | 'probabilities',
  ) {
    this.name = `${source} ${kept}`
    this.of = new Float64Array(moeLayers * expertsPerLayer)
    this.#experts = expertsPerLayer
    this.#kept = kept
    this.#scores = source === 'probabilities' ? new Float32Array(expertsPerLayer) : null
  }

  scored(_moeLayer: number, probabilities: Float32Array): void {
    this.#scores?.set(probabilities)
    this.#isScored = this.#scores !== null
  }

  used(moeLayer: number, records: Int32Array, count: number, tokens: number): void {
    const kept = this.#kept ** tokens
    const first = moeLayer * this.#experts
    if (this.#isScored) this.#mixScores(first, kept)
    else this.#mixUses(first, kept, records, count, tokens)
    this.#isScored = false
  }

  #mixScores(first: number, kept: number): void {
    for (let index = 0; index < this.#experts; index += 1) {
      const expert = first + index
      this.of[expert] = kept * (this.of[expert] ?? 0) + (1 - kept) * (this.#scores?.[index] ?? 0)
    }
  }

  #mixUses(first: number, kept: number, records: Int32Array, count: number, tokens: number): void {
    for (let expert = first; expert < first + this.#experts; expert += 1) {
      this.of[expert] = kept * (this.of[expert] ?? 0)
    }
    for (let at = 0; at < count * UseField.count; at += UseField.count) {
      const expert = records[at + UseField.expert] ?? 0
      const share = (records[at + UseField.tokens] ?? 0) / tokens
      this.of[expert] = (this.of[expert] ?? 0) + (1 - kept) * share
    }
  }
}
