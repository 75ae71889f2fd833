// What the cache of slots promises, one by one: hits stay where they lie, misses take free slots and
// then victims', waves keep the drive busy, floors keep every layer hitting, guesses yield to demand.
import { describe, expect, it } from 'vitest'
import { AdvisedCache } from '../src/cache/advised.js'
import { MappedCache } from '../src/cache/cache.js'
import { newLayerCounts } from '../src/cache/counts.js'
import { expertOf, nowhere, placeOf, slotOf, Tier } from '../src/cache/place.js'
import { createPolicy } from '../src/cache/policies.js'
import type { CacheShape, Policy } from '../src/cache/policy.js'
import { OrderField, Urgency } from '../src/cache/records.js'
import { SlotCache, unorderedTokens } from '../src/cache/slotcache.js'
import { CacheDevice, usesOf, visit } from './cachedevice.js'

const sweepTokens = unorderedTokens + 1

function policyOf(name: string, shape: CacheShape): Policy {
  const policy = createPolicy(name, shape)
  if ('problem' in policy) throw new Error(policy.problem)
  return policy
}

/** A cache and its device, whose slots have all been touched. */
function open(shape: Partial<CacheShape>, policy = 'lru') {
  const whole = { moeLayers: 1, experts: 8, topK: 2, slots: 4, ...shape }
  const device = new CacheDevice(whole.experts, whole.slots).touchAll()
  const counts = newLayerCounts(whole.moeLayers)
  const cache = new SlotCache(whole, policyOf(policy, whole), counts)
  device.tell(cache)
  return { cache, device, counts, shape: whole }
}

const list = (...values: number[]) => Int32Array.from(values)
const range = (count: number) => Array.from({ length: count }, (_, index) => index)
const sum = (values: Float64Array) => values.reduce((total, value) => total + value, 0)
const expertsOf = (orders: Int32Array) => [...orders].filter((_, at) => at % 4 === 0)
const placedOf = (places: Int32Array) => [...places.keys()].filter((at) => places[at] !== nowhere)
const isPlaced = (places: Int32Array) => [...places].map((place) => place !== nowhere)

describe('places', () => {
  it('are slots into which misses are read at once, as demand', () => {
    const { cache } = open({})
    const { places, orders } = cache.place(0, list(2, 5), 1)
    expect(expertsOf(orders)).toEqual([2, 5])
    for (const at of [0, 1]) {
      const order = orders.subarray(at * OrderField.count)
      expect(order[OrderField.from]).toBe(-1)
      expect(order[OrderField.to]).toBe(places[at])
      expect(order[OrderField.urgency]).toBe(Urgency.demand)
      expect(places[at]).toBe(placeOf(Tier.ram, slotOf(places[at] ?? 0)))
    }
    expect(places[0]).not.toBe(places[1])
  })

  it('of hits are where they lie, without an order, whether ready or still loading', () => {
    const { cache, device } = open({})
    const first = cache.place(0, list(2, 5), 1)
    const places = first.places.slice()
    device.stage(first.orders)
    device.land(2)
    device.tell(cache)
    const again = cache.place(0, list(2, 5), 1)
    expect([...again.places]).toEqual([...places])
    expect(again.orders).toHaveLength(0)
  })

  it('are given only in slots that have been touched', () => {
    const shape = { moeLayers: 1, experts: 8, topK: 2, slots: 4 }
    const device = new CacheDevice(8, 4)
    const cache = new SlotCache(shape, policyOf('lru', shape), newLayerCounts(1))
    const none = cache.place(0, list(1, 2), 1)
    expect(isPlaced(none.places)).toEqual([false, false])
    expect(none.orders).toHaveLength(0)
    device.touch(3)
    device.tell(cache)
    const one = cache.place(0, list(1, 2), 1)
    expect([...one.places]).toEqual([placeOf(Tier.ram, 3), nowhere])
  })

  it('are waited for while memory is being touched, but a sweep goes on with those there are', () => {
    const shape = { moeLayers: 1, experts: 8, topK: 2, slots: 4 }
    for (const stepTokens of [1, sweepTokens]) {
      const device = new CacheDevice(8, 4)
      const cache = new SlotCache(shape, policyOf('lru', shape), newLayerCounts(1))
      device.touch(0)
      device.tell(cache)
      visit(cache, device, 0, [1])
      const { orders } = cache.place(0, list(2), stepTokens)
      expect(expertsOf(orders)).toEqual(stepTokens === 1 ? [] : [2])
    }
  })

  it('are free again after a load that failed, and the expert can be ordered anew', () => {
    const { cache, device } = open({ slots: 1 })
    device.stage(cache.place(0, list(6), 1).orders)
    device.land(6, true)
    device.tell(cache)
    const again = cache.place(0, list(6), 1)
    expect(expertsOf(again.orders)).toEqual([6])
    device.stage(again.orders)
  })

  it('are never taken from an expert that the same layer wants, nor from one that is loading', () => {
    const { cache, device } = open({ slots: 3, moeLayers: 1 })
    visit(cache, device, 0, [0, 1])
    device.stage(cache.place(0, list(4), 1).orders)
    const { places, orders } = cache.place(0, list(0, 1, 5), 1)
    expect(isPlaced(places)).toEqual([true, true, false])
    expect(orders).toHaveLength(0)
  })

  it('refuse an event that contradicts what was ordered', () => {
    const { cache } = open({})
    expect(() => cache.settle(list(0, 3, placeOf(Tier.ram, 0), 0))).toThrow('not loading expert 3')
    expect(() => cache.settle(list(3, -1, placeOf(Tier.ram, 0), 0))).toThrow('touched twice')
  })
})

