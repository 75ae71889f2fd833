// How a policy is judged: what counts as a hit, what warms, who takes whose slot, and what the bounds
// know.
import { describe, expect, it } from 'vitest'
import { type GeneratedShape, generate } from '../src/simulate/generate.js'
import { judge } from '../src/simulate/judge.js'
import { farthestHits, hitRate, judged, lineOf, routingOf } from './routings.js'

const shape: GeneratedShape = {
  layers: 3,
  experts: 32,
  topK: 4,
  sequences: 3,
  tokens: 60,
  prompt: 10,
}
const made = generate(3, shape)

describe('hits', () => {
  it('are judged for all experts of a layer before any of them takes a slot', () => {
    // With two slots, 0 would push out 2 before 2 is looked for, were they judged one by one.
    const routing = routingOf([[[1, 2]], [[0, 2]]], 4)
    expect(judged(routing, { slotsPerLayer: 2 })).toMatchObject({ requests: 4, hits: 1 })
  })

  it('are touched before what is missing takes slots', () => {
    // 0 lay there longest; touched first, it is 1 that makes room for 2.
    const routing = routingOf([[[0, 1]], [[0, 2]], [[0, 3]]], 4)
    expect(judged(routing, { slotsPerLayer: 2 }).hits).toBe(2)
  })

  it('are one for each distinct expert of a prompt, which is one step', () => {
    const routing = routingOf([[[0, 1]], [[1, 2]], [[2, 0]], [[0, 3]]], 4, 3)
    const all = judged(routing, { slotsPerLayer: 4, phase: 'all' })
    expect(all).toMatchObject({ requests: 5, hits: 1 })
  })

  it('of the prompt are not counted in decode, but the prompt warms', () => {
    const routing = routingOf([[[0, 1]], [[1, 2]], [[2, 0]]], 4, 2)
    expect(judged(routing, { slotsPerLayer: 4 })).toMatchObject({ requests: 2, hits: 2 })
  })

  it('are told layer by layer', () => {
    const routing = routingOf(
      [
        [[0], [5]],
        [[0], [6]],
        [[0], [5]],
      ],
      8,
    )
    expect(judged(routing, { slotsPerLayer: 1 })).toMatchObject({
      layerRequests: [3, 3],
      layerHits: [2, 0],
    })
  })
})

describe('slots', () => {
  it('fewer than a layer wants keep what was inserted last', () => {
    const routing = routingOf([[[3, 1, 2]], [[3, 1, 2]]], 4)
    expect(judged(routing, { slotsPerLayer: 1 }).hits).toBe(1)
  })

  it('of what a layer wants now go to nothing else that it wants', () => {
    // By frequency 3 would make room for 4 at once, having been used least.
    const routing = routingOf([[[0, 1]], [[0, 1]], [[0, 2]], [[3, 4]], [[3, 4]]], 8)
    expect(judged(routing, { policy: 'lfu', slotsPerLayer: 3 }).hits).toBe(5)
  })

  it('for all experts miss only what was never used', () => {
    for (const policy of ['lru', 'lfu', 'sweep', 'random:1', 'belady', 'belady1']) {
      const { requests, hits } = judged(made, { policy, phase: 'all', slotsPerLayer: 32 })
      const used = new Set(
        Array.from(made.ids, (id, at) => (Math.floor(at / shape.topK) % shape.layers) * 32 + id),
      )
      expect(requests - hits).toBe(used.size)
    }
  })

  it('in one pool go where they are wanted', () => {
    const routing = routingOf(
      [
        [[0], [0]],
        [[1], [0]],
        [[2], [0]],
        [[0], [0]],
      ],
      4,
    )
    expect(judged(routing, { slotsPerLayer: 2 }).hits).toBe(3)
    expect(judged(routing, { slotsPerLayer: 2, scope: 'global' }).hits).toBe(4)
  })

  it('in one pool smaller than what a token wants never hit by recency, and do by floors', () => {
    const contest = { slotsPerLayer: shape.topK - 1, scope: 'global' } as const
    const repeated = routingOf(
      Array.from({ length: 20 }, () => [0, 1, 2, 3].map(() => [4, 5, 6, 7])),
      32,
    )
    expect(hitRate(repeated, { ...contest, policy: 'lru' })).toBe(0)
    expect(hitRate(repeated, { ...contest, policy: 'lfu' })).toBeGreaterThan(0.3)
  })
})

