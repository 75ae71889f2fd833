// What a scored request collects while its prompt is read: the log-probability of each of its tokens
// given those before, the most likely tokens at each position, and which experts each token chose.
import { Rows } from '../../native/index.js'
import type { Share } from './batch.js'
import type { StepOutcome } from './outcome.js'
import type { Sequence } from './sequence.js'

export interface Scored {
  /** [tokens] of tokens[i] given what precedes it; NaN for the first. Empty when not asked for. */
  readonly logprobs: Float32Array
  readonly topCount: number
  /** [tokens][topCount] at the position after tokens[i], most likely first. */
  readonly topIds: Int32Array
  readonly topLogprobs: Float32Array
  /** [MoE layer][token][topK], by falling choice score. Empty when not asked for. */
  readonly experts: Uint16Array
  readonly weights: Float32Array
}

/** Covers the prompt and, for routing, the drawn tokens that were read again. */
export class ScoreSheet {
  readonly #logprobs: Float32Array
  readonly #topCount: number
  readonly #topIds: Int32Array
  readonly #topLogprobs: Float32Array
  readonly #experts: Uint16Array
  readonly #weights: Float32Array
  readonly #capacity: number

  constructor(
    private readonly sequence: Sequence,
    private readonly moeLayers: number,
    private readonly topK: number,
  ) {
    const { request } = sequence
    const scored = request.score ? request.prompt.length : 0
    this.#topCount = request.score ? request.topLogprobs : 0
    this.#capacity = request.routing ? sequence.tokens.length : 0
    this.#logprobs = new Float32Array(scored).fill(Number.NaN)
    this.#topIds = new Int32Array(scored * this.#topCount)
    this.#topLogprobs = new Float32Array(scored * this.#topCount)
    this.#experts = new Uint16Array(moeLayers * this.#capacity * topK)
    this.#weights = new Float32Array(this.#experts.length)
  }

  /** Notes a share's results: its rows begin at `row`, its tokens at `token` of the step's. */
  record(share: Share, outcome: StepOutcome, row: number, token: number, stepTokens: number): void {
    const position = this.sequence.computed
    if (this.sequence.request.score && share.rows === Rows.all) {
      for (let index = 0; index < share.tokens; index += 1) {
        this.#recordRow(outcome, row + index, position + index)
      }
    }
    if (this.#capacity > 0) this.#recordRouting(share, outcome, position, token, stepTokens)
  }

  #recordRow(outcome: StepOutcome, row: number, position: number): void {
    if (position + 1 < this.#logprobs.length) {
      this.#logprobs[position + 1] = outcome.logprobs[row] ?? Number.NaN
    }
    if (position >= this.sequence.promptLength) return
    for (const [rank, [id, logprob]] of outcome.topOf(row, this.#topCount).entries()) {
      this.#topIds[position * this.#topCount + rank] = id
      this.#topLogprobs[position * this.#topCount + rank] = logprob
    }
  }

  #recordRouting(
    share: Share,
    outcome: StepOutcome,
    position: number,
    token: number,
    stepTokens: number,
  ): void {
    const count = share.tokens * this.topK
    for (let layer = 0; layer < this.moeLayers; layer += 1) {
      const from = (layer * stepTokens + token) * this.topK
      const to = (layer * this.#capacity + position) * this.topK
      this.#experts.set(outcome.experts.subarray(from, from + count), to)
      this.#weights.set(outcome.weights.subarray(from, from + count), to)
    }
  }

  finish(): Scored {
    return {
      logprobs: this.#logprobs,
      topCount: this.#topCount,
      topIds: this.#topIds,
      topLogprobs: this.#topLogprobs,
      experts: this.#experts,
      weights: this.#weights,
    }
  }
}
