// The constants that a plan stands on beside rates and routing, each with its source. Low, likely and high
// are from what was seen of this program; they are no statistics.

/** The least favourable, the one to go by, the most favourable. */
export interface Range {
  readonly low: number
  readonly likely: number
  readonly high: number
}

/**
 * Decode of a model in memory, as a share of only reading its weights: 0.83 [0.71 to 0.85] and 0.75 [0.63 to
 * 0.78] with two threads (docs/benchmarks.md, docs/proof.md).
 */
export const ofReading: Range = { low: 0.65, likely: 0.79, high: 0.9 }

/** The same of a GPU's memory: none was measured; public kernels reach 0.5 to 0.87 of reading. */
export const ofReadingVram: Range = { low: 0.5, likely: 0.7, high: 0.87 }

/** Accurate multiply-adds a second and core, many tokens at once: 108 to 125 tokens/s of 947 million, two cores. */
export const productsPerCore: Range = { low: 4e10, likely: 5.5e10, high: 6.5e10 }

/**
 * What a drive gives beside computing, of what it gives alone, by who says so. On two cores 0.88 of what
 * could be attained was (docs/benchmarks.md); a drive that nobody measured may be half as fast, or faster.
 */
export const driveBeside = {
  measured: { low: 0.75, likely: 0.88, high: 1 },
  given: { low: 0.85, likely: 1, high: 1.02 },
  assumed: { low: 0.5, likely: 1, high: 2 },
} as const satisfies Record<string, Range>

/** Misses, of those that were rehearsed: of routing that was made up, and of a trace of the same kind. A judgement. */
export const missesOf = {
  generated: { low: 1.15, likely: 1, high: 0.85 },
  recorded: { low: 1.06, likely: 1, high: 0.94 },
} as const satisfies Record<string, Range>

/**
 * Of the shorter of reading and computing in a step of many tokens, what is not hidden behind the longer: 512
 * tokens took 5.97 s where reading takes 4.03 and computing 4.1 (docs/benchmarks.md).
 */
export const exposed: Range = { low: 1, likely: 0.5, high: 0.1 }

/** Of what one gains by look-ahead who knows what comes, what a forecast gains: .40 to .57 (docs/proof.md). */
export const ofOracle = 0.5

/** Of a GPU's memory, what can be had for weights. */
export const ofVram = 0.9