describe('waves', () => {
  it('order as many as there are slots and place half, so that the rest loads meanwhile', () => {
    const { cache, device } = open({ slots: 4, experts: 16 })
    const first = cache.place(0, Int32Array.from(range(10)), 40)
    expect(expertsOf(first.orders)).toEqual([0, 1, 2, 3])
    expect(first.places.filter((place) => place !== nowhere)).toHaveLength(2)
    device.stage(first.orders)
    const left = device.mix(0, Int32Array.from(range(10)), first.places, 40)
    device.tell(cache)
    const second = cache.place(0, left, 40)
    expect(expertsOf(second.orders)).toEqual([4, 5])
    // What was ordered first is waited for first, and something is always left loading.
    expect(isPlaced(second.places).slice(0, 4)).toEqual([true, true, false, false])
  })

  it('compute a few hits first, those that are worth least, whose slots the drive is given', () => {
    const { cache, device } = open({ slots: 8, experts: 16 })
    visit(cache, device, 0, range(8), 1)
    visit(cache, device, 0, [0, 1, 2, 3, 6, 7], 1)
    device.ordered.length = 0
    const wanted = Int32Array.from(range(16))
    const first = cache.place(0, wanted, 40)
    expect(first.orders).toHaveLength(0)
    expect(placedOf(first.places)).toEqual([4, 5])
    const left = device.mix(0, wanted, first.places, 40)
    const second = cache.place(0, left, 40)
    expect(expertsOf(second.orders)).toEqual([8, 9])
    // What is on its way is not waited for while there is something to compute.
    const placed = placedOf(second.places).map((at) => left[at] ?? -1)
    expect(placed.every((expert) => expert < 8)).toBe(true)
    expect(placed.length).toBeGreaterThan(0)
  })

  it('place at least one even through a single slot', () => {
    const { cache, device } = open({ slots: 1, experts: 16 })
    expect(visit(cache, device, 0, range(9), 9)).toBe(9)
    expect(device.ordered.map(([expert]) => expert)).toEqual(range(9))
  })

  it('let no expert be read twice by one step', () => {
    for (const slots of [1, 2, 3, 5, 8]) {
      for (const stepTokens of [12, sweepTokens]) {
        const { cache, device } = open({ slots, experts: 16 }, 'random:5')
        visit(cache, device, 0, range(16), stepTokens)
        expect(device.ordered).toHaveLength(16)
      }
    }
  })

  it('of a sweep place a prefix in rising index and read in that order', () => {
    const { cache, device } = open({ slots: 5, experts: 16 })
    visit(cache, device, 0, [3, 9])
    device.ordered.length = 0
    const { places, orders } = cache.place(0, Int32Array.from(range(16)), sweepTokens)
    const placed = isPlaced(places).lastIndexOf(true) + 1
    expect(isPlaced(places).slice(0, placed)).not.toContain(false)
    expect(expertsOf(orders)).toEqual([0, 1, 2])
  })

  it('of a sweep give up the expert that comes last when all slots hold later ones', () => {
    const { cache, device } = open({ slots: 3 })
    visit(cache, device, 0, [5, 6, 7])
    const { places, orders } = cache.place(0, Int32Array.from(range(8)), sweepTokens)
    expect(expertsOf(orders)).toEqual([0])
    device.stage(orders)
    expect(device.holds(7)).toBe('nowhere')
    expect(isPlaced(places)).toEqual([true, ...Array(7).fill(false)])
  })
})

