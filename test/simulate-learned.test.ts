// What learning is worth: misses of `auto` beside recency, on routing that nothing was fitted to, with as
// many slots and in the engine's own cache; and what each kind of sign does.
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { Learned } from '../src/cache/learned.js'
import { generate } from '../src/simulate/generate.js'
import { type Routing, walk } from '../src/simulate/routing.js'
import { ScoreReader } from '../src/simulate/scores.js'
import { readRouting } from '../src/simulate/source.js'
import { fixtures } from './paths.js'
import { randomFrom } from './random.js'
import { judged } from './routings.js'

// Constants were chosen on another seed.
const made = generate(5, {
  layers: 3,
  experts: 256,
  topK: 8,
  sequences: 4,
  tokens: 256,
  prompt: 32,
})
// Constants were chosen on the sequences between these.
const tiny = readRouting(join(fixtures, 'traces/ring-tiny-held.trace'))
const qwen = readRouting(join(fixtures, 'traces/public/qwen.route.csv'))
const gptoss = readRouting(join(fixtures, 'traces/public/gptoss.route.csv'))

function missesOf(policy: string, routing: Routing, share: number, scope: 'layer' | 'global') {
  const slotsPerLayer = Math.round(share * routing.experts)
  const { requests, hits } = judged(routing, { policy, slotsPerLayer, scope })
  return requests - hits
}

/** Misses of decode, relative to recency in each layer. */
function againstLayers(routing: Routing, share: number): number {
  const recency = missesOf('lru', routing, share, 'layer')
  expect(recency).toBeGreaterThan(0)
  return missesOf('auto', routing, share, 'layer') / recency
}

describe('auto', () => {
  it.each([
    [0.15, 0.85],
    [0.25, 0.79],
    [0.5, 0.75],
  ])(
    'misses less than recency on generated routing, slots for %d of the experts',
    (share, most) => {
      expect(againstLayers(made, share)).toBeLessThan(most)
    },
  )

  it.each([
    [0.15, 0.95],
    [0.25, 0.9],
    [0.5, 0.85],
  ])('misses less than recency on ring-tiny, slots for %d of the experts', (share, most) => {
    expect(againstLayers(tiny, share)).toBeLessThan(most)
  })

  it.each([
    ['qwen', qwen],
    ['gptoss', gptoss],
  ] as const)(
    'misses no more than recency in layers or in one pool, whichever is better: %s',
    (_name, routing) => {
      for (const share of [0.15, 0.25, 0.5]) {
        const layers = missesOf('lru', routing, share, 'layer')
        const pool = missesOf('lru', routing, share, 'global')
        expect(missesOf('auto', routing, share, 'layer')).toBeLessThanOrEqual(
          Math.min(layers, pool),
        )
      }
    },
  )

  it('misses less still by what the router nearly chose, which only scores tell', () => {
    const [blind, seeing] = [{ ...made, scores: null }, made].map((one) => againstLayers(one, 0.25))
    expect(blind).toBeLessThan(0.92)
    expect(seeing).toBeLessThan((blind ?? 0) - 0.05)
  })
})

