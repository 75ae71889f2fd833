// The policy that learns, judged on generated routing of another seed than the one it was fitted on, and
// what each kind of sign is worth to it.
import { describe, expect, it } from 'vitest'
import { LearnedPolicy } from '../src/cache/learned.js'
import type { Expert } from '../src/cache/place.js'
import { generate } from '../src/simulate/generate.js'
import { randomFrom } from './random.js'
import { judged } from './routings.js'

const made = generate(5, {
  layers: 3,
  experts: 256,
  topK: 8,
  sequences: 4,
  tokens: 256,
  prompt: 32,
})

/** Misses of decode, relative to recency. */
function missesOf(policy: string, share: number, routing = made): number {
  const slotsPerLayer = Math.round(share * routing.experts)
  const [own = 0, recency = 0] = [policy, 'lru'].map((name) => {
    const { requests, hits } = judged(routing, { policy: name, slotsPerLayer })
    return requests - hits
  })
  expect(recency).toBeGreaterThan(0)
  return own / recency
}

describe('learned', () => {
  it.each([
    [0.15, 0.85],
    [0.25, 0.8],
    [0.5, 0.78],
  ])('misses less than recency with slots for %d of the experts', (share, most) => {
    expect(missesOf('learned', share)).toBeLessThan(most)
    expect(missesOf('learned-bypass', share)).toBeLessThan(most)
  })

  it('misses less still by what the router nearly chose, which only scores tell', () => {
    const unscored = { ...made, scores: null }
    const [blind, seeing] = [missesOf('learned', 0.25, unscored), missesOf('learned', 0.25)]
    expect(blind).toBeLessThan(0.9)
    expect(seeing).toBeLessThan(blind - 0.03)
  })
})

describe('a learned worth', () => {
  const shape = { moeLayers: 1, experts: 4, topK: 1, slots: 2 }
  const scores = Float32Array.of(0.6, 0.5, 0.1, 0.01)
  const worths = (policy: LearnedPolicy) =>
    [0, 1, 2, 3].map((expert) => policy.worth(expert as Expert))

  it('of experts that were never used follows how near they came', () => {
    const policy = new LearnedPolicy(shape)
    for (let token = 0; token < 5; token += 1) {
      policy.scored(0, scores)
      policy.used(0, Int32Array.of(0, 1), 1)
    }
    const [, near = 0, far = 0, farthest = 0] = worths(policy)
    expect(near).toBeGreaterThan(far)
    expect(far).toBeGreaterThan(farthest)
    expect(policy.victim(0, () => true)).toBe(3)
    expect(policy.victim(0, (expert) => expert < 3)).toBe(2)
  })

  it('rises for what has followed before what is used now', () => {
    const policy = new LearnedPolicy(shape)
    // 1 comes after 0 and 3 after 2, in an order that nothing else tells; at the end 3 is the fresher.
    const random = randomFrom(3)
    const pairs = Array.from({ length: 100 }, () => (random() < 0.5 ? [0, 1] : [2, 3]))
    for (const expert of [...pairs.flat(), 0, 1, 2, 3, 0]) {
      policy.used(0, Int32Array.of(expert, 1), 1)
    }
    const [, next = 0, later = 0] = worths(policy)
    expect(next).toBeGreaterThan(later)
  })

  it('learns that something else counts when what it was fitted to is wrong', () => {
    const policy = new LearnedPolicy(shape)
    // What comes near is never chosen here, and what is far off takes turns.
    for (let token = 0; token < 600; token += 1) {
      const chosen = 2 + (token % 2)
      policy.scored(0, scores)
      policy.used(0, Int32Array.of(chosen, 1), 1)
    }
    const [, near = 0, far = 0, farthest = 0] = worths(policy)
    expect(Math.min(far, farthest)).toBeGreaterThan(near)
  })
})
