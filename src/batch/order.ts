// Which of a job's lines begins next, of those that wait in a window. Those like what is in work begin first:
// together they want fewer different experts, and a step reads less. None is passed over for ever. Of the
// last lines those that may take longest begin first, with shorter ones beside them, so that a job does not
// end with a long answer alone in every step. Pure.
import type { Company, Sketch } from './likeness.js'

/** A line that has not begun. */
export interface WaitingLine {
  readonly number: number
  /** Most tokens that an answer to it may have. */
  readonly mayDraw: number
  /** An earlier run of the job has drawn some. */
  readonly hasTokens: boolean
  readonly sketch: Sketch
  /** Lines that had begun when it came. */
  readonly begunBefore: number
}

/** What the choice depends on beside the lines themselves. */
export interface Choosing {
  readonly company: Company
  /** Lines that have begun. */
  readonly begun: number
  /** Lines that wait at most, for the likest to be chosen from; 1: they begin as they come. */
  readonly window: number
  /** Answers that share a step, at most. */
  readonly places: number
  /** No line waits but these. */
  readonly areLast: boolean
  /** The line whose result must be written next. */
  readonly oldest: number
  /** So many results wait for it that no other line begins. */
  readonly areTooMany: boolean
}

/** So many lines are the last ones, for each answer in work at once. */
const LAST_EACH = 4
/** A line that was passed over by so many windows begins. */
const WINDOWS_MOST = 2

/** So many lines wait before the first one begins, where there are so many. */
export function waitingMost(window: number, places: number): number {
  return Math.max(window, LAST_EACH * places)
}

/** Index of the line that begins next; null: the oldest has begun, and no other may. */
export function nextOf(waiting: readonly WaitingLine[], choosing: Choosing): number | null {
  const { company, begun, window, places, areLast, oldest, areTooMany } = choosing
  const [first] = waiting
  if (areTooMany) return first?.number === oldest ? 0 : null
  const isEnding = areLast && waiting.length <= LAST_EACH * places
  const isOverdue = first !== undefined && begun - first.begunBefore >= WINDOWS_MOST * window
  if (isOverdue && !isEnding) return 0
  const compared = isEnding ? waiting : waiting.slice(0, window)
  let best = 0
  let bestRank: readonly number[] = []
  for (const [at, { mayDraw, hasTokens, sketch }] of compared.entries()) {
    const likeness = window === 1 ? 0 : company.likeness(sketch)
    const rank = [hasTokens ? 1 : 0, isEnding ? mayDraw : 0, likeness]
    if (at > 0 && !isGreater(rank, bestRank)) continue
    best = at
    bestRank = rank
  }
  return best
}

/** By the first number that differs. */
function isGreater(one: readonly number[], other: readonly number[]): boolean {
  const at = one.findIndex((value, index) => value !== other[index])
  return at >= 0 && (one[at] ?? 0) > (other[at] ?? 0)
}
