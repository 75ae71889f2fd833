// Figures of "Learn the routing", what stays: misses of the policy `auto` against recency at equal slots,
// and how far that is on the way to the bound that knows what comes; and what deciding costs. Constants
// were chosen on other sequences of ring-tiny and another seed of the generator; on the public traces
// nothing was fitted.
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { AutoPolicy } from '../src/cache/auto.js'
import type { Expert } from '../src/cache/place.js'
import { generate } from '../src/simulate/generate.js'
import { EnginePool } from '../src/simulate/pool.js'
import { type Routing, walk } from '../src/simulate/routing.js'
import { ScoreReader } from '../src/simulate/scores.js'
import { readRouting } from '../src/simulate/source.js'
import { note, spread } from './figure.js'
import { fixtures } from './paths.js'
import { judged } from './routings.js'

const shares = [0.15, 0.25, 0.5]
const large = { layers: 76, experts: 256, topK: 8, sequences: 8, tokens: 256, prompt: 32 }

const traces: [name: string, read: () => Routing, mostAtQuarter: number][] = [
  [
    'ring-tiny, sequences not fitted to',
    () => readRouting(join(fixtures, 'traces/ring-tiny-held.trace')),
    0.9,
  ],
  ['generated, 76 x 256, a seed not fitted to', () => generate(5, large), 0.9],
  ['Qwen3-30B-A3B', () => readRouting(join(fixtures, 'traces/public/qwen.route.csv')), 1],
  ['gpt-oss-120b', () => readRouting(join(fixtures, 'traces/public/gptoss.route.csv')), 1],
]

for (const [name, read, mostAtQuarter] of traces) {
  it(`misses: ${name}`, () => {
    const routing = read()
    for (const share of shares) {
      const slotsPerLayer = Math.round(share * routing.experts)
      const missesOf = (policy: string, scope: 'layer' | 'global' = 'layer') => {
        const { requests, hits } = judged(routing, { policy, slotsPerLayer, scope })
        return requests - hits
      }
      const [auto, layers, pool, bound] = [
        missesOf('auto'),
        missesOf('lru'),
        missesOf('lru', 'global'),
        missesOf('belady'),
      ]
      expect(layers).toBeGreaterThan(0)
      const better = Math.min(layers, pool)
      const most = share === 0.25 ? mostAtQuarter : 1
      const closed = better === bound ? 1 : (better - auto) / (better - bound)
      note(
        `${name}, slots for ${100 * share} %: misses against the better recency`,
        `${percent(auto / better - 1)}, ${percent(closed)} of the way to Belady; ${auto}, recency ${layers} in layers, ${pool} in one pool, Belady ${bound}`,
        most === 1 ? 'at most 0 %' : `at most ${percent(most - 1)}; aim -25.0 %`,
        auto <= most * better,
      )
    }
  })
}

/** Notes what it spent on each visit, in microseconds. */
class TimedPolicy extends AutoPolicy {
  readonly visits: number[] = []
  #spent = 0

  override scored(moeLayer: number, probabilities: Float32Array): void {
    this.#timed(() => super.scored(moeLayer, probabilities))
  }

  override used(moeLayer: number, records: Int32Array, count: number, isSweep: boolean): void {
    this.#timed(() => super.used(moeLayer, records, count, isSweep))
  }

  override victim(moeLayer: number, mayLeave: (expert: Expert) => boolean): number {
    return this.#timed(() => super.victim(moeLayer, mayLeave))
  }

  endVisit(): void {
    this.visits.push(this.#spent)
    this.#spent = 0
  }

  #timed<Value>(work: () => Value): Value {
    const begin = performance.now()
    const value = work()
    this.#spent += 1000 * (performance.now() - begin)
    return value
  }
}

it.each([
  [256, () => generate(5, { ...large, layers: 4, sequences: 4 }), 150],
  [32, () => readRouting(join(fixtures, 'traces/ring-tiny-held.trace')), 30],
] as const)('what deciding costs at %d experts', (experts, read, most) => {
  const routing = read()
  const moeLayers = routing.layers.length
  const each = Math.round(experts / 4)
  const policy = new TimedPolicy({
    moeLayers,
    experts,
    topK: routing.topK,
    slots: each * moeLayers,
  })
  const pool = new EnginePool(routing, each, policy)
  if (routing.scores === null) throw new Error('expected scores')
  const reader = new ScoreReader(routing.scores, moeLayers, experts)
  const scores = new Float32Array(experts)
  walk(routing, (visit) => {
    if (visit.tokens > 1) return
    reader.read(visit.firstToken, visit.moeLayer, scores)
    policy.scored(visit.moeLayer, scores)
    pool.visit(visit)
    policy.endVisit()
  })
  reader.close()
  const { median, text } = spread(policy.visits.slice(Math.floor(policy.visits.length / 4)), 1)
  note(
    `policy auto, a layer of ${experts} experts, microseconds a token`,
    `median ${text}`,
    String(most),
    median <= most,
  )
})

function percent(part: number): string {
  return `${(100 * part).toFixed(1)} %`
}
