// Which of two settings is faster, on a machine that is never twice the same. Runs alternate, A B A B and
// then B A B A, and only neighbours are compared. What is believed is bounded by how much runs of the same
// settings differ here. It runs nothing itself, and knows neither settings nor a clock.

/** A change that makes less of a difference is not worth keeping. */
const LEAST_GAIN = 1.03
/** In each order, before it is judged again. */
const PAIRS_AT_ONCE = 2
/** Times that both orders are run before a contest is given up as undecided. */
const ROUNDS_MOST = 3
/** A first pair as bad as this is not followed by a second one. */
const HOPELESS = 0.9
/** The noise must not explain that a gain is more than this. */
const TRIFLE = 1.01
/** From so many differences on the largest quarter is left out: a stall of the machine is no noise of a run. */
const TRIMMED_FROM = 4
/** What the rest of normal differences has of their deviation. */
const TRIMMED_SHARE = 0.607
/** The median of a few differs from their middle by so much more than their mean does. */
const MEDIAN_ERROR = 1.15
/** Of a normal distribution, beyond which one value of 400 lies. */
const RARE = 2.81

/** Ratios of neighbours: seconds of the champion over those of the challenger. */
export interface Contest {
  /** Of pairs in which the champion ran first. */
  readonly forward: readonly number[]
  /** Of pairs in which the challenger did. */
  readonly reverse: readonly number[]
  readonly isWon: boolean
}

/** How much neighbouring runs of the same settings differ, learnt from all that was run so far. */
export class Noise {
  readonly #squares: number[] = []
  #degrees = 0

  /** Seconds of runs of the same settings, one after the other. */
  observe(seconds: readonly number[]): void {
    const logs = seconds.slice(1).map((one, before) => Math.log(one / (seconds[before] ?? 1)))
    this.#squares.push(...logs.map((log) => log * log))
    // Neighbours share a run, so they tell less than as many pairs would.
    this.#degrees += logs.length / 2
  }

  /** Ratios of the same two settings. */
  add(ratios: readonly number[]): void {
    if (ratios.length < 2 || !ratios.every((ratio) => ratio > 0 && Number.isFinite(ratio))) return
    this.#squares.push(...squaresOf(ratios))
    this.#degrees += ratios.length - 1
  }

  /** Standard deviation of the logarithm of a ratio; `more` are ratios that count too. */
  deviation(more: readonly number[] = []): number {
    const squares = [...this.#squares, ...squaresOf(more)].sort((one, other) => one - other)
    const isTrimmed = squares.length >= TRIMMED_FROM
    const kept = isTrimmed ? squares.slice(0, Math.ceil((squares.length * 3) / 4)) : squares
    const root = Math.sqrt(kept.reduce((sum, one) => sum + one, 0) / Math.max(1, kept.length))
    return isTrimmed ? root / TRIMMED_SHARE : root
  }

  /** Standard errors that a gain must have; more of them where little is known of the noise. */
  bound(more: readonly number[] = []): number {
    const degrees = Math.max(1, this.#degrees + Math.max(0, more.length - 1))
    const [one, three, five] = [RARE, RARE ** 3, RARE ** 5]
    // Student's distribution by the first terms of its series in 1 / degrees.
    const second = (three + one) / (4 * degrees)
    const third = (5 * five + 16 * three + 3 * one) / (96 * degrees * degrees)
    return one + second + third
  }
}

function squaresOf(ratios: readonly number[]): number[] {
  const logs = ratios.map(Math.log)
  const mean = logs.reduce((sum, log) => sum + log, 0) / Math.max(1, logs.length)
  const widened = logs.length / Math.max(1, logs.length - 1)
  return logs.map((log) => (log - mean) ** 2 * widened)
}

type Verdict = 'won' | 'lost' | 'open'

/** A contest while it goes on: whose run is next, and what those so far say. */
export class Duel {
  readonly forward: number[] = []
  readonly reverse: number[] = []
  #verdict: Verdict = 'open'
  #first = Number.NaN

  constructor(private readonly noise: Noise) {}

  /** Lost also where it stays undecided. */
  get verdict(): Verdict {
    return this.#verdict
  }

  get isNextChallenger(): boolean {
    return this.#isForward === !Number.isNaN(this.#first)
  }

  /** Seconds of the next run, infinite where the challenger cannot be run. */
  add(seconds: number): void {
    if (Number.isNaN(this.#first)) {
      this.#first = seconds
      return
    }
    if (this.#isForward) this.forward.push(this.#first / seconds)
    else this.reverse.push(seconds / this.#first)
    this.#first = Number.NaN
    this.#judge()
    if (this.#verdict !== 'open') this.noise.add([...this.forward, ...this.reverse])
  }

  get #isForward(): boolean {
    const pairs = this.forward.length + this.reverse.length
    return pairs % (2 * PAIRS_AT_ONCE) < PAIRS_AT_ONCE
  }

  #judge(): void {
    const { forward, reverse } = this
    const pairs = forward.length + reverse.length
    if (pairs === 1 && (forward[0] ?? 0) < HOPELESS) this.#verdict = 'lost'
    if (pairs % PAIRS_AT_ONCE !== 0) return
    const verdict = verdictOf(forward, reverse, this.noise)
    const isLast = pairs === 2 * PAIRS_AT_ONCE * ROUNDS_MOST
    this.#verdict = verdict === 'open' && isLast ? 'lost' : verdict
  }
}

/**
 * Runs both in turn until it is clear whether the challenger is faster by LEAST_GAIN at least, in either
 * order. A run gives its seconds; a challenger that cannot be run gives infinity.
 */
export async function contest(
  champion: () => Promise<number>,
  challenger: () => Promise<number>,
  noise: Noise,
): Promise<Contest> {
  const duel = new Duel(noise)
  while (duel.verdict === 'open') {
    duel.add(await (duel.isNextChallenger ? challenger() : champion()))
  }
  const { forward, reverse, verdict } = duel
  return { forward, reverse, isWon: verdict === 'won' }
}

/** Lost: what was seen does not even allow a gain worth keeping. Won: both orders show it, beyond the noise. */
function verdictOf(forward: readonly number[], reverse: readonly number[], noise: Noise): Verdict {
  const all = [...forward, ...reverse]
  // The challenger cannot be run.
  if (all.includes(0)) return 'lost'
  const error = (MEDIAN_ERROR * noise.deviation(all)) / Math.sqrt(all.length)
  const gain = Math.log(median(all))
  if (gain + error < Math.log(LEAST_GAIN)) return 'lost'
  if (reverse.length < forward.length) return 'open'
  const isInBoth = median(forward) >= LEAST_GAIN && median(reverse) >= LEAST_GAIN
  return isInBoth && gain - Math.log(TRIFLE) >= noise.bound(all) * error ? 'won' : 'open'
}

/** Of an even number of values the middle of the two middle ones; NaN of none. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((one, other) => one - other)
  const half = sorted.length / 2
  return (
    ((sorted[Math.ceil(half) - 1] ?? Number.NaN) + (sorted[Math.floor(half)] ?? Number.NaN)) / 2
  )
}
