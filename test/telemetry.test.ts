// The snapshot of an engine: its figures are those of the counters and of the usage that --json tells, at
// the same instant; what a machine lacks is left out; the map of experts follows loads, uses and evictions.
import { describe, expect, it } from 'vitest'
import { Counter } from '../native/index.js'
import { snapshotOf } from '../src/engine/observer.js'
import type { OpenModel, OpenWishes } from '../src/engine/open.js'
import type { EngineFacts } from '../src/engine/protocol.js'
import { readUsage } from '../src/engine/stats.js'
import {
  ageMost,
  type EngineFigures,
  ratesBetween,
  type Snapshot,
  total,
  usesOf,
} from '../src/engine/telemetry.js'
import { drive, withModel } from './drive.js'
import { tinyGoldens } from './goldens.js'
import { requestOf } from './models.js'
import { ringTiny } from './paths.js'

const chat = tinyGoldens.find((one) => one.golden.name === 'chat-add')?.golden.ids ?? []
const pace = { bytesPerSecond: 4e8, latencySeconds: 2e-4, depth: 8, jitter: 0, seed: 1 }
const direct: OpenWishes = {
  loadMode: 'direct',
  expertRam: { share: 0.25 },
  threads: 2,
  prefetch: 'on',
  forecastEvery: 32,
  reads: { pace },
}

function factsOf(model: OpenModel): EngineFacts {
  const { checkpoint, plan, experts, counters, stage } = model
  return {
    ...{ config: checkpoint.config, plan, experts, counters, forecast: null, note: null },
    expertBytes: experts.expertReadBytes,
    backend: 'cpu',
    instructionSet: 'portable',
    isReproducible: true,
    device: stage.device.describe(),
  }
}

function taken(
  model: OpenModel,
  hasMap = false,
  ceiling: number | undefined = undefined,
): Snapshot {
  return snapshotOf(factsOf(model), { model: 'tiny', waiting: 0, ceiling }, hasMap)
}

function engineOf({ engine }: Snapshot): EngineFigures {
  if (engine === undefined) throw new Error('the engine is open')
  return engine
}

const bytes = (text: string | undefined) => Buffer.from(text ?? '', 'base64')

describe('a snapshot', () => {
  it('has the figures of the counters at that instant', () => {
    withModel(ringTiny, direct, (model) => {
      drive(model, [requestOf(chat, { maxTokens: 24 })])
      const engine = engineOf(taken(model, false, pace.bytesPerSecond))
      const usage = readUsage(model.counters)
      expect(usage.misses).toBeGreaterThan(0)
      expect(total(engine.layers.requests)).toBe(usage.requests)
      expect(total(engine.layers.hits)).toBe(usage.hits)
      expect(total(engine.layers.misses)).toBe(usage.misses)
      expect(engine.steps).toBe(model.counters.device[Counter.steps])
      expect(engine.links).toEqual({
        drive: {
          bytesRead: usage.bytesRead,
          bytesNeeded: usage.misses * model.experts.expertReadBytes,
          busySeconds: usage.driveBusySeconds,
          depthSeconds: model.counters.device[Counter.drive_depth_s],
          ceilingBytesPerSecond: pace.bytesPerSecond,
        },
      })
      expect(engine.stall).toEqual({
        nvme: usage.stallSeconds,
        compute: usage.computeSeconds,
        policy: usage.policySeconds,
      })
      expect(engine.prefetch).toMatchObject({
        verdict: 'on',
        issued: usage.ahead,
        inTime: usage.aheadHits,
        used: usage.ahead - usage.aheadWasted,
        cancelled: usage.aheadWasted - usage.aheadUnused,
        bytes: usage.bytesAhead,
      })
      expect(usage.ahead).toBeGreaterThan(0)
    })
  })

  it('counts the prompt as read and the answer as drawn, and knows each request', () => {
    withModel(ringTiny, { ...direct, sequences: 2, stepTokens: 8 }, (model) => {
      const before = taken(model)
      drive(model, [requestOf(chat, { maxTokens: 6 }), requestOf(chat, { maxTokens: 9 })])
      const after = taken(model)
      expect(engineOf(after).tokensRead).toBe(2 * chat.length)
      expect(engineOf(after).tokensDrawn).toBe(15)
      expect(after.requests).toMatchObject({ running: 0, begun: 2, ended: 2, failed: 0 })
      expect(after.requests.rows).toMatchObject([
        { slot: 0, number: 1, state: 'length', promptTokens: chat.length, tokensDrawn: 6 },
        { slot: 1, number: 2, state: 'length', promptTokens: chat.length, tokensDrawn: 9 },
      ])
      expect(after.requests.rows[0]).toHaveProperty('tokensCached', 0)
      const rates = ratesBetween(before, after)
      expect(rates?.drawnPerSecond).toBe(15 / (after.time - before.time))
      expect(rates?.misses).toBe(total(engineOf(after).layers.misses))
    })
  })

  it('leaves out what mapped experts do not have, instead of telling 0', () => {
    withModel(ringTiny, { loadMode: 'mapped' }, (model) => {
      const engine = engineOf(taken(model))
      expect(engine.links).toEqual({})
      expect(engine.stall).not.toHaveProperty('nvme')
      expect(engine).not.toHaveProperty('prefetch')
      expect(engine.experts).not.toHaveProperty('slots')
    })
  })

  it('tells of no bound where nobody knows what the drive can do', () => {
    withModel(ringTiny, direct, (model) => {
      const before = taken(model)
      drive(model, [requestOf(chat, { maxTokens: 4 })])
      const drive2 = ratesBetween(before, taken(model))?.drive
      expect(drive2?.bytesPerSecond).toBeGreaterThan(0)
      expect(drive2).not.toHaveProperty('shareOfBound')
    })
  })

  it('is not compared with one of another engine', () => {
    withModel(ringTiny, direct, (model) => {
      const before = taken(model)
      drive(model, [requestOf(chat, { maxTokens: 2 })])
      const after = taken(model)
      expect(ratesBetween(before, after)).not.toBeNull()
      expect(ratesBetween(after, before)).toBeNull()
      expect(ratesBetween({ ...before, restarts: 1 }, { ...after, restarts: 2 })).toBeNull()
    })
  })
})