describe('floors', () => {
  /** Shares of hits when every layer wants the same two experts again and again. */
  function hitRate(slots: number, policy: string): number {
    const { cache, device, counts } = open({ slots, moeLayers: 8, experts: 16 }, policy)
    for (let step = 0; step < 20; step += 1) {
      for (let layer = 0; layer < 8; layer += 1) visit(cache, device, layer, [layer, layer + 1])
    }
    return sum(counts.hits) / sum(counts.requests)
  }

  it.each(['lru', 'lfu', 'random:1'])(
    'keep a budget below one token cycle hitting, under %s',
    (policy) => {
      // A token wants 16 experts; one order over all layers would give up each just before its turn.
      expect(hitRate(9, policy)).toBeGreaterThan(0.4)
      expect(hitRate(5, policy)).toBeGreaterThan(0.15)
    },
  )

  it('let a layer take from another only what that one has above its floor', () => {
    const { cache, device, counts } = open({ slots: 8, moeLayers: 2, experts: 16 })
    visit(cache, device, 0, range(8), 8)
    expect(device.count('ready')).toBe(8)
    // Layer 1 has nothing and takes its share; layer 0 keeps its own.
    visit(cache, device, 1, range(8), 8)
    visit(cache, device, 1, range(8), 8)
    const inFirst = device.slots.filter(({ expert }) => expert < 16).length
    expect(inFirst).toBeGreaterThanOrEqual(3)
    expect(counts.evictions[0]).toBe(8 - inFirst)
  })
})

describe('sweeps', () => {
  it.each(['lru', 'lfu'])('leave what decode uses where it is, under %s', (policy) => {
    const { cache, device, counts } = open({ slots: 32, moeLayers: 2, experts: 32 }, policy)
    const decode = () => {
      for (let step = 0; step < 12; step += 1) {
        for (const layer of [0, 1]) visit(cache, device, layer, [4 + (step % 4), 20 + (step % 4)])
      }
    }
    decode()
    for (const layer of [0, 1]) visit(cache, device, layer, range(32), sweepTokens)
    const before = sum(counts.misses)
    decode()
    expect(sum(counts.misses) - before).toBe(0)
  })

  it('hit what stayed from sweep to sweep, where recency would hit nothing', () => {
    const { cache, device, counts } = open({ slots: 32, moeLayers: 2, experts: 32 })
    for (let sweep = 0; sweep < 5; sweep += 1) {
      for (const layer of [0, 1]) visit(cache, device, layer, range(32), sweepTokens)
    }
    // Four sweeps of 64 requests after the first; 28 of 64 have a slot that does not stream.
    expect(sum(counts.hits)).toBeGreaterThanOrEqual(4 * 28)
  })
})

