// What a job has come to: lines, tokens, verdicts, and how many experts its steps had.
// Figures of the whole job come from the journal's lines too; those of speed are of this run.
import type { Ending } from '../engine/loop.js'
import { passAtK } from './grade.js'
import type { JobListener } from './job.js'
import type { DoneLine } from './records.js'

type Counted = Pick<
  DoneLine,
  'isAnswered' | 'promptTokens' | 'completionTokens' | 'answers' | 'right'
>

export class Tally implements JobListener {
  lines = 0
  answered = 0
  promptTokens = 0
  completionTokens = 0
  /** Drawn by this run. */
  drawn = 0
  readonly #verdicts: { readonly answers: number; readonly right: number }[] = []
  #expertRequests = 0
  #steps = 0

  constructor(earlier: readonly Counted[]) {
    for (const line of earlier) this.onResult(line)
  }

  onToken(): void {
    this.drawn += 1
  }

  onEnding({ stats }: Ending): void {
    this.#expertRequests += stats.expertRequests
    this.#steps += Math.max(0, stats.completionTokens - 1)
  }

  onResult({ isAnswered, promptTokens, completionTokens, answers, right }: Counted): void {
    this.lines += 1
    if (isAnswered) this.answered += 1
    this.promptTokens += promptTokens
    this.completionTokens += completionTokens
    if (right !== null) this.#verdicts.push({ answers, right })
  }

  /** Distinct experts that a step wanted in a layer, as the sequences met them; null: none drew. */
  expertsPerLayer(moeLayers: number): number | null {
    return this.#steps === 0 ? null : this.#expertRequests / this.#steps / moeLayers
  }

  /** Of the lines with a verdict: how many there are, and pass@k for k as 1, 2, 4 and so on. */
  passes(): { readonly lines: number; readonly shares: readonly (readonly [number, number])[] } {
    const lines = this.#verdicts.length
    const most = Math.min(...this.#verdicts.map(({ answers }) => answers))
    const shares: [number, number][] = []
    for (let k = 1; lines > 0 && k <= most; k *= 2) {
      const sum = this.#verdicts.reduce(
        (total, { answers, right }) => total + passAtK(answers, right, k),
        0,
      )
      shares.push([k, sum / lines])
    }
    return { lines, shares }
  }
}
