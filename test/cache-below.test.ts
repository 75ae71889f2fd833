// What the cache promises of slots in RAM below those of a GPU: what lies there is copied and not read, what
// is read goes through it and stays, and what the GPU keeps anyway leaves it first. (That no order is ever
// refused is in cache-rules.test.ts.)
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { newLayerCounts } from '../src/cache/counts.js'
import { type Expert, placeOf, slotOf, Tier, tierOf } from '../src/cache/place.js'
import { createPolicy } from '../src/cache/policies.js'
import type { CacheShape, Policy } from '../src/cache/policy.js'
import { OrderField, Urgency } from '../src/cache/records.js'
import { Sharing } from '../src/cache/sharing.js'
import { SlotCache } from '../src/cache/slotcache.js'
import { readTrace } from '../src/engine/trace.js'
import { CacheDevice, visit } from './cachedevice.js'
import { fixtures } from './paths.js'

function policyOf(name: string, shape: CacheShape): Policy {
  const policy = createPolicy(name, shape)
  if ('problem' in policy) throw new Error(policy.problem)
  return policy
}

/** A cache over two tiers and its device, whose slots have all been touched. */
function open(shape: Partial<CacheShape>, slotsBelow: number, policy = 'lru') {
  const whole = { moeLayers: 1, experts: 8, topK: 2, slots: 2, ...shape }
  const below = { ...whole, slots: slotsBelow }
  const ram = new CacheDevice(whole.experts, slotsBelow)
  const device = new CacheDevice(whole.experts, whole.slots, Tier.gpu, ram).touchAll()
  const counts = newLayerCounts(whole.moeLayers)
  const parts = slotsBelow === 0 ? null : { shape: below, policy: policyOf(policy, below) }
  const cache = new SlotCache(whole, policyOf(policy, whole), counts, null, Tier.gpu, parts)
  device.tell(cache)
  return { cache, device, ram, counts }
}

const list = (...values: number[]) => Int32Array.from(values)
const sum = (values: Float64Array) => values.reduce((total, value) => total + value, 0)
const held = (device: CacheDevice) => device.slots.map(({ expert }) => expert)

/** [expert, from, tier, urgency] of each order. */
function told(orders: Int32Array): number[][] {
  return Array.from({ length: orders.length / OrderField.count }, (_, index) => {
    const order = orders.subarray(index * OrderField.count)
    const [expert = -1, from = -1, to = -1, urgency = -1] = order
    return [expert, from, tierOf(to), urgency]
  })
}

describe('an expert that a layer wants', () => {
  it('is read into RAM and copied from there, in this order, and is computed with above', () => {
    const { cache, ram } = open({}, 4)
    const { places, orders } = cache.place(0, list(5), 1)
    const slot = orders[OrderField.to] ?? -1
    expect(told(orders)).toEqual([
      [5, -1, Tier.ram, Urgency.demand],
      [5, slot, Tier.gpu, Urgency.demand],
    ])
    expect(slotOf(slot)).toBeLessThan(ram.slots.length)
    expect(places[0]).toBe(orders[OrderField.count + OrderField.to])
  })

  it('is copied where it lies in RAM, and counted apart', () => {
    const { cache, device, ram, counts } = open({}, 4)
    for (const wanted of [[0, 1], [2, 3], [0]]) visit(cache, device, 0, wanted)
    expect(ram.ordered.map(([expert]) => expert)).toEqual([0, 1, 2, 3])
    expect(device.copied).toEqual([0, 1, 2, 3, 0])
    expect([sum(counts.misses), sum(counts.hits), sum(counts.hitsBelow)]).toEqual([4, 1, 1])
  })

  it('is read past RAM where nothing there may leave', () => {
    const { cache, device } = open({ slots: 4 }, 1)
    const { orders } = cache.place(0, list(1, 2), 1)
    expect(told(orders).map(([expert, from, tier]) => [expert, from, tier])).toEqual([
      [1, -1, Tier.ram],
      [1, placeOf(Tier.ram, 0), Tier.gpu],
      [2, -1, Tier.gpu],
    ])
    device.stage(orders)
    device.landAll()
    device.tell(cache)
    expect(cache.missing(0, list(1, 2))).toBe(0)
  })
})

