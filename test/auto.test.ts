// The policy `auto`: which rule rules and when it changes, which layer gives up a slot, and that every
// number of slots comes to an end.
import { describe, expect, it } from 'vitest'
import { AutoPolicy } from '../src/cache/auto.js'
import { Choice } from '../src/cache/choice.js'
import { newLayerCounts } from '../src/cache/counts.js'
import { GhostCache } from '../src/cache/ghost.js'
import type { Expert } from '../src/cache/place.js'
import { createPolicy, defaultPolicy } from '../src/cache/policies.js'
import type { CacheShape } from '../src/cache/policy.js'
import { Quotas } from '../src/cache/quotas.js'
import { Recency } from '../src/cache/recency.js'
import type { Worth } from '../src/cache/worth.js'
import { usesOf } from './cachedevice.js'
import { randomFrom } from './random.js'

/** Worths that stay as they are, whatever is used. */
class Fixed implements Worth {
  readonly name = 'fixed'
  constructor(private readonly worths: readonly number[]) {}
  of(expert: number): number {
    return this.worths[expert] ?? 0
  }
  used(): void {}
}

describe('the rule that rules', () => {
  const experts = 32
  const slots = 4
  const choice = () =>
    new Choice(
      new Fixed(Array.from({ length: experts }, (_, index) => index)),
      [new Recency(1, experts)],
      ...([1, experts, slots] as const),
    )
  const use = (of: Choice, wanted: number[], isSweep = false) =>
    of.used(0, usesOf(0, experts, wanted), wanted.length, 1, isSweep)
  // The first suits recency, which keeps 0 and 1; the second suits the index, which keeps 28 to 31.
  const lately = (token: number) => (token % 20 < 18 ? token % 2 : 2 + (token % 8))
  const highest = (token: number) => (token % 2 === 0 ? 28 + ((token / 2) % 4) : token % 27)

  it('is the first, until another would have missed less', () => {
    const of = choice()
    expect(of.ruling.name).toBe('fixed')
    for (let token = 0; token < 300; token += 1) use(of, [lately(token)])
    expect(of.ruling.name).toBe('recency')
    for (let token = 0; token < 2000; token += 1) use(of, [highest(token)])
    expect(of.ruling.name).toBe('fixed')
  })

  it('does not change for a lead that may be chance', () => {
    const of = choice()
    // Both miss all of these.
    for (let token = 0; token < 300; token += 1) use(of, [token % 27])
    for (let token = 0; token < 20; token += 1) use(of, [lately(token)])
    expect(of.ruling.name).toBe('fixed')
  })

  it('is not judged by sweeps', () => {
    const of = choice()
    for (let token = 0; token < 300; token += 1) use(of, [lately(token)], true)
    expect(of.ruling.name).toBe('fixed')
  })
})

