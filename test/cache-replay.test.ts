// The cache on a device whose loads arrive late, as a seed says: the shared rules of slots, and whole
// recorded sequences through the engine's own step.
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import {
  Control,
  Counter,
  EventField,
  type Layout,
  OrderField,
  Reason,
  StopField,
  Urgency,
  UseField,
} from '../native/index.js'
import { newLayerCounts } from '../src/cache/counts.js'
import { LfuPolicy } from '../src/cache/lfu.js'
import { Profile } from '../src/cache/profile.js'
import { SlotCache } from '../src/cache/slotcache.js'
import { layoutOf, planMemory } from '../src/engine/layout.js'
import { ReplayDevice } from '../src/engine/replay.js'
import { type Stage, step } from '../src/engine/step.js'
import { packTensors } from '../src/engine/tables.js'
import { readTrace } from '../src/engine/trace.js'
import { openCheckpoint } from '../src/model/checkpoint.js'
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

/** Writes down its orders, and whether one displaced an expert that the layer in hand wanted. */
class WatchedDevice extends ReplayDevice {
  readonly orders: { layer: number; expert: number; urgency: number }[] = []
  displacedWanted = 0
  #layer = 0
  #wanted = new Set<number>()
  readonly #expertIn = new Map<number, number>()

  override advance(id: number, stop: Int32Array): Reason {
    const reason = super.advance(id, stop)
    this.#layer = (stop[StopField.layer] ?? 0) - checkpoint.config.firstMoeLayer
    const count = reason === Reason.missing ? (stop[StopField.wanted] ?? 0) : 0
    const wanted = stop.subarray(StopField.experts, StopField.experts + count)
    this.#wanted = new Set([...wanted].map((index) => this.#layer * trace.experts + index))
    return reason
  }

  override stage(orders: Int32Array): void {
    super.stage(orders)
    for (let at = 0; at < orders.length; at += OrderField.count) {
      const [expert = -1, , to = -1, urgency = -1] = orders.subarray(at)
      const displaced = this.#expertIn.get(to) ?? -1
      if (displaced !== expert && this.#wanted.has(displaced)) this.displacedWanted += 1
      if (urgency !== Urgency.cancel) this.#expertIn.set(to, expert)
      this.orders.push({ layer: this.#layer, expert, urgency })
    }
  }
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

  /** The device with so many slots, under the default policy. */
  function opened(device: ReplayDevice, slots: number) {
    const shape = { moeLayers, experts, topK, slots }
    const counts = newLayerCounts(moeLayers)
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
    return { stage, counts }
  }

  /** Reads the prompt and 100 tokens after it; returns what the cache counted, and the tokens. */
  function run(slots: number, mostPolls: number) {
    const device = new ReplayDevice(trace, { seed: 7, mostPolls })
    const { stage, counts } = opened(device, slots)
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

  /** Reads 300 tokens in one step through a device that writes down the orders it is given. */
  function sweep(slots: number, mostPolls: number) {
    const device = new WatchedDevice(trace, { seed: 5, mostPolls })
    const { stage, counts } = opened(device, slots)
    for (const begin of [0, 1]) {
      const batch = batchOf(tokens.slice(begin, begin + 300))
      expect(step(stage, batch, outcomeOf(1))).toBe(Reason.done)
    }
    device.close()
    return { counts, device }
  }

  it('of many tokens is read ahead from layer to layer, in rising index, and little in vain', () => {
    for (const slots of [8, 16, 40, 80]) {
      for (const mostPolls of [0, 2, 5]) {
        const { counts, device } = sweep(slots, mostPolls)
        const guesses = device.orders.filter(
          ({ expert, layer }) => Math.floor(expert / experts) > layer,
        )
        // Two sweeps through five layers, of which the first is never looked ahead to.
        expect(guesses.length).toBeGreaterThanOrEqual(2 * 4 * 2)
        for (const [at, { expert, layer }] of guesses.entries()) {
          expect(Math.floor(expert / experts)).toBe(layer + 1)
          const before = guesses[at - 1]
          if (before?.layer === layer) expect(expert).toBeGreaterThan(before.expert)
        }
        const sum = (values: Float64Array) => values.reduce((total, value) => total + value, 0)
        expect(sum(counts.ahead)).toBe(guesses.length)
        expect(sum(counts.aheadWasted)).toBeLessThanOrEqual(guesses.length / 4)
        expect(device.displacedWanted).toBe(0)
      }
    }
  })

  it('has its misses ordered before anybody but the cache hears what was wanted, which is all of it', () => {
    const device = new WatchedDevice(trace, { seed: 3, mostPolls: 0 })
    const { stage } = opened(device, 4 * topK)
    const wereOrdered: boolean[] = []
    class Listener extends Profile {
      override add(records: Int32Array): void {
        const wanted = records.filter((_, at) => at % UseField.count === UseField.expert)
        const ordered = new Set(device.orders.map(({ expert }) => expert))
        wereOrdered.push(wanted.length > 0 && wanted.every((expert) => ordered.has(expert)))
        super.add(records)
      }
    }
    const profile = new Listener(moeLayers, experts)
    // In the first step every layer misses all that it wants.
    const batch = batchOf(tokens.slice(0, 1))
    expect(step({ ...stage, profile }, batch, outcomeOf(1))).toBe(Reason.done)
    expect(wereOrdered).toEqual(Array(moeLayers).fill(true))
    expect(profile.counts.reduce((sum, count) => sum + count, 0)).toBe(moeLayers * topK)
  })

  it('misses each expert once when all have a slot', () => {
    expect(run(moeLayers * experts, 0).misses).toBeLessThanOrEqual(moeLayers * experts)
  })
})
