// Sweeps that look ahead: once a layer's last loads are ordered, the first experts of the next layer
// follow into the slots that stream, behind everything that somebody waits for.
import { describe, expect, it } from 'vitest'
import { Certain } from '../src/cache/certain.js'
import { newLayerCounts } from '../src/cache/counts.js'
import { LfuPolicy } from '../src/cache/lfu.js'
import { PinnedPolicy } from '../src/cache/pinned.js'
import type { CacheShape, Policy } from '../src/cache/policy.js'
import { Profile } from '../src/cache/profile.js'
import { OrderField, Urgency } from '../src/cache/records.js'
import { manyTokens, SlotCache, unorderedTokens } from '../src/cache/slotcache.js'
import { CacheDevice, usesOf, visit } from './cachedevice.js'

const sweepTokens = unorderedTokens + 1
const list = (...values: number[]) => Int32Array.from(values)
const range = (count: number) => Array.from({ length: count }, (_, index) => index)
const sum = (values: Float64Array) => values.reduce((total, value) => total + value, 0)

/** A cache over two layers of 16 experts, and its device, whose slots have all been touched. */
function open(
  slots: number,
  policy: (shape: CacheShape) => Policy = (shape) => new LfuPolicy(shape),
) {
  const shape = { moeLayers: 2, experts: 16, topK: 2, slots }
  const device = new CacheDevice(16, slots).touchAll()
  const counts = newLayerCounts(2)
  const cache = new SlotCache(shape, policy(shape), counts)
  device.tell(cache)
  return { cache, device, counts }
}

describe('a sweep that looks ahead', () => {
  /** Begins a sweep through layer 0 of two that wants all of it; orders as they were given. */
  function sweeping(slots: number) {
    const { cache, device, counts } = open(slots)
    let left = Int32Array.from(range(16))
    const orders: number[][] = []
    const stop = () => {
      device.tell(cache)
      const plan = cache.place(0, left, sweepTokens)
      for (let at = 0; at < plan.orders.length; at += OrderField.count) {
        orders.push([...plan.orders.subarray(at, at + OrderField.count)])
      }
      device.stage(plan.orders)
      return plan
    }
    /** One wave: a stop, and what it placed is computed. */
    const wave = () => {
      const held = [...left].map((index) => device.holds(index) !== 'nowhere')
      const { places } = stop()
      // What the layer still wants stays where it is.
      for (const [at, index] of left.entries()) {
        if (held[at]) expect(device.holds(index)).not.toBe('nowhere')
      }
      left = Int32Array.from(device.mix(0, left, places, sweepTokens))
      return left.length
    }
    cache.used(usesOf(0, 16, range(16), sweepTokens))
    return { cache, device, counts, orders, wave }
  }

  const isGuess = ([expert = 0]: number[]) => expert >= 16

  it.each([5, 8, 12, 24])('reads the first experts of the next layer, with %d slots', (slots) => {
    const { device, counts, orders, wave } = sweeping(slots)
    while (wave() > 0);
    const guesses = orders.filter(isGuess).map(([expert]) => expert)
    expect(guesses.length).toBeGreaterThanOrEqual(2)
    expect(guesses).toEqual(range(guesses.length).map((index) => 16 + index))
    // Nothing of the layer in hand waits for a guess.
    const demand = orders.filter((order) => !isGuess(order)).map(([expert]) => expert)
    expect(demand).toEqual(range(16))
    expect(orders.findIndex(isGuess)).toBeGreaterThanOrEqual(
      orders.findLastIndex((o) => !isGuess(o)),
    )
    expect(counts.ahead[1]).toBe(guesses.length)
    // They are still on their way when the layer ends: the drive has work.
    expect(device.loading().sort((a, b) => a - b)).toEqual(guesses)
  })

  it('does not at the last layer, nor in steps of few tokens', () => {
    const { cache, device, counts } = open(24)
    visit(cache, device, 1, range(16), sweepTokens)
    visit(cache, device, 0, range(16), manyTokens)
    expect(sum(counts.ahead)).toBe(0)
  })

  it('gives up nothing that is pinned, whatever the guess', () => {
    const profile = new Profile(2, 16)
    for (const expert of profile.counts.keys()) profile.counts[expert] = 100 - (expert % 16)
    const { cache, device, counts } = open(13, (shape) => new PinnedPolicy(shape, profile))
    // Five of each layer are pinned, more than a sweep's floor; two others may go.
    for (const layer of [0, 1]) visit(cache, device, layer, range(5), 5)
    visit(cache, device, 0, [10, 11])
    device.stage(cache.place(0, list(9), sweepTokens).orders)
    expect(counts.ahead[1]).toBe(2)
    for (const pinned of range(5)) {
      expect([device.holds(pinned), device.holds(16 + pinned)]).toEqual(['ready', 'ready'])
    }
  })

  it('gives up nothing of the layer that the guess is for', () => {
    const { cache, device, counts } = open(7)
    for (const index of [15, 14]) visit(cache, device, 1, [index])
    device.stage(cache.place(0, Int32Array.from(range(5)), sweepTokens).orders)
    expect(device.loading()).toHaveLength(5)
    expect([counts.ahead[1], device.holds(31), device.holds(30)]).toEqual([0, 'ready', 'ready'])
  })

  it('goes no further than the slots that stream, however many are free', () => {
    const { cache, device, counts } = open(64)
    visit(cache, device, 0, range(16), sweepTokens)
    expect(counts.ahead[1]).toBe(8)
    expect(device.count('free')).toBe(64 - 16 - 8)
  })

  it('calls back what the next layer does not want, and counts it as waste', () => {
    const { cache, device, counts, orders, wave } = sweeping(8)
    while (wave() > 0);
    const [first = -1, second = -1] = device.loading().sort((a, b) => a - b)
    device.land(first)
    device.tell(cache)
    const wanted = range(16).filter((index) => index !== first - 16 && index !== second - 16)
    cache.used(usesOf(1, 16, wanted, sweepTokens))
    orders.length = 0
    const { orders: given } = cache.place(1, Int32Array.from(wanted), sweepTokens)
    expect([...given.subarray(0, 4)]).toEqual([second, -1, given[2], Urgency.cancel])
    device.stage(given)
    device.land(second)
    device.tell(cache)
    expect(device.holds(second)).toBe('nowhere')
    expect([counts.aheadWasted[1], counts.aheadHits[1]]).toEqual([2, 0])
  })

  it('counts as hits what came in time', () => {
    const { cache, device, counts, wave } = sweeping(8)
    visit(cache, device, 1, [9])
    while (wave() > 0);
    const guesses = device.loading()
    expect([counts.aheadHits[1], device.holds(16 + 9)]).toEqual([0, 'ready'])
    device.landAll()
    device.tell(cache)
    cache.used(usesOf(1, 16, range(16), sweepTokens))
    expect(counts.aheadHits[1]).toBe(guesses.length)
    expect(counts.hits[1]).toBe(guesses.length + 1)
    cache.place(1, Int32Array.from(range(16)), sweepTokens)
    expect(counts.aheadWasted[1]).toBe(0)
  })
})