describe('an expert that is foreseen', () => {
  const shape = { moeLayers: 4, slots: 8 }
  const ofLayer = (moeLayer: number) => 8 * moeLayer + 1

  it('is read into RAM, and for the next layer goes on to the GPU', () => {
    const { cache } = open(shape, 16)
    cache.keep(0, list())
    const orders = told(cache.ahead(list(ofLayer(1), ofLayer(2))))
    expect(orders.map(([expert, , tier]) => [expert, tier])).toEqual([
      [ofLayer(1), Tier.ram],
      [ofLayer(1), Tier.gpu],
      [ofLayer(2), Tier.ram],
    ])
    expect(orders.every(([, , , urgency]) => urgency === Urgency.ahead)).toBe(true)
  })

  it('is copied from RAM once it is the next layer that wants it, without another read', () => {
    const { cache, device, ram, counts } = open(shape, 16)
    const expert = ofLayer(2) as Expert
    cache.keep(0, list())
    device.stage(cache.ahead(list(expert)))
    device.landAll()
    device.tell(cache)
    expect([cache.isBelow(expert), cache.isReady(expert)]).toEqual([true, false])
    cache.keep(1, list())
    device.stage(cache.ahead(list(expert)))
    device.landAll()
    device.tell(cache)
    expect([cache.isBelow(expert), cache.isReady(expert)]).toEqual([false, true])
    visit(cache, device, 2, [1])
    expect(ram.ordered).toHaveLength(1)
    expect([sum(counts.ahead), sum(counts.aheadHits)]).toEqual([1, 1])
  })

  it('and not wanted is called back in both, or counted once as read for nothing', () => {
    for (const lands of [false, true]) {
      const { cache, device, ram, counts } = open(shape, 16)
      cache.keep(0, list())
      device.stage(cache.ahead(list(ofLayer(1))))
      if (lands) device.landAll()
      visit(cache, device, 1, [4])
      device.landAll()
      device.tell(cache)
      expect(held(device).includes(ofLayer(1))).toBe(lands)
      expect(held(ram).includes(ofLayer(1))).toBe(lands)
      expect([sum(counts.aheadWasted), cache.unusedGuesses]).toEqual([1, lands ? 1 : 0])
    }
  })
})

describe('what RAM keeps', () => {
  it('is not given up while it is being copied', () => {
    const { cache, device, ram } = open({ slots: 6 }, 2)
    visit(cache, device, 0, [0, 1])
    device.stage(cache.place(0, list(2, 3), 1).orders)
    // Both are on their way up from RAM, or past it.
    cache.used(list(4, 1, -1))
    device.stage(cache.place(0, list(4), 1).orders)
    device.landAll()
    device.tell(cache)
    expect(cache.missing(0, list(0, 1, 2, 3, 4))).toBe(0)
    expect(ram.count('ready')).toBe(2)
  })

  it('is what a large GPU does not keep: doubles of what stayed there longest leave first', () => {
    const { cache, device, ram } = open({ experts: 12, slots: 4 }, 4)
    // Two stay in use while others come and go.
    for (const others of [2, 4, 6]) {
      visit(cache, device, 0, [0, 1])
      visit(cache, device, 0, [others, others + 1])
    }
    expect(held(device)).toEqual(expect.arrayContaining([0, 1]))
    expect([...held(ram)].sort()).toEqual([4, 5, 6, 7])
  })
})

describe('over recorded routing', () => {
  const trace = readTrace(join(fixtures, 'traces/ring-tiny.trace'))
  const moeLayers = trace.layers.length

  /** Reads of all sequences, one token after the other. */
  function readsOf(slots: number, slotsBelow: number, policy: string): number {
    const shape = { moeLayers, experts: trace.experts, topK: trace.topK, slots }
    const { cache, device, counts } = open(shape, slotsBelow, policy)
    const out = new Uint16Array(trace.topK)
    for (const sequence of trace.sequences) {
      for (let token = 0; token < Math.min(100, sequence.tokens); token += 1) {
        for (let moeLayer = 0; moeLayer < moeLayers; moeLayer += 1) {
          trace.expertsOf(sequence, token, moeLayer, out)
          visit(
            cache,
            device,
            moeLayer,
            [...out].sort((a, b) => a - b),
          )
        }
      }
    }
    expect(sum(counts.hits) + sum(counts.misses)).toBe(sum(counts.requests))
    return sum(counts.misses)
  }

  it.each(['auto', 'lfu'])('a GPU that holds one token lets RAM keep all it can (%s)', (policy) => {
    const cycle = trace.topK * moeLayers
    expect(readsOf(cycle, 3 * cycle, policy)).toBeLessThanOrEqual(readsOf(3 * cycle, 0, policy))
  })

  it.each(['auto', 'lfu'])('a GPU that holds two is not held twice (%s)', (policy) => {
    const cycle = trace.topK * moeLayers
    const both = readsOf(2 * cycle, 2 * cycle, policy)
    expect(both).toBeLessThan(0.8 * readsOf(2 * cycle, 0, policy))
  })
})

