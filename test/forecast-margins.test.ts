// How sure a router's choice is, against the choice written out plainly.
import { describe, expect, it } from 'vitest'
import { Margins, type RouterShape } from '../src/prefetch/margins.js'
import { choose } from './earlyscores.js'
import { randomFrom } from './random.js'

const shapes: RouterShape[] = [
  { experts: 256, topK: 8, groups: 8, groupsKept: 4 },
  { experts: 32, topK: 4, groups: 4, groupsKept: 2 },
  { experts: 64, topK: 6, groups: 1, groupsKept: 1 },
  { experts: 32, topK: 4, groups: 4, groupsKept: 4 },
]

function drawn(random: () => number, count: number, width: number): Float32Array {
  return Float32Array.from({ length: count }, () => width * random())
}

describe('margins', () => {
  it.each(shapes)('are positive for what the router chooses, and only for that: %o', (shape) => {
    const { experts, groups } = shape
    const margins = new Margins(shape)
    const random = randomFrom(experts + groups)
    for (let round = 0; round < 50; round += 1) {
      const scores = drawn(random, 2 * experts, 1)
      const bias = drawn(random, 3 * experts, 0.3)
      margins.weigh(scores, experts, bias, 2 * experts)
      const groupOf = (index: number) => margins.group[Math.floor((index * groups) / experts)] ?? 0
      const positive = [...margins.own.keys()].filter(
        (index) => (margins.own[index] ?? 0) > 0 && groupOf(index) > 0,
      )
      const own = scores.subarray(experts)
      expect(positive).toEqual(choose(own, [...bias.subarray(2 * experts)], shape))
      // The same choice by logits.
      expect(positive.every((index) => margins.odds(index) > 0)).toBe(true)
    }
  })

  it('count in spreads of the choice scores, midway between the last that is chosen and the first that is not', () => {
    const margins = new Margins({ experts: 4, topK: 2, groups: 1, groupsKept: 1 })
    margins.weigh(Float32Array.of(0.1, 0.2, 0.4, 0.5), 0, null, 0)
    const spread = Math.sqrt((0.2 ** 2 + 0.1 ** 2) / 2)
    const own = [0.1, 0.2, 0.4, 0.5].map((score) => (score - 0.3) / spread)
    for (const [index, margin] of own.entries()) expect(margins.own[index]).toBeCloseTo(margin, 5)
  })

  it('of groups go by the two best of each, midway between the last kept and the first not', () => {
    const margins = new Margins({ experts: 6, topK: 1, groups: 3, groupsKept: 1 })
    margins.weigh(Float32Array.of(0.9, 0.1, 0.6, 0.5, 0.2, 0.2), 0, null, 0)
    // Sums 1.0, 1.1 and 0.4: the best expert of all lies in a group that is just not kept.
    const [first = 0, kept = 0, last = 0] = margins.group
    expect(kept).toBeGreaterThan(0)
    expect(first).toBeCloseTo(-kept, 5)
    expect(last).toBeCloseTo(-13 * kept, 4)
    expect(margins.own[0]).toBeGreaterThan(0)
  })

  it('of groups are all the same where all groups are kept', () => {
    for (const shape of shapes.filter(({ groups, groupsKept }) => groups === groupsKept)) {
      const margins = new Margins(shape)
      margins.weigh(drawn(randomFrom(1), shape.experts, 1), 0, null, 0)
      const [first = 0, ...others] = margins.group
      expect(first).toBeGreaterThan(0)
      expect(others.every((margin) => margin === first)).toBe(true)
    }
  })

  it('are numbers where all scores are the same, or as many are chosen as there are', () => {
    const same = new Margins({ experts: 8, topK: 2, groups: 4, groupsKept: 2 })
    same.weigh(new Float32Array(8).fill(0.5), 0, null, 0)
    const all = new Margins({ experts: 4, topK: 4, groups: 1, groupsKept: 1 })
    all.weigh(Float32Array.of(0.1, 0.2, 0.3, 0.4), 0, null, 0)
    for (const { own, group, soft } of [same, all]) {
      expect([...own, ...group, ...soft].every(Number.isFinite)).toBe(true)
    }
    expect(all.own.every((margin) => margin > 0)).toBe(true)
  })
})
