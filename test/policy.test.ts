// Which expert gives way, policy by policy, and what the default is worth on recorded routing.
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { newLayerCounts } from '../src/cache/counts.js'
import type { Expert } from '../src/cache/place.js'
import { createPolicy, defaultPolicy, policyNames } from '../src/cache/policies.js'
import type { CacheShape, Policy } from '../src/cache/policy.js'
import { Profile, parseProfile, profileBytesMost } from '../src/cache/profile.js'
import { SlotCache, unorderedTokens } from '../src/cache/slotcache.js'
import { SweepPolicy } from '../src/cache/sweep.js'
import { readTrace, type Trace } from '../src/engine/trace.js'
import { CacheDevice, usesOf, visit } from './cachedevice.js'
import { fixtures } from './paths.js'

const shape: CacheShape = { moeLayers: 2, experts: 8, topK: 2, slots: 16 }
const all = () => true
const range = (count: number) => Array.from({ length: count }, (_, index) => index)

function policyOf(name: string, of = shape, profile: Profile | null = null): Policy {
  const policy = createPolicy(name, of, profile)
  if ('problem' in policy) throw new Error(policy.problem)
  return policy
}

function enter(policy: Policy, ...experts: number[]): void {
  for (const expert of experts) policy.entered(expert as Expert)
}

function use(policy: Policy, moeLayer: number, wanted: number[], tokens = 1): void {
  const isSweep = wanted.length * tokens > unorderedTokens * shape.topK
  policy.used(moeLayer, usesOf(moeLayer, shape.experts, wanted, tokens), wanted.length, isSweep)
}

describe('lru', () => {
  it('gives up what was used longest ago, of the layer that is asked', () => {
    const policy = policyOf('lru')
    enter(policy, 0, 1, 2, 9)
    use(policy, 0, [0, 2])
    expect(policy.victim(0, all)).toBe(1)
    expect(policy.victim(0, (expert) => expert !== 1)).toBe(0)
    expect(policy.victim(1, all)).toBe(9)
  })

  it('knows only what has a slot', () => {
    const policy = policyOf('lru')
    enter(policy, 3, 4)
    policy.left(3 as Expert)
    use(policy, 0, [3])
    expect(policy.victim(0, all)).toBe(4)
    policy.left(4 as Expert)
    expect(policy.victim(0, all)).toBe(-1)
  })

  it('is not moved by a sweep', () => {
    const policy = policyOf('lru')
    enter(policy, 5, 0)
    use(policy, 0, range(8), 100)
    expect(policy.victim(0, all)).toBe(5)
  })
})

describe('lfu', () => {
  it('keeps what is used often over what was used just now', () => {
    const policy = policyOf('lfu')
    for (let step = 0; step < 4; step += 1) use(policy, 0, [1])
    use(policy, 0, [2])
    expect(policy.victim(0, (expert) => expert === 1 || expert === 2)).toBe(2)
  })

  it('forgets: what was used often long ago gives way to what is used now', () => {
    const policy = policyOf('lfu')
    for (let step = 0; step < 4; step += 1) use(policy, 0, [1])
    for (let step = 0; step < 40; step += 1) use(policy, 0, [step % 2 === 0 ? 2 : 3])
    expect(policy.victim(0, (expert) => expert <= 3 && expert > 0)).toBe(1)
  })

  it('counts tokens by their square root, so that a prompt does not drown what follows', () => {
    const policy = policyOf('lfu')
    use(policy, 0, [1], 100)
    for (let step = 0; step < 16; step += 1) use(policy, 0, [2])
    expect(policy.victim(0, (expert) => expert === 1 || expert === 2)).toBe(1)
  })

  it('forgets at the same pace after thousands of steps', () => {
    // Its weights grow with every step and are scaled back now and then, within one of these runs.
    for (let steps = 4700; steps < 4800; steps += 25) {
      const policy = policyOf('lfu')
      for (let step = 0; step < steps; step += 1) use(policy, 0, [1])
      for (let step = 0; step < 60; step += 1) use(policy, 0, [2])
      expect(policy.victim(0, (expert) => expert === 1 || expert === 2)).toBe(1)
    }
  })
})