describe('experts that are shared with the processor', () => {
  /** Copies that take so long, and the processor likewise; both are known. */
  function sharing(copySeconds: number, hostSeconds: number): Sharing {
    const made = new Sharing(8)
    made.did(1, 1000, 1, 1000)
    made.did(101, 1000 + 100 * copySeconds, 101, 1000 + 100 * hostSeconds)
    return made
  }
  const chosenOf = (made: Sharing, count: number, queued = 0) => {
    for (let name = 0; name < count; name += 1) made.offer(name, count - name)
    return Array.from(made.chosen(queued))
  }

  it.each([
    // The processor is as fast: half of them. Three times as fast: three of four.
    [1, 1, 4, 0, 2],
    [3, 1, 4, 0, 3],
    // What has to be copied anyway makes the link the later one.
    [1, 1, 2, 4, 2],
    // One saves nothing where the other takes as long.
    [1, 2, 1, 0, 0],
    [1, 50, 4, 0, 0],
    [50, 1, 4, 0, 4],
  ])('copies %d s, processor %d s: of %d, beside %d others, it computes %d', (...numbers) => {
    const [copy, host, count, queued, expected] = numbers
    expect(chosenOf(sharing(copy, host), count, queued)).toHaveLength(expected)
  })

  it('are those that are least worth a copy', () => {
    expect(chosenOf(sharing(1, 1), 4)).toEqual([3, 2])
  })

  it('are none before a copy is known, one before the processor is, and one now and then', () => {
    const made = new Sharing(8)
    expect(chosenOf(made, 4)).toEqual([])
    made.did(4, 400, 0, 0)
    made.did(8, 404, 0, 0)
    expect(chosenOf(made, 4)).toHaveLength(1)
    // The first, on cold threads, does not count.
    made.did(12, 408, 1, 1000)
    expect(chosenOf(made, 4)).toHaveLength(1)
    // Ten times as slow: what trials cost stays small.
    made.did(16, 412, 2, 1010)
    let trials = 0
    for (let layer = 1; layer <= 4000; layer += 1) {
      trials += chosenOf(made, 4).length
      made.did(16 + 4 * layer, 412 + 4 * layer, 2 + trials, 1010 + 10 * trials)
    }
    expect(trials).toBeGreaterThan(2)
    expect((trials * 10) / (4 * 4000)).toBeLessThan(0.02)
  })

  it('are none while sharing is off', () => {
    const made = sharing(50, 1)
    made.isOn = false
    expect(chosenOf(made, 4)).toEqual([])
    made.isOn = true
    expect(chosenOf(made, 4)).toHaveLength(4)
  })

  it('lie below and are named there, while the others are ordered up', () => {
    const whole = { moeLayers: 1, experts: 8, topK: 4, slots: 4 }
    const below = { ...whole, slots: 8 }
    const ram = new CacheDevice(8, 8)
    const device = new CacheDevice(8, 4, Tier.gpu, ram).touchAll()
    const parts = { shape: below, policy: policyOf('lru', below) }
    const counts = newLayerCounts(1)
    const shared = sharing(1, 1)
    const of = [whole, policyOf('lru', whole), counts, null, Tier.gpu, parts, shared] as const
    const cache = new SlotCache(...of)
    device.tell(cache)
    for (const wanted of [[0, 1, 2, 3], [4, 5, 6, 7]]) visit(cache, device, 0, wanted) // biome-ignore format: one line
    const { places, orders } = cache.place(0, list(0, 1, 2, 7), 1)
    const tiers = [...places].map(tierOf).sort()
    // Three lie below: two copies and one there, or one and two, take as long.
    expect(tiers).toEqual([Tier.ram, Tier.gpu, Tier.gpu, Tier.gpu])
    expect(told(orders)).toHaveLength(2)
    const onHost = [0, 1, 2].find((at) => tierOf(places[at] ?? 0) === Tier.ram) ?? -1
    expect(ram.holds(onHost)).toBe('ready')
    // A step of many tokens has all copied.
    const many = cache.place(0, list(0, 1, 2), 17)
    expect([...many.places].every((place) => place === -1 || tierOf(place) === Tier.gpu)).toBe(true)
  })
})
