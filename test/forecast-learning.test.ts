// What the forecaster learns from: lessons in a ring, weights fitted to them, and how far the
// probabilities may be relied upon.
import { describe, expect, it } from 'vitest'
import { fitWeights } from '../src/prefetch/fit.js'
import { LessonField, Lessons } from '../src/prefetch/lessons.js'
import { Reliability } from '../src/prefetch/reliability.js'
import { Sign } from '../src/prefetch/signs.js'
import {
  bins,
  calibrationAt,
  corrected,
  correctionsAt,
  firstWeights,
  Published,
  worthsAt,
} from '../src/prefetch/weights.js'
import { randomFrom } from './random.js'

/** Lessons that come about by these worths. */
function lessonsBy(worths: readonly number[], count: number, kind = 0): Float32Array {
  const random = randomFrom(11)
  const lessons = new Float32Array(count * LessonField.count)
  for (let start = 0; start < lessons.length; start += LessonField.count) {
    lessons[start] = 1
    for (let sign = 1; sign < worths.length; sign += 1) lessons[start + sign] = 4 * random() - 2
    const sum = worths.reduce((all, worth, sign) => all + worth * (lessons[start + sign] ?? 0), 0)
    lessons[start + LessonField.wanted] = random() < 1 / (1 + Math.exp(-sum)) ? 1 : 0
    lessons[start + LessonField.kind] = kind
    lessons[start + LessonField.told] = 0.5
  }
  return lessons
}

describe('the ring of lessons', () => {
  const signs = new Float32Array(2 * Sign.count)
  const told = (lessons: Float32Array) =>
    Array.from(
      { length: lessons.length / LessonField.count },
      (_, at) => lessons[at * LessonField.count + LessonField.told],
    )

  it('gives back what was written, oldest first', () => {
    const lessons = new Lessons()
    signs.set([1, 0.5], Sign.count)
    lessons.add(signs, Sign.count, true, 2, 1, 0.25)
    lessons.add(signs, 0, false, 0, 0, 0.75)
    const latest = new Lessons(lessons.memory).latest()
    expect(told(latest)).toEqual([0.25, 0.75])
    expect([...latest.subarray(0, 2)]).toEqual([1, 0.5])
    const fields = [LessonField.wanted, LessonField.kind, LessonField.band]
    expect(fields.map((field) => latest[field])).toEqual([1, 2, 1])
  })

  it('keeps the latest when it is full', () => {
    const lessons = new Lessons()
    const capacity = (lessons.memory.byteLength - 8) / 4 / LessonField.count
    for (let at = 0; at < capacity + 3; at += 1) lessons.add(signs, 0, false, 0, 0, at)
    const latest = told(lessons.latest())
    expect(latest).toHaveLength(capacity)
    expect(latest.slice(0, 2)).toEqual([3, 4])
    expect(latest.at(-1)).toBe(capacity + 2)
  })
})

describe('fitted weights', () => {
  it('come near the worths that the lessons came about by, of that kind and band alone', () => {
    const worths = [-1, 2, -0.5, 0.7]
    const before = firstWeights([1], 1 / 32)
    const after = fitWeights(lessonsBy(worths, 20_000), before, 2)
    for (const [sign, worth] of worths.entries()) {
      expect(after[worthsAt(0, 0) + sign]).toBeCloseTo(worth, 0)
      expect(Math.abs((after[worthsAt(0, 0) + sign] ?? 0) - worth)).toBeLessThan(0.15)
    }
    const others = (weights: Float32Array) =>
      weights.slice(worthsAt(0, 1), worthsAt(0, 1) + Sign.count)
    expect(others(after)).toEqual(others(before))
    expect(after.slice(worthsAt(1, 0))).toEqual(before.slice(worthsAt(1, 0)))
  })

  it('stay as they are without lessons enough', () => {
    const before = firstWeights([1], 1 / 32)
    expect(fitWeights(lessonsBy([0, 1], 100), before, 2)).toEqual(before)
  })

  it('tell how far off the probabilities were that had been given out', () => {
    // Half are wanted where half were expected, then where a fifth was.
    const lessons = lessonsBy([0], 20_000)
    const off = () => fitWeights(lessons, firstWeights([1], 1 / 32), 2)[calibrationAt(0)]
    expect(off()).toBeLessThan(0.02)
    for (let at = LessonField.told; at < lessons.length; at += LessonField.count) lessons[at] = 0.2
    expect(off()).toBeCloseTo(0.3, 1)
  })
})

describe('reliability', () => {
  it('is off by the distance between what was expected and what came, weighted by how often', () => {
    const table = new Reliability()
    for (let at = 0; at < 10; at += 1) table.add(0.22, at < 5)
    for (let at = 0; at < 30; at += 1) table.add(0.9, at < 27)
    expect(table.error()).toBeCloseTo((10 * 0.28) / 40, 10)
    expect(new Reliability().error()).toBeNaN()
  })

  it('corrects towards what came, and never makes the likelier less likely', () => {
    const table = new Reliability()
    const random = randomFrom(5)
    // What comes is too much expected, and in the middle falls where it should rise.
    for (let at = 0; at < 20_000; at += 1) {
      const probability = random()
      const truth = probability > 0.5 && probability < 0.6 ? 0.1 : 0.6 * probability
      table.add(probability, random() < truth)
    }
    const weights = firstWeights([1], 1 / 32)
    weights.set(table.corrections(), correctionsAt(0))
    const after = Array.from({ length: bins + 1 }, (_, at) => corrected(weights, 0, at / bins))
    expect(after[18]).toBeCloseTo(0.54, 1)
    expect(Math.abs((after[18] ?? 0) - 0.54)).toBeLessThan(0.05)
    for (const [at, probability] of after.entries()) {
      expect(probability).toBeGreaterThan(0)
      expect(probability).toBeLessThan(1)
      expect(probability).toBeGreaterThanOrEqual((after[at - 1] ?? 0) - 1e-6)
    }
    // Of another kind nothing was learned.
    expect(corrected(weights, 1, 0.5)).toBeCloseTo(0.5, 6)
  })
})

describe('published weights', () => {
  it('are what was published last, for whoever has the memory', () => {
    const published = new Published(3)
    const [into, other] = [new Float32Array(3), new Published(3, published.memory)]
    published.publish(Float32Array.of(1, 2, 3))
    published.publish(Float32Array.of(4, 5, 6))
    expect(other.version).toBe(2)
    expect(other.take(into)).toBe(2)
    expect([...into]).toEqual([4, 5, 6])
  })
})