describe('a learned worth', () => {
  const shape = { moeLayers: 1, experts: 4, topK: 1, slots: 2 }
  const scores = Float32Array.of(0.6, 0.5, 0.1, 0.01)
  const use = (learned: Learned, expert: number) =>
    learned.used(0, Int32Array.of(expert, 1, -1), 1, 1)
  const worthsOf = (learned: Learned) => [0, 1, 2, 3].map((expert) => learned.of(expert))

  it('of experts that were never used follows how near they came', () => {
    const learned = new Learned(shape)
    for (let token = 0; token < 5; token += 1) {
      learned.scored(0, scores)
      use(learned, 0)
    }
    const [, near = 0, far = 0, farthest = 0] = worthsOf(learned)
    expect(near).toBeGreaterThan(far)
    expect(far).toBeGreaterThan(farthest)
  })

  it('rises for what has followed before what is used now', () => {
    const learned = new Learned(shape)
    // 1 comes after 0 and 3 after 2, in an order that nothing else tells; at the end 3 is the fresher.
    const random = randomFrom(3)
    const pairs = Array.from({ length: 100 }, () => (random() < 0.5 ? [0, 1] : [2, 3]))
    for (const expert of [...pairs.flat(), 0, 1, 2, 3, 0]) use(learned, expert)
    const [, next = 0, later = 0] = worthsOf(learned)
    expect(next).toBeGreaterThan(later)
  })

  it('rises for what is used after the layer before it has used something', () => {
    const learned = new Learned({ moeLayers: 2, experts: 4, topK: 1, slots: 4 })
    const random = randomFrom(7)
    // What layer 0 uses is drawn by lot; layer 1 uses the same index one token later.
    let before = 0
    for (let token = 0; token < 2000; token += 1) {
      const drawn = Math.floor(4 * random())
      learned.used(0, Int32Array.of(drawn, 1, -1), 1, 1)
      learned.used(1, Int32Array.of(4 + before, 1, -1), 1, 1)
      before = drawn
    }
    const others = [0, 1, 2, 3].filter((index) => index !== before)
    for (const index of others) {
      expect(learned.of(4 + before)).toBeGreaterThan(learned.of(4 + index))
    }
  })

  it('learns that something else counts when what it was fitted to is wrong', () => {
    const learned = new Learned(shape)
    // What comes near is never chosen here, and what is far off takes turns.
    for (let token = 0; token < 600; token += 1) {
      learned.scored(0, scores)
      use(learned, 2 + (token % 2))
    }
    const [, near = 0, far = 0, farthest = 0] = worthsOf(learned)
    expect(Math.min(far, farthest)).toBeGreaterThan(near)
  })

  it('comes as a chance that is true on average, of the likely and of the unlikely', () => {
    const told = chancesOf(tiny, 0.25)
    expect(told.length).toBeGreaterThan(50_000)
    const bins = Array.from({ length: 10 }, (_, bin) =>
      told.filter(({ chance }) => Math.min(9, Math.floor(10 * chance)) === bin),
    )
    const off = bins.map((bin) => bin.reduce((sum, { chance, came }) => sum + chance - came, 0))
    expect(bins.filter((bin) => bin.length > 100).length).toBeGreaterThan(6)
    const error = off.reduce((sum, bin) => sum + Math.abs(bin), 0) / told.length
    expect(error).toBeLessThan(0.03)
  })
})

/** Chances of all experts at every fifth token, and whether they came within the tokens meant. */
function chancesOf(routing: Routing, share: number): { chance: number; came: number }[] {
  const { layers, experts, topK, scores } = routing
  const each = Math.round(share * experts)
  const soon = Math.round(each / topK)
  const shape = { moeLayers: layers.length, experts, topK, slots: each * layers.length }
  const learned = new Learned(shape)
  const reader = scores === null ? null : new ScoreReader(scores, layers.length, experts)
  const row = new Float32Array(experts)
  /** [MoE layer] what its last tokens used; what was told and has not come to pass */
  const last = layers.map(() => [] as number[][])
  const open = layers.map(() => [] as { chances: number[]; token: number }[])
  const told: { chance: number; came: number }[] = []
  walk(routing, ({ moeLayer, firstToken, tokens, uses, count }) => {
    if (tokens > 1) return
    reader?.read(firstToken, moeLayer, row)
    if (reader !== null) learned.scored(moeLayer, row)
    learned.used(moeLayer, uses, count, 1)
    const used = last[moeLayer] ?? []
    const first = moeLayer * experts
    used.push(Array.from({ length: count }, (_, at) => (uses[3 * at] ?? 0) - first))
    for (const { chances, token } of open[moeLayer] ?? []) {
      if (used.length !== token + soon) continue
      const came = new Set(used.slice(token).flat())
      for (const [index, chance] of chances.entries()) {
        told.push({ chance, came: came.has(index) ? 1 : 0 })
      }
    }
    if (used.length % 5 !== 0) return
    const chances = Array.from({ length: experts }, (_, index) => learned.chance(first + index))
    open[moeLayer]?.push({ chances, token: used.length })
  })
  reader?.close()
  return told
}
