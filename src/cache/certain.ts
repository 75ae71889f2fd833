// Which experts a step of many tokens will want before its routers have said so: those that so large a
// share of a layer's tokens chose of late that among so many it would be a wonder if none did. What is
// certain needs no forecast; of steps of few tokens this says nothing.
import { UseField } from './records.js'

/** What is kept of a share when so many tokens have passed: half. */
const halfAfterTokens = 512
/** That none of the step's tokens wants it: below this nobody reads it for nothing. */
const leastDoubt = 0.01

export class Certain {
  /** [expert of the model] tokens that chose it, later ones counting more, and [MoE layer] all tokens */
  readonly #chosen: Float64Array
  readonly #tokens: Float64Array
  readonly #experts: number

  constructor(moeLayers: number, expertsPerLayer: number) {
    this.#chosen = new Float64Array(moeLayers * expertsPerLayer)
    this.#tokens = new Float64Array(moeLayers)
    this.#experts = expertsPerLayer
  }

  /** A layer has routed so many tokens: records [UseField.count]. */
  add(moeLayer: number, records: Int32Array, tokens: number): void {
    const kept = 0.5 ** (tokens / halfAfterTokens)
    const first = moeLayer * this.#experts
    for (let expert = first; expert < first + this.#experts; expert += 1) {
      this.#chosen[expert] = kept * (this.#chosen[expert] ?? 0)
    }
    for (let at = 0; at < records.length; at += UseField.count) {
      const expert = records[at + UseField.expert] ?? 0
      this.#chosen[expert] = (this.#chosen[expert] ?? 0) + (records[at + UseField.tokens] ?? 0)
    }
    this.#tokens[moeLayer] = kept * (this.#tokens[moeLayer] ?? 0) + tokens
  }

  /** Whether at least one of so many tokens will want the expert. */
  isWanted(expert: number, tokens: number): boolean {
    const heard = this.#tokens[Math.floor(expert / this.#experts)] ?? 0
    if (heard === 0) return false
    return (1 - (this.#chosen[expert] ?? 0) / heard) ** tokens < leastDoubt
  }
}