describe('quotas', () => {
  const shape: CacheShape = { moeLayers: 3, experts: 8, topK: 2, slots: 12 }
  const worthOf = (...layers: number[][]) => new Fixed(layers.flat())
  const even = [5, 5, 5, 5, 0, 0, 0, 0]
  const records = (layer: number, ...wanted: number[]) => usesOf(layer, shape.experts, wanted)

  /** Four experts of each layer in slots. */
  function full(worth: Worth): Quotas {
    const quotas = new Quotas(shape)
    for (let layer = 0; layer < 3; layer += 1) {
      for (let index = 0; index < 4; index += 1) quotas.entered(8 * layer + index)
    }
    quotas.look(worth)
    return quotas
  }

  it('take a slot from the layer whose least is worth clearly less', () => {
    const worth = worthOf(even, [9, 9, 9, 1, 0, 0, 0, 0], [9, 9, 9, 2, 0, 0, 0, 0])
    const quotas = full(worth)
    quotas.trade(0, records(0, 0, 7), 2, worth)
    expect([...quotas.floors]).toEqual([5, 3, 4])
  })

  it('take the next slot from whoever then has the least', () => {
    const worth = worthOf(even, [9, 9, 9, 1, 0, 0, 0, 0], [9, 9, 9, 2, 0, 0, 0, 0])
    const quotas = full(worth)
    quotas.trade(0, records(0, 6, 7), 2, worth)
    expect([...quotas.floors]).toEqual([6, 3, 3])
  })

  it('stay where nothing elsewhere is worth clearly less, and where nothing is missing', () => {
    const worth = worthOf(even, [9, 9, 9, 4.9, 0, 0, 0, 0], even)
    const quotas = full(worth)
    quotas.trade(0, records(0, 7), 1, worth)
    expect([...quotas.floors]).toEqual([4, 4, 4])
    const cheap = worthOf(even, [0, 0, 0, 0, 0, 0, 0, 0], even)
    const still = full(cheap)
    const before = [...still.floors]
    still.trade(0, records(0, 0, 1), 2, cheap)
    expect([...still.floors]).toEqual(before)
  })

  it('let what was read for one token make room in the next layer already', () => {
    const worth = worthOf([5, 5, 5, 5, 0, 0, 0, -3], even, even)
    const quotas = full(worth)
    quotas.trade(0, records(0, 7), 1, worth)
    expect([...quotas.floors]).toEqual([4, 4, 4])
    quotas.left(3)
    quotas.entered(7)
    quotas.trade(1, records(1, 7), 1, worth)
    expect([...quotas.floors]).toEqual([3, 5, 4])
  })

  it('leave each layer what one token wants', () => {
    const worth = worthOf(even, [1, 1, 1, 1, 0, 0, 0, 0], even)
    const quotas = full(worth)
    for (const [first, second] of [
      [4, 5],
      [6, 7],
    ] as const) {
      quotas.trade(0, records(0, first, second), 2, worth)
      for (let layer = 1; layer < 3; layer += 1) {
        expect(quotas.floors[layer]).toBeGreaterThanOrEqual(shape.topK)
      }
      quotas.left(8 + first - 4)
      quotas.entered(first)
    }
  })

  it('give no layer more than twice its equal share', () => {
    const worth = worthOf([5, 5, 5, 5, 5, 5, 5, 5], [1, 1, 1, 1, 1, 1, 1, 1], even)
    const quotas = new Quotas({ ...shape, slots: 9 })
    for (const expert of [0, 1, 2, 3, 4, 5, 8, 9, 10]) quotas.entered(expert)
    quotas.look(worth)
    quotas.trade(0, records(0, 6, 7), 2, worth)
    expect(quotas.floors[0]).toBe(6)
  })

  it('find slots for a layer that has none', () => {
    const worth = worthOf(Array(8).fill(9), even, even)
    const quotas = new Quotas({ ...shape, slots: 7 })
    for (let index = 0; index < 7; index += 1) quotas.entered(index)
    quotas.look(worth)
    quotas.trade(1, records(1, 6), 1, worth)
    expect([...quotas.floors]).toEqual([6, 1, 0])
  })

  it('are equal where slots are fewer than what one token wants', () => {
    const worth = worthOf([5, 5, 0, 0, 0, 0, 0, 0], [-5, -5, 0, 0, 0, 0, 0, 0], even)
    const quotas = new Quotas({ ...shape, slots: 6 })
    const equal = [...quotas.floors]
    for (const expert of [0, 1, 8, 9, 16, 17]) quotas.entered(expert)
    quotas.look(worth)
    quotas.trade(0, records(0, 6), 1, worth)
    expect([...quotas.floors]).toEqual(equal)
  })

  it('are equal again when another rule takes over', () => {
    const worth = worthOf(even, [9, 9, 9, 1, 0, 0, 0, 0], even)
    const quotas = full(worth)
    const equal = [...new Quotas(shape).floors]
    quotas.trade(0, records(0, 7), 1, worth)
    expect([...quotas.floors]).not.toEqual(equal)
    quotas.level()
    expect([...quotas.floors]).toEqual(equal)
  })
})

describe('auto', () => {
  const shape: CacheShape = { moeLayers: 2, experts: 8, topK: 2, slots: 8 }

  it('is the default', () => {
    expect(defaultPolicy).toBe('auto')
    expect(createPolicy('auto', shape)).toBeInstanceOf(AutoPolicy)
  })

  it('names the rule that rules', () => {
    expect(new AutoPolicy(shape).ruling).toBe('learned')
  })

  it('gives up what is least likely to be wanted soon, of what may leave', () => {
    const policy = new AutoPolicy(shape)
    for (let token = 0; token < 20; token += 1) {
      policy.used(0, usesOf(0, 8, token < 10 ? [2, 5] : [3, 5]), 2, false)
    }
    const among = (...experts: number[]) => policy.victim(0, (expert) => experts.includes(expert))
    expect(among(2, 3, 5)).toBe(2)
    expect(among(3, 5, 7)).toBe(7)
    expect(policy.victim(0, () => false)).toBe(-1)
    expect(policy.chance(5 as Expert)).toBeGreaterThan(policy.chance(2 as Expert))
    expect(policy.chance(7 as Expert)).toBeLessThan(0.5)
  })

  it.each([1, 2, 3, 5, 8, 12, 31, 64])('comes to an end with %d slots for 8 layers', (slots) => {
    const of: CacheShape = { moeLayers: 8, experts: 8, topK: 2, slots }
    const counts = newLayerCounts(8)
    const policy = new AutoPolicy(of)
    const cache = new GhostCache(of, policy, counts)
    const random = randomFrom(slots)
    for (let step = 0; step < 200; step += 1) {
      // One token, several, and a sweep now and then.
      const tokens = step % 50 === 49 ? 200 : step % 10 === 9 ? 3 : 1
      for (let layer = 0; layer < 8; layer += 1) {
        const count = Math.min(8, 2 * tokens)
        const all = [0, 1, 2, 3, 4, 5, 6, 7].sort(() => random() - 0.5)
        const wanted = all.slice(0, count).sort((a, b) => a - b)
        cache.used(usesOf(layer, 8, wanted, tokens))
        cache.place(layer, Int32Array.from(wanted), tokens)
        expect(Math.min(...policy.floors)).toBeGreaterThanOrEqual(0)
      }
    }
    const requests = counts.requests.reduce((sum, count) => sum + count, 0)
    const misses = counts.misses.reduce((sum, count) => sum + count, 0)
    expect(misses).toBeLessThanOrEqual(requests)
    if (slots === 64) expect(misses).toBe(64)
  })
})