describe('pinned', () => {
  const profile = new Profile(2, 8)
  for (const [expert, tokens] of [50, 10, 40, 30, 20, 0, 60, 70, 8, 9].entries()) {
    profile.counts[expert] = tokens
  }

  it('never gives up what the profile says is used most, while anything else can leave', () => {
    const policy = policyOf('pinned', shape, profile)
    enter(policy, 7, 6, 0, 2, 3, 4, 1, 5)
    // Seven or eight slots a layer, of which one is left to recency: experts 1 and 5 are used least.
    expect(policy.victim(0, all)).toBe(1)
    expect(policy.victim(0, (expert) => expert !== 1)).toBe(5)
    expect(policy.victim(0, (expert) => expert === 6 || expert === 7)).toBe(7)
  })

  it('pins nothing that was never used, and nothing when there is no slot for it', () => {
    const few = policyOf('pinned', { ...shape, slots: 3 }, profile)
    enter(few, 7, 6)
    expect(few.victim(0, all)).toBe(7)
    const policy = policyOf('pinned', shape, profile)
    enter(policy, 10, 8)
    expect(policy.victim(1, all)).toBe(10)
  })

  it('stays pinned in sweeps', () => {
    const decode = policyOf('pinned', shape, profile)
    const sweep = new SweepPolicy(shape, decode)
    use(sweep, 0, [1, 5], 200)
    use(sweep, 0, range(8), 100)
    expect(sweep.victim(0, all)).toBe(1)
    expect(sweep.victim(0, (expert) => expert === 7)).toBe(7)
  })

  it('needs a profile', () => {
    expect(createPolicy('pinned', shape)).toEqual({ problem: expect.stringContaining('profile') })
  })
})

describe('random', () => {
  it('gives up any that may leave, and the same ones for the same seed', () => {
    const drawn = (seed: number) => {
      const policy = policyOf(`random:${seed}`)
      return range(200).map(() => policy.victim(1, (expert) => expert !== 12))
    }
    const first = drawn(5)
    expect(new Set(first)).toEqual(new Set([8, 9, 10, 11, 13, 14, 15]))
    expect(drawn(5)).toEqual(first)
    expect(drawn(6)).not.toEqual(first)
    expect(policyOf('random:0').victim(0, () => false)).toBe(-1)
  })
})

describe('a policy', () => {
  it('that nobody knows is refused with the names there are', () => {
    for (const name of ['fifo', '', 'random', 'random:x', 'LRU']) {
      const { problem } = { problem: '', ...createPolicy(name, shape) }
      for (const known of policyNames) expect(problem).toContain(known)
      expect(problem).toMatch(/^no policy is named .*$/)
    }
  })
})

describe('a saved profile', () => {
  it('reads back as it was printed', () => {
    const profile = new Profile(2, 3, 'some "model"')
    profile.add(Int32Array.of(0, 5, -1, 4, 7, 1))
    profile.add(Int32Array.of(4, 1, 0))
    const read = parseProfile(profile.print(), 'p.json', profile)
    expect([...(read as Profile).counts]).toEqual([5, 0, 0, 0, 8, 0])
  })

  it('is refused, with its file named, unless every count is one', () => {
    const refused: [string, RegExp][] = [
      ['', /no JSON/],
      ['7', /version 2/],
      ['null', /version 2/],
      ['{"version":1,"tokens":[[1,2],[3,4]]}', /version 2/],
      ['{"version":2,"tokens":{"length":2}}', /version 2/],
      ['{"version":2,"model":"m","tokens":[[1,2]]}', /another model.*2 MoE layers of 2 experts/],
      ['{"version":2,"model":"m","tokens":[[1,2],[3]]}', /another model/],
      ['{"version":2,"model":"m","tokens":[[1,2],"34"]}', /another model/],
      ['{"version":2,"model":"n","tokens":[[1,2],[3,4]]}', /another model.*its config is m/],
      ['{"version":2,"tokens":[[1,2],[3,4]]}', /another model/],
      ['{"version":2,"model":"m","tokens":[[1,2],[3,-4]]}', /layer 1, expert 1: expected a count/],
      ['{"version":2,"model":"m","tokens":[[1,[2]],[3,4]]}', /layer 0, expert 1: expected a count/],
      [
        '{"version":2,"model":"m","tokens":[[1,2],[3,1e400]]}',
        /layer 1, expert 1: expected a count/,
      ],
      ['{"version":2,"model":"m","tokens":[[1,2],[3,4]]}', /damaged/],
      [`[${' '.repeat(profileBytesMost)}]`, /too large/],
    ]
    for (const [text, why] of refused) {
      const read = parseProfile(text, 'p.json', new Profile(2, 2, 'm'))
      expect(read).toEqual({ problem: expect.stringMatching(why) })
      expect(read).toEqual({ problem: expect.stringMatching(/^p\.json: [^\n]+$/) })
    }
  })
})

