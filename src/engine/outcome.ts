// The results of one step, in arrays that are used again, and where each sequence's rows lie in them.
import type { Outcome } from '../../native/index.js'
import { rowsOf, type Share } from './batch.js'

export class StepOutcome implements Outcome {
  next = new Int32Array(1)
  logprobs = new Float32Array(1)
  topCount = 0
  topIds = new Int32Array(0)
  topLogprobs = new Float32Array(0)
  experts = new Uint16Array(0)
  weights = new Float32Array(0)
  faults = new Int32Array(0)
  scores = new Float32Array(0)
  message = ''

  /**
   * Makes room for the results of these shares. `routingPerToken`: MoE layers x top-k;
   * `scoresPerToken`: MoE layers x (1 + distances) x experts when scores are kept, else 0.
   */
  prepare(shares: readonly Share[], routingPerToken: number, scoresPerToken: number): void {
    let rows = 0
    let tokens = 0
    this.topCount = 0
    for (const share of shares) {
      rows += rowsOf(share)
      tokens += share.tokens
      this.topCount = Math.max(this.topCount, share.sequence.request.topLogprobs)
    }
    this.message = ''
    if (this.faults.length < shares.length) this.faults = new Int32Array(shares.length)
    this.faults.fill(0)
    if (this.next.length < rows) {
      this.next = new Int32Array(rows)
      this.logprobs = new Float32Array(rows)
    }
    if (this.topIds.length < rows * this.topCount) {
      this.topIds = new Int32Array(rows * this.topCount)
      this.topLogprobs = new Float32Array(rows * this.topCount)
    }
    if (this.scores.length < tokens * scoresPerToken)
      this.scores = new Float32Array(tokens * scoresPerToken)
    if (this.experts.length < tokens * routingPerToken) {
      this.experts = new Uint16Array(tokens * routingPerToken)
      this.weights = new Float32Array(tokens * routingPerToken)
    }
  }

  /** The `count` most likely tokens of a row, with their log-probabilities, best first. */
  topOf(row: number, count: number): [number, number][] {
    const first = row * this.topCount
    return Array.from({ length: count }, (_, index) => [
      this.topIds[first + index] ?? -1,
      this.topLogprobs[first + index] ?? Number.NaN,
    ])
  }
}
