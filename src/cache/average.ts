// Worth by an average over tokens, older ones counting less: of uses, or of the probability that the
// router gave, where near misses count too. Where nobody tells probabilities, uses stand in for them.
// Knows nothing of slots.
import { UseField } from './records.js'
import type { Worth } from './worth.js'

export class Average implements Worth {
  readonly name: string
  /** [expert of the model] from 0 to 1 */
  readonly #averages: Float64Array
  readonly #experts: number
  readonly #kept: number
  readonly #source: 'uses' | 'probabilities'
  /** [experts] of the layer in hand, as they came; null: none have come, or only uses count */
  #scores: Float32Array | null = null

  /** `kept`: what is left of a token's weight when the next one has come. */
  constructor(
    moeLayers: number,
    expertsPerLayer: number,
    kept: number,
    source: 'uses' | 'probabilities',
  ) {
    this.name = `${source} ${kept}`
    this.#averages = new Float64Array(moeLayers * expertsPerLayer)
    this.#experts = expertsPerLayer
    this.#kept = kept
    this.#source = source
  }

  of(expert: number): number {
    return this.#averages[expert] ?? 0
  }

  scored(_moeLayer: number, probabilities: Float32Array): void {
    if (this.#source === 'probabilities') this.#scores = probabilities
  }

  used(moeLayer: number, records: Int32Array, count: number, tokens: number): void {
    const kept = this.#kept ** tokens
    const first = moeLayer * this.#experts
    const scores = this.#scores
    this.#scores = null
    if (scores === null) this.#mixUses(first, kept, records, count, tokens)
    else this.#mixScores(first, kept, scores)
  }

  #mixScores(first: number, kept: number, scores: Float32Array): void {
    for (let index = 0; index < this.#experts; index += 1) {
      const expert = first + index
      this.#averages[expert] =
        kept * (this.#averages[expert] ?? 0) + (1 - kept) * (scores[index] ?? 0)
    }
  }

  #mixUses(first: number, kept: number, records: Int32Array, count: number, tokens: number): void {
    for (let expert = first; expert < first + this.#experts; expert += 1) {
      this.#averages[expert] = kept * (this.#averages[expert] ?? 0)
    }
    for (let at = 0; at < count * UseField.count; at += UseField.count) {
      const expert = records[at + UseField.expert] ?? 0
      const share = (records[at + UseField.tokens] ?? 0) / tokens
      this.#averages[expert] = (this.#averages[expert] ?? 0) + (1 - kept) * share
    }
  }
}
