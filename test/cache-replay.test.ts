// The cache on a device whose loads arrive late, as a seed says: the shared rules of slots, and whole
// recorded sequences through the engine's own step.
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import {
  Control,
  Counter,
  EventField,
  type Layout,
  Reason,
  StopField,
  UseField,
} from '../native/index.js'
import { LfuPolicy } from '../src/cache/lfu.js'
import { SlotCache } from '../src/cache/slotcache.js'
import { layoutOf, planMemory } from '../src/engine/layout.js'
import { ReplayDevice } from '../src/engine/replay.js'
import { type Stage, step } from '../src/engine/step.js'
import { packTensors } from '../src/engine/tables.js'
import { readTrace } from '../src/engine/trace.js'
import { openCheckpoint } from '../src/model/checkpoint.js'
import { newCounts } from './cachedevice.js'
import { batchOf, outcomeOf } from './models.js'
import { fixtures, ringTiny } from './paths.js'
import { slotSuite } from './slots.suite.js'

const trace = readTrace(join(fixtures, 'traces/ring-tiny.trace'))
const checkpoint = openCheckpoint(ringTiny)
const tables = packTensors(checkpoint)

function layout(lockstep: boolean, slots = 0): Layout {
  const wishes = { sequences: 2, lockstep, contextTokens: 1024 }
  return layoutOf({
    checkpoint,
    files: checkpoint.files,
    tables,
    plan: planMemory(checkpoint.config, wishes, 2 ** 30),
    wishes,
    slots,
    control: new Int32Array(Control.cancel + 2),
    counters: new Float64Array(Counter.count),
  })
}

const tokens = trace.sequences[0]?.ids ?? []

for (const seed of [1, 2]) {
  slotSuite({
    name: `replay, late by seed ${seed}`,
    create: () => new ReplayDevice(trace, { seed, mostPolls: 6 }),
    layout,
    tokens,
  })
}

describe('a recorded sequence', () => {
  const { topK, experts } = trace
  const moeLayers = trace.layers.length

  /** Reads the prompt and 100 tokens after it; returns what the cache counted, and the tokens. */
  function run(slots: number, mostPolls: number) {
    const shape = { moeLayers, experts, topK, slots }
    const counts = newCounts(moeLayers)
    const device = new ReplayDevice(trace, { seed: 7, mostPolls })
    device.open(layout(false, slots))
    const stage: Stage = {
      device,
      cache: new SlotCache(shape, new LfuPolicy(shape), counts),
      firstMoeLayer: checkpoint.config.firstMoeLayer,
      stop: new Int32Array(StopField.experts + experts),
      events: new Int32Array(64 * EventField.count),
      uses: new Int32Array(64 * UseField.count),
      counters: new Float64Array(Counter.count),
    }
    const drawn: number[] = []
    const prompt = trace.sequences[0]?.prompt ?? 0
    for (let at = 0; at < prompt + 100; at = at === 0 ? prompt : at + 1) {
      const batch = batchOf(tokens.slice(at, at === 0 ? prompt : at + 1), 0, at)
      const outcome = outcomeOf(1)
      expect(step(stage, batch, outcome)).toBe(Reason.done)
      drawn.push(outcome.next[0] ?? -1)
    }
    device.close()
    const sum = (values: Float64Array) => values.reduce((total, value) => total + value, 0)
    return { drawn, requests: sum(counts.requests), misses: sum(counts.misses) }
  }

  it('comes to its end with the same tokens and requests at every budget, late or not', () => {
    const whole = run(moeLayers * experts, 0)
    expect(whole.drawn).toEqual(tokens.slice(trace.sequences[0]?.prompt, whole.drawn.length + 64))
    for (const slots of [1, 4, 16, 40, 80]) {
      for (const mostPolls of [0, 5]) {
        const { drawn, requests, misses } = run(slots, mostPolls)
        expect(drawn).toEqual(whole.drawn)
        expect(requests).toBe(whole.requests)
        expect(misses).toBeGreaterThan(whole.misses)
      }
    }
  })

  it('misses each expert once when all have a slot', () => {
    expect(run(moeLayers * experts, 0).misses).toBeLessThanOrEqual(moeLayers * experts)
  })
})
