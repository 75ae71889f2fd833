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

/**
 * Runs both in turn until it is clear whether the challenger is faster by LEAST_GAIN at least, in either
 * order. A run gives its seconds; a challenger that cannot be run gives infinity.
 */
export async function contest(
  champion: () => Promise<number>,
  challenger: () => Promise<number>,
  noise: Noise,
): Promise<Contest> {
  const forward: number[] = []
  const reverse: number[] = []
  const isWon = await isFaster(champion, challenger, noise, forward, reverse)
  noise.add([...forward, ...reverse])
  return { forward, reverse, isWon }
}

async function isFaster(
  champion: () => Promise<number>,
  challenger: () => Promise<number>,
  noise: Noise,
  forward: number[],
  reverse: number[],
): Promise<boolean> {
  for (let round = 0; round < ROUNDS_MOST; round += 1) {
    for (let pair = 0; pair < PAIRS_AT_ONCE; pair += 1) {
      const before = await champion()
      forward.push(before / (await challenger()))
      if (forward.length === 1 && (forward[0] ?? 0) < HOPELESS) return false
    }
    if (verdictOf(forward, reverse, noise) === 'lost') return false
    for (let pair = 0; pair < PAIRS_AT_ONCE; pair += 1) {
      const before = await challenger()
      reverse.push((await champion()) / before)
    }
    const verdict = verdictOf(forward, reverse, noise)
    if (verdict !== 'open') return verdict === 'won'
  }
  return false
}

/** Lost: what was seen does not even allow a gain worth keeping. Won: both orders show it, beyond the noise. */
function verdictOf(
  forward: readonly number[],
  reverse: readonly number[],
  noise: Noise,
): 'won' | 'lost' | 'open' {
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