/** Per MoE layer the experts of the tokens from `first` on, rising, with how many tokens want each. */
function wantedIn(trace: Trace, sequence: number, first: number, tokens: number, layer: number) {
  const traced = trace.sequences[sequence]
  if (traced === undefined) throw new Error('no such sequence')
  const counts = new Map<number, number>()
  const out = new Uint16Array(trace.topK)
  for (let token = first; token < first + tokens; token += 1) {
    trace.expertsOf(traced, token, layer, out)
    for (const expert of out) counts.set(expert, (counts.get(expert) ?? 0) + 1)
  }
  return [...counts].sort(([a], [b]) => a - b)
}

/** Walks a trace: each prompt is one step, each later token is one. */
function walk(
  trace: Trace,
  visitLayer: (layer: number, wanted: [number, number][], isDecode: boolean) => void,
): void {
  for (const [sequence, { tokens, prompt }] of trace.sequences.entries()) {
    for (let token = 0; token < tokens; token = Math.max(token + 1, prompt)) {
      const count = token < prompt ? prompt : 1
      for (const layer of trace.layers.keys()) {
        visitLayer(layer, wantedIn(trace, sequence, token, count, layer), token >= prompt)
      }
    }
  }
}

function missesOf(trace: Trace, slots: number, name: string): number {
  const of = { moeLayers: trace.layers.length, experts: trace.experts, topK: trace.topK, slots }
  const device = new CacheDevice(of.experts, slots).touchAll()
  const counts = newLayerCounts(of.moeLayers)
  const cache = new SlotCache(of, policyOf(name, of), counts)
  let misses = 0
  walk(trace, (layer, wanted, isDecode) => {
    const before = counts.misses[layer] ?? 0
    const uses = Int32Array.from(
      wanted.flatMap(([index, n]) => [layer * of.experts + index, n, -1]),
    )
    const indices = wanted.map(([index]) => index)
    visit(cache, device, layer, indices, 1, uses)
    if (isDecode) misses += (counts.misses[layer] ?? 0) - before
  })
  return misses
}

/** Recency within each layer over its equal share of the slots, without floors or anything else. */
function lruMisses(trace: Trace, slots: number): number {
  const layers = trace.layers.length
  const orders = trace.layers.map(() => new Set<number>())
  let misses = 0
  walk(trace, (layer, wanted, isDecode) => {
    const share = Math.floor(((layer + 1) * slots) / layers) - Math.floor((layer * slots) / layers)
    const order = orders[layer] ?? new Set()
    const indices = wanted.map(([index]) => index)
    const missing = indices.filter((index) => !order.has(index))
    if (isDecode) misses += missing.length
    for (const index of indices) if (order.delete(index)) order.add(index)
    for (const index of missing) {
      const [oldest] = order
      if (order.size >= share && oldest !== undefined) order.delete(oldest)
      order.add(index)
    }
  })
  return misses
}

describe('the default policy', () => {
  const trace = readTrace(join(fixtures, 'traces/ring-tiny.trace'))
  const experts = trace.layers.length * trace.experts

  it.each([0.05, 0.1, 0.25, 0.5, 0.75])('misses less than recency per layer at %d', (share) => {
    const slots = Math.round(share * experts)
    const [ours, theirs] = [missesOf(trace, slots, defaultPolicy), lruMisses(trace, slots)]
    expect(ours).toBeGreaterThan(0)
    expect(ours).toBeLessThan(theirs)
  })
})
