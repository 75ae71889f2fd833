// What has been learned, as one array of numbers: for each kind of estimate (a distance, a distance
// behind the next layer's attention, or priors alone)
// the worths of the signs in each band of layers, a correction of the probabilities that come out, and
// the error that remains. Whoever learns in another thread publishes such an array in shared memory; the
// forecaster takes it over between steps.
import { fittedFor, fittedForAttended, fittedForPriors, Sign } from './signs.js'

/** Early layers, middle ones, late ones. */
export const bands = 3
/** Of probabilities, equally wide. */
export const bins = 20

/** Nothing is certain: probabilities stay so far from 0 and 1. */
export const leastProbability = 1e-4

const correctionAt = bands * Sign.count
const errorAt = correctionAt + bins
const kindWidth = errorAt + 1

/** Where the worths of a band's signs begin. */
export function worthsAt(kind: number, band: number): number {
  return kind * kindWidth + band * Sign.count
}

/** Where what is added to a probability begins, at the middle of each bin. */
export function correctionsAt(kind: number): number {
  return kind * kindWidth + correctionAt
}

/** Where the expected calibration error stands; NaN until it has been measured. */
export function calibrationAt(kind: number): number {
  return kind * kindWidth + errorAt
}

export function bandOf(moeLayer: number, moeLayers: number): number {
  return Math.min(bands - 1, Math.floor((bands * moeLayer) / moeLayers))
}

/**
 * What is known before anything is learned. Kinds: one for each distance, one for each attended, then
 * priors. `chance`: the share of a layer's experts that a token chooses.
 */
export function firstWeights(distances: readonly number[], chance: number): Float32Array {
  const kinds = [
    ...distances.map((distance) => fittedFor(distance)),
    ...distances.map((distance) => fittedForAttended(distance)),
    fittedForPriors(chance),
  ]
  const weights = new Float32Array(kinds.length * kindWidth)
  for (const [kind, worths] of kinds.entries()) {
    for (let band = 0; band < bands; band += 1) weights.set(worths, worthsAt(kind, band))
    weights[calibrationAt(kind)] = Number.NaN
  }
  return weights
}

/** The probability with its correction, which runs straight from the middle of one bin to the next. */
export function corrected(weights: Float32Array, kind: number, probability: number): number {
  const at = Math.max(0, Math.min(bins - 1, probability * bins - 0.5))
  const bin = Math.min(bins - 2, Math.floor(at))
  const first = correctionsAt(kind) + bin
  const low = weights[first] ?? 0
  const high = weights[first + 1] ?? 0
  const sum = probability + low + (at - bin) * (high - low)
  return Math.max(leastProbability, Math.min(1 - leastProbability, sum))
}

/** Weights in shared memory: two copies that are written in turn, and how often that was done. */
export class Published {
  readonly memory: SharedArrayBuffer
  readonly #version: Int32Array
  readonly #copies: readonly [Float32Array, Float32Array]

  /** `length`: of the weights. */
  constructor(length: number, memory = new SharedArrayBuffer(8 + 8 * length)) {
    this.memory = memory
    this.#version = new Int32Array(memory, 0, 1)
    this.#copies = [
      new Float32Array(memory, 8, length),
      new Float32Array(memory, 8 + 4 * length, length),
    ]
  }

  /** How often weights were published, at most 2^31 times. */
  get version(): number {
    return Atomics.load(this.#version, 0)
  }

  /** One thread may publish. */
  publish(weights: Float32Array): void {
    const next = this.version + 1
    this.#copies[next % 2 === 0 ? 0 : 1].set(weights)
    Atomics.store(this.#version, 0, next)
  }

  /** Copies the latest, which nobody writes until two more have been published. Returns its version. */
  take(into: Float32Array): number {
    for (;;) {
      const version = this.version
      into.set(this.#copies[version % 2 === 0 ? 0 : 1])
      if (this.version - version < 2) return version
    }
  }
}
