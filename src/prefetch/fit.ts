// Learns from lessons: the worths of the signs by logistic regression, held near what they were before, then
// what the probabilities that come out are off by. The correction is made from lessons that the worths
// have not been fitted to, and the calibration error is that of the probabilities as they were given out, before
// this lesson was learned. Pure: lessons and weights in, weights out.
import { LessonField } from './lessons.js'
import { Reliability } from './reliability.js'
import { Sign } from './signs.js'
import { bands, calibrationAt, correctionsAt, worthsAt } from './weights.js'

/** So many lessons' worth of belief in each weight as it was. */
const belief = 20
const rounds = 6
/** Lessons come in runs that belong together; every fourth run is for the correction. */
const runLength = 512
const runsForCorrection = 4
/** Fewer lessons of a kind say nothing of its calibration. */
const leastLessons = 1000

/** New weights from lessons [n][LessonField.count], oldest first. `kinds`: of estimates. */
export function fitWeights(
  lessons: Float32Array,
  weights: Float32Array,
  kinds: number,
): Float32Array {
  const learned = weights.slice()
  for (let kind = 0; kind < kinds; kind += 1) {
    const own = lessonsOf(lessons, kind)
    if (own.length < leastLessons) continue
    learned[calibrationAt(kind)] = reliabilityOf(lessons, own, told).error()
    for (let band = 0; band < bands; band += 1) {
      const ofBand = own.filter((start) => lessons[start + LessonField.band] === band)
      const forWorths = ofBand.filter((start) => !isForCorrection(start))
      learnWorths(lessons, forWorths, learned, worthsAt(kind, band))
    }
    const unseen = reliabilityOf(lessons, own.filter(isForCorrection), (all, start) =>
      logistic(all, start, learned, worthsAt(kind, all[start + LessonField.band] ?? 0)),
    )
    learned.set(unseen.corrections(), correctionsAt(kind))
  }
  return learned
}

/** Starts of the lessons of a kind. */
function lessonsOf(lessons: Float32Array, kind: number): number[] {
  const starts: number[] = []
  for (let start = 0; start < lessons.length; start += LessonField.count) {
    if (lessons[start + LessonField.kind] === kind) starts.push(start)
  }
  return starts
}

function isForCorrection(start: number): boolean {
  return Math.floor(start / LessonField.count / runLength) % runsForCorrection === 0
}

function told(lessons: Float32Array, start: number): number {
  return lessons[start + LessonField.told] ?? 0
}

function reliabilityOf(
  lessons: Float32Array,
  starts: readonly number[],
  probabilityOf: (lessons: Float32Array, start: number) => number,
): Reliability {
  const table = new Reliability()
  for (const start of starts) {
    table.add(probabilityOf(lessons, start), lessons[start + LessonField.wanted] === 1)
  }
  return table
}

/**
 * Makes the lessons likelier round by round, as Newton's method does but by a curvature that is never
 * too small, so that no round makes them less likely (Jaakkola and Jordan's bound). The weights lie at
 * `first`.
 */
function learnWorths(
  lessons: Float32Array,
  starts: readonly number[],
  weights: Float32Array,
  first: number,
): void {
  const before = weights.slice(first, first + Sign.count)
  for (let round = 0; starts.length > 0 && round < rounds; round += 1) {
    const system = new LinearSystem(Sign.count)
    for (const start of starts) {
      const expected = logistic(lessons, start, weights, first)
      const error = (lessons[start + LessonField.wanted] ?? 0) - expected
      system.add(lessons, start, error, curvature(expected))
    }
    for (let sign = 0; sign < Sign.count; sign += 1) {
      const strayed = (weights[first + sign] ?? 0) - (before[sign] ?? 0)
      system.hold(sign, belief, strayed)
    }
    const step = system.solve()
    for (let sign = 0; sign < Sign.count; sign += 1) {
      weights[first + sign] = (weights[first + sign] ?? 0) + (step[sign] ?? 0)
    }
  }
}

/** Of the bound of the logistic's logarithm that touches it where it gives this probability. */
function curvature(probability: number): number {
  const inside = Math.max(1e-6, Math.min(1 - 1e-6, probability))
  const logit = Math.log(inside / (1 - inside))
  return Math.abs(logit) < 1e-3 ? 0.25 : (inside - 0.5) / logit
}

/** The probability by the signs that begin at `start` and the worths that begin at `first`, uncorrected. */
export function logistic(
  signs: Float32Array,
  start: number,
  weights: Float32Array,
  first: number,
): number {
  let sum = 0
  for (let sign = 0; sign < Sign.count; sign += 1) {
    sum += (signs[start + sign] ?? 0) * (weights[first + sign] ?? 0)
  }
  return 1 / (1 + Math.exp(-sum))
}

/** Symmetric equations for the step of one round. */
class LinearSystem {
  /** [row][size + 1], the right side last */
  readonly #rows: Float64Array

  constructor(private readonly size: number) {
    this.#rows = new Float64Array(size * (size + 1))
  }

  add(signs: Float32Array, start: number, error: number, weight: number): void {
    const width = this.size + 1
    for (let row = 0; row < this.size; row += 1) {
      const sign = signs[start + row] ?? 0
      if (sign === 0) continue
      const scaled = weight * sign
      for (let column = 0; column < this.size; column += 1) {
        this.#add(row * width + column, scaled * (signs[start + column] ?? 0))
      }
      this.#add(row * width + this.size, error * sign)
    }
  }

  /** The unknown stays near 0 as if so many lessons had said so; it has `strayed` already. */
  hold(row: number, lessons: number, strayed: number): void {
    const width = this.size + 1
    this.#add(row * width + row, lessons)
    this.#add(row * width + this.size, -lessons * strayed)
  }

  /** By elimination; what is held can always be solved. */
  solve(): Float64Array {
    const width = this.size + 1
    for (let pivot = 0; pivot < this.size; pivot += 1) {
      const scale = this.#rows[pivot * width + pivot] ?? 1
      for (let row = 0; row < this.size; row += 1) {
        if (row === pivot) continue
        const factor = (this.#rows[row * width + pivot] ?? 0) / scale
        for (let column = pivot; column < width; column += 1) {
          this.#add(row * width + column, -factor * (this.#rows[pivot * width + column] ?? 0))
        }
      }
    }
    return Float64Array.from({ length: this.size }, (_, row) => {
      return (this.#rows[row * width + this.size] ?? 0) / (this.#rows[row * width + row] ?? 1)
    })
  }

  #add(at: number, value: number): void {
    this.#rows[at] = (this.#rows[at] ?? 0) + value
  }
}