describe('the map of experts', () => {
  it('has as many experts in memory as hold a slot, and they are those that the cache holds', () => {
    withModel(ringTiny, { ...direct, prefetch: 'off' }, (model) => {
      drive(model, [requestOf(chat, { maxTokens: 40 })])
      const snapshot = taken(model, true)
      const resident = bytes(snapshot.map?.resident)
      const evictions = total(engineOf(snapshot).layers.evictions)
      const { slots, experts } = model.experts
      expect(resident.length).toBe(experts)
      expect(evictions).toBeGreaterThan(0)
      expect(total([...resident])).toBe(slots)
      expect(engineOf(snapshot).experts.resident).toBe(slots)
      const { cache } = model.stage
      if (!('holds' in cache) || typeof cache.holds !== 'function') throw new Error('has slots')
      for (const [expert, flag] of resident.entries()) {
        expect([expert, flag === 1]).toEqual([expert, cache.holds(expert)])
      }
      const left = bytes(snapshot.map?.left)
      expect(left.some((age) => age < ageMost)).toBe(true)
    })
  })

  it('counts each step that wanted an expert, and since when it was not', () => {
    withModel(ringTiny, direct, (model) => {
      const [driven] = drive(model, [requestOf(chat, { maxTokens: 12, routing: true })])
      const { map } = taken(model, true)
      const { topK, experts } = model.checkpoint.config
      const chosen = driven?.ending.scored?.experts ?? new Uint16Array(0)
      // Of the first layer: the prompt is one step, each drawn token but the last another.
      const wanted = new Map<number, number>()
      const prompt = new Set(chosen.subarray(0, chat.length * topK))
      const steps = [
        prompt,
        ...Array.from({ length: 11 }, (_, at) => {
          const first = (chat.length + at) * topK
          return new Set(chosen.subarray(first, first + topK))
        }),
      ]
      for (const step of steps) {
        for (const expert of step) wanted.set(expert, (wanted.get(expert) ?? 0) + 1)
      }
      const uses = bytes(map?.uses)
      const used = bytes(map?.used)
      for (let expert = 0; expert < experts; expert += 1) {
        expect([expert, usesOf(uses[expert] ?? 0)]).toEqual([expert, wanted.get(expert) ?? 0])
        const last = steps.findLastIndex((step) => step.has(expert))
        const age =
          last < 0 ? ageMost : (used[expert] ?? -1) - (used[[...(steps.at(-1) ?? [])][0] ?? 0] ?? 0)
        expect([expert, age]).toEqual([expert, last < 0 ? ageMost : steps.length - 1 - last])
      }
    })
  })
})
