// Which of a job's lines begins next. They begin as they come, so that answers in the order of the input
// are written soon; but of the last ones those that may take longest begin first, with shorter ones beside
// them, so that a job does not end with a long answer alone in every step. Pure.

/** A line that has not begun. */
export interface WaitingLine {
  readonly number: number
  /** Most tokens that an answer to it may have. */
  readonly mayDraw: number
}

/** So many lines are the last ones, for each answer in work at once. */
export const lastLinesEach = 4

/**
 * Index of the line that begins next; of equal ones the first. `oldest`: the line whose result must be
 * written next. While results that wait for it are too many, no other one begins, and null means that it
 * has begun.
 */
export function nextOf(
  waiting: readonly WaitingLine[],
  oldest: number,
  areTooMany: boolean,
): number | null {
  if (areTooMany) return waiting[0]?.number === oldest ? 0 : null
  let best = 0
  for (const [at, { mayDraw }] of waiting.entries())
    if (mayDraw > (waiting[best]?.mayDraw ?? 0)) best = at
  return best
}
