// Whatever the budget, the policy, the steps and the drive do: the cache never gives an order that a
// device must refuse, never names a slot that does not hold the expert, finishes every layer and loses
// no slot; with slots in RAM alone and with those of a GPU above them. Random walks over a device that
// throws at any breach.
import { describe, expect, it } from 'vitest'
import { newLayerCounts } from '../src/cache/counts.js'
import { Tier } from '../src/cache/place.js'
import { createPolicy } from '../src/cache/policies.js'
import type { CacheShape, Policy } from '../src/cache/policy.js'
import { Profile } from '../src/cache/profile.js'
import { SlotCache, unorderedTokens } from '../src/cache/slotcache.js'
import { CacheDevice, usesOf } from './cachedevice.js'
import { Dice } from './dice.js'

function policyOf(name: string, shape: CacheShape): Policy {
  const profile = new Profile(shape.moeLayers, shape.experts)
  for (const expert of profile.counts.keys()) profile.counts[expert] = (expert * 7) % 11
  const policy = createPolicy(name, shape, profile)
  if ('problem' in policy) throw new Error(policy.problem)
  return policy
}

/** Some experts of a layer, rising. */
function someOf(dice: Dice, experts: number, count: number): number[] {
  const all = Array.from({ length: experts }, (_, index) => index)
  for (let at = 0; at < count; at += 1) {
    const other = at + dice.below(experts - at)
    const [a = 0, b = 0] = [all[at], all[other]]
    all[at] = b
    all[other] = a
  }
  return all.slice(0, count).sort((a, b) => a - b)
}

/** A step at a layer that it has not finished. */
interface Visit {
  moeLayer: number
  wanted: Int32Array
  readonly stepTokens: number
}

class Walk {
  readonly shape: CacheShape
  readonly device: CacheDevice
  readonly counts
  readonly cache: SlotCache
  calls = 0
  requests = 0

  constructor(
    readonly dice: Dice,
    policy: string,
    hasBelow: boolean,
  ) {
    const moeLayers = 1 + dice.below(6)
    const experts = 2 + dice.below(14)
    const topK = 1 + dice.below(Math.min(4, experts))
    const slots = 1 + dice.below(moeLayers * experts + 3)
    this.shape = { moeLayers, experts, topK, slots }
    this.counts = newLayerCounts(moeLayers)
    const own = policyOf(policy, this.shape)
    if (hasBelow) {
      const shape = { ...this.shape, slots: 1 + dice.below(moeLayers * experts + 3) }
      const below = { shape, policy: policyOf(policy, shape) }
      const ram = new CacheDevice(experts, shape.slots)
      this.device = new CacheDevice(experts, slots, Tier.gpu, ram)
      this.cache = new SlotCache(this.shape, own, this.counts, null, Tier.gpu, below)
    } else {
      this.device = new CacheDevice(experts, slots)
      this.cache = new SlotCache(this.shape, own, this.counts)
    }
  }

  /** The slots of every tier. */
  get tiers(): CacheDevice[] {
    const { below } = this.device
    return below === null ? [this.device] : [this.device, below]
  }

  begin(moeLayer: number, isSweep: boolean): Visit {
    const { dice } = this
    const { experts, topK } = this.shape
    const count = isSweep ? 1 + dice.below(experts) : Math.min(experts, topK * (1 + dice.below(3)))
    const wanted = someOf(dice, experts, count)
    const stepTokens = isSweep ? unorderedTokens + 1 : count
    this.cache.used(usesOf(moeLayer, experts, wanted, isSweep ? stepTokens : 1))
    this.requests += count
    return { moeLayer, wanted: Int32Array.from(wanted), stepTokens }
  }

  /** One stop of a visit; `fails` says whether a load that is waited for fails. */
  stop(visit: Visit, fails: () => boolean): void {
    const { cache, device } = this
    device.tell(cache)
    const plan = cache.place(visit.moeLayer, visit.wanted, visit.stepTokens)
    device.stage(plan.orders)
    const left = device.mix(visit.moeLayer, visit.wanted, plan.places, visit.stepTokens, fails)
    if (left.length === visit.wanted.length) this.#wait()
    visit.wanted = left
    this.calls += 1
  }

