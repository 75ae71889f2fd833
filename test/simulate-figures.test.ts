// The simulator against figures that an independent replay of the same traces gave: decode, warmed by
// the prompt, hits judged for all experts of a layer at once, in percent.
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { readRouting } from '../src/simulate/source.js'
import { fixtures } from './paths.js'
import { hitRate } from './routings.js'

const qwen = readRouting(join(fixtures, 'traces/public/qwen.route.csv'))
const gptoss = readRouting(join(fixtures, 'traces/public/gptoss.route.csv'))

/** Slots of a layer: recency in each layer, in one pool, and Belady. */
const published: Record<'qwen' | 'gptoss', [number, number, number, number][]> = {
  qwen: [
    [4, 22.9, 0.0, 44.2],
    [8, 42.1, 37.8, 61.7],
    [16, 61.0, 58.1, 78.4],
    [32, 81.7, 82.7, 91.8],
    [64, 95.8, 96.3, 96.9],
  ],
  gptoss: [
    [8, 51.6, 50.1, 68.5],
    [16, 65.7, 63.2, 80.5],
    [32, 80.2, 76.9, 88.3],
  ],
}

describe.each([
  ['Qwen3-30B', qwen, published.qwen],
  ['gpt-oss-120b', gptoss, published.gptoss],
] as const)('%s', (_name, routing, rows) => {
  it.each(rows)('hits as published with %d slots a layer', (slotsPerLayer, lru, pool, belady) => {
    const percent = (policy: string, scope: 'layer' | 'global') =>
      100 * hitRate(routing, { policy, scope, slotsPerLayer })
    expect(Math.abs(percent('lru', 'layer') - lru)).toBeLessThan(0.5)
    expect(Math.abs(percent('lru', 'global') - pool)).toBeLessThan(0.5)
    expect(Math.abs(percent('belady', 'layer') - belady)).toBeLessThan(0.1)
  })
})