describe('guesses', () => {
  it('are read ahead, and a guess that its layer then wants is raised to demand', () => {
    const { cache, device } = open({})
    const orders = cache.ahead(list(6)).slice()
    expect(orders[OrderField.urgency]).toBe(Urgency.ahead)
    device.stage(orders)
    const plan = cache.place(0, list(6), 1)
    expect([...plan.orders]).toEqual([6, -1, orders[OrderField.to], Urgency.demand])
    expect([...plan.places]).toEqual([orders[OrderField.to]])
    device.stage(plan.orders)
    expect(cache.place(0, list(6), 1).orders).toHaveLength(0)
  })

  it('count as hits when they arrive in time, as misses when they do not', () => {
    const { cache, device, counts } = open({})
    device.stage(cache.ahead(list(6, 7)))
    device.land(6)
    device.tell(cache)
    cache.used(usesOf(0, 8, [6, 7]))
    expect([counts.requests[0], counts.hits[0], counts.misses[0]]).toEqual([2, 1, 1])
  })

  it('never displace each other, nor what the layer in hand still wants', () => {
    const { cache, device } = open({ slots: 4 })
    device.stage(cache.ahead(list(0, 1)))
    device.landAll()
    device.tell(cache)
    const plan = cache.place(0, list(2, 3), 1)
    device.stage(plan.orders)
    device.landAll()
    device.tell(cache)
    expect(cache.ahead(list(4, 5, 6, 7))).toHaveLength(0)
  })

  it('give way to demand when nothing else can', () => {
    const { cache, device } = open({ slots: 2 })
    device.stage(cache.ahead(list(0, 1)))
    device.landAll()
    device.tell(cache)
    expect(visit(cache, device, 0, [5, 6])).toBe(1)
  })

  it('can be withdrawn while they are loading, and leave a free slot', () => {
    const { cache, device } = open({ slots: 1 })
    device.stage(cache.ahead(list(3)))
    device.stage(cache.ahead(list(), list(3, 4)))
    device.land(3)
    device.tell(cache)
    expect(device.count('free')).toBe(1)
    expect(visit(cache, device, 0, [5])).toBe(1)
  })
})

describe('a guess that was withdrawn', () => {
  it.each([1, sweepTokens])('is placed only when it is known what became of it', (stepTokens) => {
    const { cache, device } = open({})
    device.stage(cache.ahead(list(3)))
    device.stage(cache.ahead(list(), list(3)))
    const waiting = cache.place(0, list(3), stepTokens)
    expect([waiting.places[0], waiting.orders.length]).toEqual([nowhere, 0])
    device.land(3)
    device.tell(cache)
    expect(expertsOf(cache.place(0, list(3), stepTokens).orders)).toEqual([3])
  })
})

describe('counts', () => {
  it('say per layer what was requested, hit, missed and given up', () => {
    const { cache, device, counts } = open({ moeLayers: 2, slots: 4 })
    visit(cache, device, 0, [0, 1])
    visit(cache, device, 1, [2, 3])
    visit(cache, device, 0, [1, 4])
    visit(cache, device, 1, [2, 3])
    expect([...counts.requests]).toEqual([4, 4])
    expect([...counts.hits]).toEqual([1, 2])
    expect([...counts.misses]).toEqual([3, 2])
    expect([...counts.evictions]).toEqual([1, 0])
  })

  it('take in layers one after the other, as the policy hears of them', () => {
    const heard: [number, number, boolean][] = []
    const shape = { moeLayers: 2, experts: 16, topK: 2, slots: 8 }
    const listening: Policy = {
      name: 'listening',
      used: (layer, _, count, isSweep) => heard.push([layer, count, isSweep]),
      entered: () => {},
      left: () => {},
      victim: () => -1,
    }
    const counts = newLayerCounts(2)
    const cache = new SlotCache(shape, listening, counts)
    const layers = [usesOf(0, 16, [3, 15]), usesOf(0, 16, range(16), 20), usesOf(1, 16, [0])]
    cache.used(Int32Array.from(layers.flatMap((records) => [...records])))
    expect(heard).toEqual([
      [0, 2, false],
      [0, 16, true],
      [1, 1, false],
    ])
    expect([...counts.requests]).toEqual([18, 1])
  })
})