  /** Nothing could be placed: then something must be under way, or there would be no end. */
  #wait(): void {
    for (const device of this.tiers) {
      const cold = device.slots.findIndex(({ state }) => state === 'cold')
      const loading = device.loading()
      if (cold >= 0) device.touch(cold)
      else if (loading.length > 0) device.land(this.dice.pick(loading))
      else continue
      return
    }
    throw new Error('nothing was placed and nothing is under way')
  }

  /** Between stops: memory gets touched, loads land, guesses come and go. */
  happen(failing: number): void {
    const { cache, device, dice } = this
    for (const tier of this.tiers) {
      for (const [at, slot] of tier.slots.entries()) {
        if (slot.state === 'cold' && dice.below(4) === 0) tier.touch(at)
        if (slot.state === 'loading' && dice.below(3) === 0) {
          tier.land(slot.expert, dice.below(100) < failing)
        }
      }
    }
    if (dice.below(4) > 0) return
    device.tell(cache)
    const all = this.shape.moeLayers * this.shape.experts
    const guesses = Int32Array.from(someOf(dice, all, 1 + dice.below(Math.min(all, 5))))
    device.stage(dice.below(3) > 0 ? cache.ahead(guesses) : cache.ahead(Int32Array.of(), guesses))
  }
}

const policies = ['lru', 'lfu', 'pinned', 'sweep', 'random:3']

describe.each(
  policies.flatMap((policy) => [
    [policy, 'RAM', false] as const,
    [policy, 'a GPU over RAM', true] as const,
  ]),
)('under the policy %s, with slots in %s', (policy, _, hasBelow) => {
  it('one step after the other finishes with any budget, and no order is refused', () => {
    for (let seed = 1; seed <= 40; seed += 1) {
      const walk = new Walk(new Dice(seed), policy, hasBelow)
      for (let step = 0; step < 10; step += 1) {
        const isSweep = walk.dice.below(3) === 0
        for (let moeLayer = 0; moeLayer < walk.shape.moeLayers; moeLayer += 1) {
          const visit = walk.begin(moeLayer, isSweep)
          const most = walk.calls + 6 * walk.shape.slots + 4 * walk.shape.experts
          while (visit.wanted.length > 0) {
            walk.stop(visit, () => walk.dice.below(20) === 0)
            walk.happen(10)
            if (walk.calls > most) throw new Error(`seed ${seed}: a layer has no end`)
          }
        }
      }
      const { requests, hits, misses } = walk.counts
      const sum = (values: Float64Array) => values.reduce((total, value) => total + value, 0)
      expect(sum(requests)).toBe(walk.requests)
      expect(sum(hits) + sum(misses)).toBe(walk.requests)
    }
  })

  it('a sweep and a decode that take turns both finish', () => {
    for (let seed = 100; seed < 140; seed += 1) {
      const walk = new Walk(new Dice(seed), policy, hasBelow)
      const layers = walk.shape.moeLayers
      const open = [walk.begin(0, true), walk.begin(0, false)]
      let finished = 0
      for (let turn = 0; finished < 4 * layers; turn += 1) {
        const at = turn % 2
        const visit = open[at]
        if (visit === undefined) throw new Error('no visit')
        walk.stop(visit, () => false)
        walk.happen(0)
        if (walk.calls > 5000) throw new Error(`seed ${seed}: no end`)
        if (visit.wanted.length > 0) continue
        finished += 1
        open[at] = walk.begin((visit.moeLayer + 1) % layers, at === 0)
      }
    }
  })

  it('no slot is lost to loads that fail or are cancelled', () => {
    for (let seed = 200; seed < 230; seed += 1) {
      const walk = new Walk(new Dice(seed), policy, hasBelow)
      const { device, shape } = walk
      for (let round = 0; round < 30; round += 1) {
        const visit = walk.begin(round % shape.moeLayers, round % 3 === 0)
        for (let turn = 0; visit.wanted.length > 0 && turn < 20; turn += 1) {
          walk.stop(visit, () => walk.dice.below(2) === 0)
          walk.happen(50)
        }
        // The step is given up, as when its request is cancelled.
      }
      for (const tier of walk.tiers)
        for (const [at, { state }] of tier.slots.entries()) if (state === 'cold') tier.touch(at)
      device.landAll()
      const everything = Array.from({ length: shape.experts }, (_, index) => index)
      for (let moeLayer = 0; moeLayer < shape.moeLayers; moeLayer += 1) {
        const visit = {
          moeLayer,
          wanted: Int32Array.from(everything),
          stepTokens: unorderedTokens + 1,
        }
        while (visit.wanted.length > 0) walk.stop(visit, () => false)
      }
      device.landAll()
      expect(device.count('free'), `seed ${seed}`).toBe(
        Math.max(0, shape.slots - shape.moeLayers * shape.experts),
      )
      expect(walk.tiers.map((tier) => tier.count('loading'))).toEqual(walk.tiers.map(() => 0))
    }
  })
})
