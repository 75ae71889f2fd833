// The constants that a plan stands on beside rates and routing, each with its source. Low, likely and high
// are from what was seen of this program; they are no statistics.

/** The least favourable, the one to go by, the most favourable. */
export interface Range {
  readonly low: number
  readonly likely: number
  readonly high: number
}

/**
 * Decode of a model in memory, as a share of its experts' products alone: of only reading its weights it was
 * 0.83 [0.71 to 0.85] and 0.75 [0.63 to 0.78] with two threads (docs/benchmarks.md, docs/proof.md), those 0.96.
 */
export const ofReading: Range = { low: 0.68, likely: 0.82, high: 0.94 }

/** The same of a GPU's memory: none was measured; public kernels reach 0.5 to 0.87 of reading. */
export const ofReadingVram: Range = { low: 0.5, likely: 0.7, high: 0.87 }

/** Of multiplying as many tokens as there are, what steps of a model in memory do (docs/proof.md, batches of 4 to 128). */
export const ofProducts: Range = { low: 0.8, likely: 1, high: 1.1 }

/** What a step takes whatever is in it, in seconds: its way through the policy and the threads. */
export const stepSeconds = 5e-4

/** How far a drive may be from what is known of it, by who says so. One that nobody measured may be half as fast, or faster. */
export const ofDrive = {
  measured: { low: 0.85, likely: 1, high: 1.14 },
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
 * tokens took 5.97 s where reading takes 4.03 and computing 4.1 (docs/benchmarks.md). In steps that read only the
 * experts ahead that are certain, of what is computed before a layer has routed: 0.1 to 0.9 (docs/proof.md, batches).
 */
export const exposed: Range = { low: 1, likely: 0.5, high: 0.1 }

/** Of what one gains by look-ahead who knows what comes, what a forecast gains: .40 to .57 (docs/proof.md). */
export const ofOracle = 0.5

/** Of a GPU's memory, what can be had for weights. */
export const ofVram = 0.9