describe('a step of many sequences', () => {
  const tokens = 64
  /** A visit in which every expert is wanted by as many tokens. */
  const visitAll = (cache: SlotCache, device: CacheDevice, layer: number) =>
    visit(cache, device, layer, range(16), tokens, usesOf(layer, 16, range(16), tokens / 8))

  it('reads what the next layer is certain to want, once this one has all it misses', () => {
    const { cache, device, counts } = open(24)
    visitAll(cache, device, 1)
    visitAll(cache, device, 0)
    const guesses = device.loading()
    expect(guesses.length).toBeGreaterThanOrEqual(2)
    expect(guesses.every((expert) => expert >= 16)).toBe(true)
    expect(counts.ahead[1]).toBe(guesses.length)
  })

  it('reads nothing ahead of a layer that it knows nothing of', () => {
    const { cache, device, counts } = open(24)
    visitAll(cache, device, 0)
    expect(sum(counts.ahead)).toBe(0)
    expect(device.loading()).toEqual([])
  })

  it('reads the first layer of the next step only behind a step that was as large', () => {
    const { cache, device, counts } = open(24)
    visitAll(cache, device, 0)
    visitAll(cache, device, 1)
    expect(counts.ahead[0]).toBe(0)
    visitAll(cache, device, 0)
    visitAll(cache, device, 1)
    expect(counts.ahead[0]).toBeGreaterThan(0)
  })
})

describe('what is certain', () => {
  /** Of 100 tokens all want expert 0, every tenth expert 1, one expert 2. */
  const certain = new Certain(1, 16)
  certain.add(0, list(0, 100, -1, 1, 10, -1, 2, 1, -1), 100)

  it('is what so many tokens cannot do without', () => {
    expect([0, 1, 2, 3].map((expert) => certain.isWanted(expert, 1))).toEqual([
      true,
      false,
      false,
      false,
    ])
    expect([0, 1, 2, 3].map((expert) => certain.isWanted(expert, 64))).toEqual([
      true,
      true,
      false,
      false,
    ])
  })

  it('is forgotten as other tokens come', () => {
    const later = new Certain(1, 16)
    later.add(0, list(0, 100, -1), 100)
    for (let step = 0; step < 40; step += 1) later.add(0, list(1, 100, -1), 100)
    expect([later.isWanted(0, 64), later.isWanted(1, 64)]).toEqual([false, true])
  })
})
