// Whether looking ahead pays at all, by the clock alone: steps come in short windows with and without it,
// and where it loses it stays off but for a look now and then. Knows nothing of experts.

export type PrefetchMode = 'auto' | 'on' | 'off'
export type Verdict = 'off' | 'on' | 'measuring'

/** Steps of one window: long enough that what one leaves behind does not count in the next. */
const windowSteps = 4
/** Windows of one cycle with one of the other kind among them. */
const cycle = { measuring: 4, decided: 16 }
/** Pairs of windows before anything is decided. */
const pairsLeast = 6
/** What is kept of an average when a pair passes. */
const kept = 0.95

export class Governor {
  readonly mode: PrefetchMode
  #verdict: Verdict
  #step = 0
  #window = 0
  /** Logarithms of seconds per step, and steps, of the windows under way: [off, on] */
  readonly #sums = new Float64Array(2)
  readonly #steps = new Float64Array(2)
  /** Of log(seconds with / seconds without): weight, mean and variance, later pairs counting more. */
  #weight = 0
  #mean = 0
  #variance = 0
  #pairs = 0

  constructor(mode: PrefetchMode) {
    this.mode = mode
    this.#verdict = mode === 'auto' ? 'measuring' : mode
  }

  get verdict(): Verdict {
    return this.#verdict
  }

  /** Speed with look-ahead relative to without, and its standard error; null before any pair. */
  get ratio(): { readonly speed: number; readonly error: number; readonly pairs: number } | null {
    if (this.#pairs < 2) return null
    return { speed: Math.exp(-this.#mean), error: this.#error, pairs: this.#pairs }
  }

  /** Whether the next step looks ahead. */
  get isOn(): boolean {
    if (this.mode !== 'auto') return this.mode === 'on'
    const length = this.#verdict === 'measuring' ? cycle.measuring : cycle.decided
    const isOdd = this.#window % length === length - 1
    return this.#verdict === 'off' ? isOdd : !isOdd
  }

  /** The step that `isOn` was asked for took so long. */
  took(seconds: number): void {
    if (this.mode !== 'auto' || seconds <= 0) return
    const kind = this.isOn ? 1 : 0
    // The first step of a window still finds what the other kind left.
    if (this.#step > 0) {
      this.#sums[kind] = (this.#sums[kind] ?? 0) + Math.log(seconds)
      this.#steps[kind] = (this.#steps[kind] ?? 0) + 1
    }
    this.#step += 1
    if (this.#step < windowSteps) return
    this.#step = 0
    this.#window += 1
    const length = this.#verdict === 'measuring' ? cycle.measuring : cycle.decided
    if (this.#window % length === 0) this.#endCycle()
  }

  get #error(): number {
    return Math.sqrt(this.#variance / Math.max(1, this.#weight - 1))
  }

  #endCycle(): void {
    const [off = 0, on = 0] = this.#sums
    const [offSteps = 0, onSteps = 0] = this.#steps
    this.#sums.fill(0)
    this.#steps.fill(0)
    if (offSteps === 0 || onSteps === 0) return
    this.#hear(on / onSteps - off / offSteps)
    if (this.#pairs < pairsLeast) return
    // Loses: slower by more than chance. What was off and does not lose any more comes back.
    this.#verdict = this.#mean > this.#error ? 'off' : 'on'
    this.#window = 0
  }

  #hear(difference: number): void {
    this.#pairs += 1
    this.#weight = kept * this.#weight + 1
    const step = 1 / this.#weight
    const off = difference - this.#mean
    this.#mean += step * off
    this.#variance = (1 - step) * (this.#variance + step * off * off)
  }
}