describe('belady', () => {
  it.each([1, 2, 4, 8, 16])(
    'hits as often as a plain search for the best with %d slots',
    (slots) => {
      const hits = farthestHits(made, slots)
      expect(judged(made, { policy: 'belady', slotsPerLayer: slots }).hits).toBe(hits)
      expect(hits).toBeGreaterThan(0)
    },
  )

  it('lets pass by what is used later than all that has a slot', () => {
    const routing = lineOf(4, 0, 1, 2, 3, 0)
    expect(judged(routing, { policy: 'belady' }).hits).toBe(1)
    expect(judged(routing, { policy: 'lru' }).hits).toBe(0)
  })

  it.each(['layer', 'global'] as const)('is never below another policy, slots by %s', (scope) => {
    for (const slotsPerLayer of [2, 6, 12]) {
      const bound = hitRate(made, { policy: 'belady', scope, slotsPerLayer })
      for (const policy of ['lru', 'lfu', 'sweep', 'random:4', 'belady1']) {
        expect(hitRate(made, { policy, scope, slotsPerLayer })).toBeLessThanOrEqual(bound)
      }
    }
  })
})

describe('belady1', () => {
  it('keeps what the next token wants, and knows no further', () => {
    // At the 2, recency gives up 0, which is wanted next; at the 3, only belady spares 1.
    const near = lineOf(5, 0, 1, 2, 0)
    expect(judged(near, { policy: 'belady1', slotsPerLayer: 2 }).hits).toBe(1)
    expect(judged(near, { policy: 'lru', slotsPerLayer: 2 }).hits).toBe(0)
    const far = lineOf(5, 0, 1, 2, 3, 0)
    expect(judged(far, { policy: 'belady1', slotsPerLayer: 2 }).hits).toBe(0)
    expect(judged(far, { policy: 'belady', slotsPerLayer: 2 }).hits).toBe(1)
  })

  it('lies between recency and belady', () => {
    for (const slotsPerLayer of [4, 8]) {
      const [lru = 0, one = 0, all = 0] = ['lru', 'belady1', 'belady'].map((policy) =>
        hitRate(made, { policy, slotsPerLayer }),
      )
      expect(one).toBeGreaterThan(lru)
      expect(one).toBeLessThan(all)
    }
  })
})

describe('static', () => {
  it('holds from the start what the counted phase uses most, and changes nothing', () => {
    const routing = lineOf(4, 2, 1, 2, 3, 2, 1)
    expect(judged(routing, { policy: 'static' }).hits).toBe(3)
    expect(judged(routing, { policy: 'static', slotsPerLayer: 2 }).hits).toBe(5)
  })

  it('is not led by a prompt that does not count', () => {
    const routing = routingOf([[[0]], [[0]], [[0]], [[1]], [[1]]], 4, 3)
    expect(judged(routing, { policy: 'static' }).hits).toBe(2)
  })

  it('in one pool gives the slots to the layers that use few experts', () => {
    const routing = routingOf(
      [
        [[0], [0]],
        [[1], [0]],
        [[0], [0]],
        [[1], [0]],
      ],
      4,
    )
    expect(judged(routing, { policy: 'static', scope: 'global' }).hits).toBe(6)
  })
})

describe('a policy', () => {
  it('that nobody knows is refused with the names there are', () => {
    const contest = { policy: 'fifo', scope: 'layer', phase: 'all', slotsPerLayer: 1 } as const
    expect(judge(made, contest, null)).toEqual({
      problem: expect.stringMatching(/^no policy is named fifo; there are auto, lru, .*belady/),
    })
  })
})