describe('mapped experts', () => {
  it('have their places in the map from the start, and nothing is ordered', () => {
    const { places, orders } = new MappedCache(8, newLayerCounts(3)).place(2, list(1, 7))
    expect([...places]).toEqual([1, 7].map((at) => placeOf(Tier.map, expertOf(2, at, 8))))
    expect(orders).toHaveLength(0)
  })

  it('hit when their pages lay in memory as their layer routed, and count where that is known', () => {
    const counts = newLayerCounts(2)
    const shape = { moeLayers: 2, experts: 8, topK: 2, slots: 4 }
    for (const cache of [
      new MappedCache(8, counts),
      new AdvisedCache(shape, policyOf('lru', shape), counts),
    ]) {
      for (const values of Object.values(counts)) values.fill(0)
      cache.used(list(1, 5, 1, 7, 1, 0, 9, 1, 1, 10, 1, -1))
      expect([...counts.requests]).toEqual([2, 1])
      expect([...counts.hits]).toEqual([1, 1])
      expect([...counts.misses]).toEqual([1, 0])
    }
  })

  it('with a budget: the system is told what would be read and what would be dropped', () => {
    const shape = { moeLayers: 1, experts: 8, topK: 2, slots: 2 }
    const cache = new AdvisedCache(shape, policyOf('lru', shape), newLayerCounts(1))
    const place = (...wanted: number[]) => {
      cache.used(usesOf(0, 8, wanted))
      return cache.place(0, list(...wanted), 1)
    }
    const first = place(1, 2)
    expect([...first.orders]).toEqual([1, -1, 1, Urgency.demand, 2, -1, 2, Urgency.demand])
    expect(place(1, 2).orders).toHaveLength(0)
    const second = place(2, 3)
    expect([...second.orders]).toEqual([1, 1, -1, Urgency.cancel, 3, -1, 3, Urgency.demand])
    expect([...second.places]).toEqual([2, 3])
  })

  it('with a budget smaller than a layer: everything is placed all the same', () => {
    const shape = { moeLayers: 1, experts: 8, topK: 2, slots: 1 }
    const cache = new AdvisedCache(shape, policyOf('lfu', shape), newLayerCounts(1))
    cache.used(usesOf(0, 8, range(8), sweepTokens))
    const { places } = cache.place(0, Int32Array.from(range(8)), sweepTokens)
    expect([...places]).toEqual(range(8))
  })
})

describe('a decision', () => {
  it('looks at no more than the experts of one layer for each miss, however many slots there are', () => {
    const shape = { moeLayers: 76, experts: 512, topK: 8, slots: 19_456 }
    const device = new CacheDevice(shape.experts, shape.slots).touchAll()
    const lfu = policyOf('lfu', shape)
    let looks = 0
    const counting: Policy = {
      name: 'counting',
      used: (layer, records, count, isSweep) => lfu.used(layer, records, count, isSweep),
      entered: (expert) => lfu.entered(expert),
      left: (expert) => lfu.left(expert),
      victim: (layer, mayLeave) =>
        lfu.victim(layer, (expert) => {
          looks += 1
          return mayLeave(expert)
        }),
    }
    const counts = newLayerCounts(shape.moeLayers)
    const cache = new SlotCache(shape, counting, counts)
    const layerFull = range(256)
    for (let layer = 0; layer < 76; layer += 1) visit(cache, device, layer, layerFull, sweepTokens)
    expect(device.count('free')).toBe(0)
    looks = 0
    const before = sum(counts.misses)
    for (let layer = 0; layer < 76; layer += 1) {
      visit(
        cache,
        device,
        layer,
        range(8).map((at) => 250 + at * 31),
      )
    }
    const misses = sum(counts.misses) - before
    expect(misses).toBeGreaterThanOrEqual(76 * 7)
    expect(looks).toBeLessThanOrEqual(misses * shape.experts)
  })
})
