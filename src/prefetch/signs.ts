// The signs by which an expert is judged to be wanted, and what each is worth before anything has been
// learned. Shares count relative to chance and margins in spreads, so that the same worths serve models
// with few experts and with many.

/** The signs of an expert, in this order. */
export const Sign = {
  always: 0,
  /** How far from being chosen, in choice scores and in logits; how far its group is from being kept; the smaller of the two. */
  own: 1,
  odds: 2,
  group: 3,
  both: 4,
  /** Four of them, of which one is 1: its rank among the candidates is within topK / 2, topK, 2 topK, 4 topK. */
  rank: 5,
  /** 1 if the layer used it in the last step. */
  before: 9,
  /** Logarithm of its share of recent tokens relative to chance, and of many. */
  lately: 10,
  long: 11,
  /** Logarithm of its share of tokens like this one relative to its usual one: by what an earlier layer used, by the token's id. */
  follows: 12,
  token: 13,
  /** What an estimate from farther away said, as a logit, and 1 where there was one. */
  deeper: 14,
  isDeeper: 15,
  count: 16,
} as const

/** Margins farther from a choice say no more. */
export const farthest = 4
/** Added to a share relative to chance before its logarithm is taken. */
export const leastShare = 0.1

/**
 * The worths of signs, by distance: means of those fitted to half of the sequences recorded of ring-tiny
 * (18 prompts that nothing is measured on), by 3/5, and to routing made up at 256 experts, by 2/5.
 */
const fitted: readonly (readonly [distance: number, worths: readonly number[]])[] = [
  [1, [-2, 0.35, 0.49, 0.11, 1.4, 1.42, 1.15, 0.88, 0.43, 0.34, 0.07, 0.3, 0.29, 0.35, 0.08, 0.14]],
  [2, [-1.96, 0.34, 0.56, 0.1, 0.75, 1.07, 0.92, 0.71, 0.46, 0.43, 0.1, 0.36, 0.46, 0.43, 0, 0]],
  [4, [-1.76, 0.24, 0.35, 0.09, 0.5, 0.45, 0.34, 0.27, 0.12, 0.57, 0.09, 0.55, 0.56, 0.43, 0, 0]],
]
/** Without early scores; `always` comes on top of what chance has. */
const fittedPriors = [-0.09, 0, 0, 0, 0, 0, 0, 0, 0, 0.69, 0.1, 0.89, 0.97, 1.23, 0, 0]

/** The same behind the attention of the next layer, fitted to 12 other sequences of ring-tiny. */
const fittedAttended: typeof fitted = [
  [1, [-1.9, 0.2, 0.2, 0, 2.6, 2, 1.85, 0.7, 0.1, 0.12, 0, 0.3, 0.5, 0.4, 0.05, 0.2]],
  [2, [-1.97, 0.1, 0.85, 0.1, 0.65, 1.12, 0.97, 0.67, 0.43, 0.4, 0.07, 0.42, 0.6, 0.45, 0, 0.03]],
  [4, [-1.74, 0.2, 0.4, 0.09, 0.46, 0.44, 0.3, 0.25, 0.1, 0.57, 0.09, 0.57, 0.63, 0.45, 0, 0]],
]

/** What the signs are worth at a distance in layers: as at the nearest that was fitted. */
export function fittedFor(distance: number): readonly number[] {
  return nearest(fitted, distance)
}

export function fittedForAttended(distance: number): readonly number[] {
  return nearest(fittedAttended, distance)
}

/** The same by priors alone. `chance`: the share of a layer's experts that a token chooses. */
export function fittedForPriors(chance: number): readonly number[] {
  const [always = 0, ...others] = fittedPriors
  return [always + Math.log(chance / (1 - chance)), ...others]
}

function nearest(rows: typeof fitted, distance: number): readonly number[] {
  let found = rows[0]
  for (const row of rows) {
    const isNearer = Math.abs(row[0] - distance) < Math.abs((found?.[0] ?? 0) - distance)
    if (isNearer) found = row
  }
  return found?.[1] ?? []
}
