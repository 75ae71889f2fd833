// What the device tells of layers that have not routed yet: the scores of their routers, run early, and
// the stops where somebody may want to act on them.
import { describe, expect, it } from 'vitest'
import { type Batch, Limit, Reason, StopField } from '../native/index.js'
import type { OpenModel, OpenWishes } from '../src/engine/open.js'
import { drive, withModel } from './drive.js'
import { tinyGoldens } from './goldens.js'
import { batchOf, outcomeOf, requestOf } from './models.js'
import { ringTiny } from './paths.js'

const ids = tinyGoldens.find((one) => one.golden.name === 'raw-prose-long')?.golden.ids ?? []
const [moeLayers, experts, topK] = [5, 32, 4]

const slots = (share: number, more: OpenWishes = {}): OpenWishes => ({
  loadMode: 'direct',
  expertRam: { share },
  prefetch: 'on',
  ...more,
})

interface Stop {
  readonly reason: Reason
  readonly moeLayer: number
  readonly scores: Float32Array
}

/**
 * Runs a step by hand, foreseeing at every stop; gives the stops and what was recorded of all layers.
 * `attends`: behind the next layer's attention, and once more when all of a layer is known.
 */
function run(model: OpenModel, batch: Batch, kinds: number, attends = false) {
  const { device, cache, stop, firstMoeLayer, events, uses } = model.stage
  const tokens = batch.tokens.length
  const id = device.begin(batch)
  const stops: Stop[] = []
  for (let reason = device.advance(id, stop); reason < Reason.done; ) {
    const moeLayer = (stop[StopField.layer] ?? 0) - firstMoeLayer
    const scores = new Float32Array((kinds - 1) * tokens * experts)
    device.foresee(id, attends, scores)
    stops.push({ reason, moeLayer, scores })
    const count = device.poll(events, 0)
    cache.settle(events.subarray(0, count * 4))
    cache.used(uses.subarray(0, device.routed(uses) * 3))
    if (reason === Reason.missing) {
      const wanted = stop.subarray(StopField.experts, StopField.experts + (stop[1] ?? 0))
      const { places, orders } = cache.place(moeLayer, wanted, tokens)
      device.stage(orders)
      if (places.every((place) => place < 0))
        cache.settle(events.subarray(0, device.poll(events, 20) * 4))
      else device.mix(id, places)
    }
    reason = device.advance(id, stop)
  }
  cache.used(uses.subarray(0, device.routed(uses) * 3))
  const outcome = {
    ...outcomeOf(1),
    experts: new Uint16Array(moeLayers * tokens * topK),
    weights: new Float32Array(moeLayers * tokens * topK),
    scores: new Float32Array(moeLayers * tokens * kinds * experts),
  }
  expect(device.sample(id, outcome)).toBe(Reason.done)
  return { stops, outcome }
}

/** Indices of the largest, best first. */
function best(values: Float32Array, count: number): number[] {
  const order = [...values.keys()].sort((a, b) => (values[b] ?? 0) - (values[a] ?? 0))
  return order.slice(0, count)
}

describe('what a router chooses', () => {
  it('is the best of its probabilities and biases, within the groups that it keeps', () => {
    withModel(ringTiny, slots(0.5, { scores: { ahead: [], attends: false } }), (model) => {
      const biases = new Float32Array(moeLayers * experts)
      model.stage.device.routerBiases(biases)
      expect(biases.some((bias) => bias !== 0)).toBe(true)
      const { outcome } = run(model, batchOf(ids.slice(0, 12)), 1)
      for (let row = 0; row < moeLayers * 12; row += 1) {
        const layer = Math.floor(row / 12)
        const choice = outcome.scores
          .slice(row * experts, (row + 1) * experts)
          .map((score, index) => score + (biases[layer * experts + index] ?? 0))
        const groups = [0, 1, 2, 3].map((group) => {
          const of = choice.slice(group * 8, group * 8 + 8)
          const [first = 0, second = 0] = best(of, 2)
          return (of[first] ?? 0) + (of[second] ?? 0)
        })
        const kept = best(Float32Array.from(groups), 2)
        const within = choice.map((score, index) =>
          kept.includes(Math.floor(index / 8)) ? score : Number.NEGATIVE_INFINITY,
        )
        const chosen = [...outcome.experts.subarray(row * topK, (row + 1) * topK)]
        expect(chosen).toEqual(best(within, topK))
      }
    })
  })

  it('is seen by whoever reads along, as the mean over the tokens of the step', () => {
    withModel(ringTiny, slots(0.5, { scores: { ahead: [], attends: false } }), (model) => {
      const heard = new Map<number, Float32Array>()
      const { cache } = model.stage
      const policy = (cache as { policy?: object }).policy ?? {}
      Object.assign(policy, {
        scored: (layer: number, row: Float32Array) => heard.set(layer, row.slice()),
      })
      const { outcome } = run(model, batchOf(ids.slice(0, 7)), 1)
      expect([...heard.keys()].sort()).toEqual([0, 1, 2, 3, 4])
      for (const [layer, row] of heard) {
        for (let index = 0; index < experts; index += 1) {
          let sum = 0
          for (let token = 0; token < 7; token += 1)
            sum += outcome.scores[(layer * 7 + token) * experts + index] ?? 0
          expect(row[index]).toBeCloseTo(sum / 7, 6)
        }
      }
    })
  })
})

describe('routers that are run early', () => {
  it('name most of what a layer then chooses, and more of it from nearer by', () => {
    const distances = [1, 2, 4]
    withModel(
      ringTiny,
      slots(1, { scores: { ahead: distances, attends: false }, lockstep: true }),
      (model) => {
        const tokens = 16
        const { stops, outcome } = run(model, batchOf(ids.slice(0, tokens)), 4)
        // Where no slot has been touched yet a layer stops more than once.
        const layers = [...new Map(stops.map((stop) => [stop.moeLayer, stop])).values()]
        expect(layers.map(({ moeLayer }) => moeLayer)).toEqual([0, 1, 2, 3, 4])
        const found = distances.map((distance, at) => {
          let hits = 0
          for (const { moeLayer, scores } of layers) {
            const later = moeLayer + distance
            for (let token = 0; token < tokens; token += 1) {
              const first = (at * tokens + token) * experts
              const row = scores.subarray(first, first + experts)
              if (later >= moeLayers) expect(row.every((score) => score === 0)).toBe(true)
              const chosen = outcome.experts.subarray((later * tokens + token) * topK)
              const likely = new Set(best(row, topK))
              for (const expert of chosen.subarray(0, topK)) hits += likely.has(expert) ? 1 : 0
            }
          }
          return hits / (tokens * topK * (moeLayers - distance))
        })
        const [near = 0, far = 0, farthest = 0] = found
        expect(near).toBeGreaterThan(0.5)
        expect(near).toBeGreaterThan(far)
        expect(far).toBeGreaterThan(farthest)
      },
    )
  })

  it('are what a trace records', () => {
    withModel(
      ringTiny,
      slots(0.5, { scores: { ahead: [1, 2], attends: false }, lockstep: true }),
      (model) => {
        const { stops, outcome } = run(model, batchOf(ids.slice(0, 3)), 3)
        for (const { moeLayer, scores } of stops) {
          for (let token = 0; token < 3; token += 1) {
            for (const at of [0, 1]) {
              const recorded = ((moeLayer * 3 + token) * 3 + 1 + at) * experts
              expect(outcome.scores.slice(recorded, recorded + experts)).toEqual(
                scores.slice((at * 3 + token) * experts, (at * 3 + token + 1) * experts),
              )
            }
          }
        }
      },
    )
  })

  it('are refused outside of a stop, for many tokens, and for too small an array', () => {
    withModel(ringTiny, slots(0.25), (model) => {
      const { device, stop } = model.stage
      const room = new Float32Array(3 * Limit.ahead_tokens * experts)
      const few = device.begin(batchOf(ids.slice(0, 2)))
      expect(() => device.foresee(few, false, room)).toThrow(/not at a stop/)
      expect(device.advance(few, stop)).toBe(Reason.missing)
      expect(() => device.foresee(few, false, new Float32Array(5))).toThrow(/must hold 192 values/)
      device.foresee(few, false, room)
      const many = device.begin(batchOf(ids.slice(0, Limit.ahead_tokens + 1), 0, 0))
      expect(device.advance(many, stop)).toBe(Reason.missing)
      expect(() => device.foresee(many, false, room)).toThrow(/more than 16 tokens/)
    })
  })
})

describe('the attention of the next layer that is run early', () => {
  const distances = [1, 2]
  const wishes = (share: number) =>
    slots(share, { scores: { ahead: distances, attends: true }, lockstep: true })
  /** Share of what the next layer chooses that is among the best of these scores, over all but the last. */
  const recall = (outcome: ReturnType<typeof run>['outcome'], tokens: number, kind: number) => {
    const kinds = 1 + 2 * distances.length
    let hits = 0
    for (let layer = 0; layer + 1 < moeLayers; layer += 1) {
      for (let token = 0; token < tokens; token += 1) {
        const at = ((layer * tokens + token) * kinds + kind) * experts
        const likely = new Set(best(outcome.scores.slice(at, at + experts), topK))
        const chosen = outcome.experts.subarray(((layer + 1) * tokens + token) * topK)
        for (const expert of chosen.subarray(0, topK)) hits += likely.has(expert) ? 1 : 0
      }
    }
    return hits / (tokens * topK * (moeLayers - 1))
  }

  it('makes more of what the next layer chooses known, before any of its own experts is', () => {
    withModel(ringTiny, wishes(1), (model) => {
      const { outcome } = run(model, batchOf(ids.slice(0, 16)), 5)
      const [plain, attended] = [recall(outcome, 16, 1), recall(outcome, 16, 3)]
      expect(attended).toBeGreaterThan(plain + 0.05)
    })
  })

  it('is the real one, up to the order of additions, once all of the layer is computed', () => {
    withModel(
      ringTiny,
      slots(1, { scores: { ahead: [1], attends: false }, lockstep: true }),
      (model) => {
        const { device, cache, stop, firstMoeLayer, events, uses } = model.stage
        run(model, batchOf(ids.slice(0, 9)), 2)
        const id = device.begin(batchOf(ids.slice(9, 10), 0, 9))
        const foreseen: Float32Array[] = []
        for (let reason = device.advance(id, stop); reason < Reason.done; ) {
          const moeLayer = (stop[StopField.layer] ?? 0) - firstMoeLayer
          const count = stop[StopField.wanted] ?? 0
          const wanted = stop.slice(StopField.experts, StopField.experts + count)
          cache.settle(events.subarray(0, device.poll(events, 0) * 4))
          cache.used(uses.subarray(0, device.routed(uses) * 3))
          const { places, orders } = cache.place(moeLayer, wanted, 1)
          device.stage(orders)
          device.mix(id, places)
          const scores = new Float32Array(experts)
          device.foresee(id, true, scores)
          foreseen.push(scores)
          reason = device.advance(id, stop)
        }
        const scores = new Float32Array(moeLayers * 2 * experts)
        expect(device.sample(id, { ...outcomeOf(1), scores })).toBe(Reason.done)
        for (let layer = 0; layer + 1 < moeLayers; layer += 1) {
          for (let index = 0; index < experts; index += 1) {
            const real = scores[(layer + 1) * 2 * experts + index] ?? 0
            expect(foreseen[layer]?.[index]).toBeCloseTo(real, 5)
          }
        }
      },
    )
  })

  it('changes no bit of this step, nor of those after it', () => {
    const text = (attends: boolean) =>
      withModel(ringTiny, slots(0.25, { scores: { ahead: [1], attends: false } }), (model) => {
        const steps = [
          batchOf(ids.slice(0, 12)),
          ...[12, 13, 14].map((at) => batchOf(ids.slice(at, at + 1), 0, at)),
        ]
        return steps.map((batch) => {
          const { outcome } = run(model, batch, 2, attends)
          return [outcome.next, outcome.logprobs, outcome.experts, outcome.weights]
        })
      })
    expect(text(true)).toEqual(text(false))
  })

  it('is run by a step that waits for a slow drive, and the text is the same', () => {
    const prompt = ids.slice(0, 6)
    const of = (mode: 'on' | 'off') =>
      withModel(
        ringTiny,
        slots(0.1, {
          prefetch: mode,
          reads: {
            pace: { bytesPerSecond: 2e7, latencySeconds: 1e-4, depth: 8, jitter: 0, seed: 1 },
          },
        }),
        (model) => {
          const prefetch = model.stage.ahead?.prefetch
          const asked = { attended: 0, plain: 0 }
          const look = prefetch?.ahead.bind(prefetch)
          if (prefetch !== undefined && look !== undefined) {
            prefetch.ahead = (moeLayer, isAttended) => {
              asked[isAttended ? 'attended' : 'plain'] += 1
              return look(moeLayer, isAttended)
            }
          }
          const [driven] = drive(model, [requestOf(prompt, { maxTokens: 12 })])
          return { asked, emissions: driven?.emissions }
        },
      )
    const [on, off] = [of('on'), of('off')]
    expect(on.emissions).toEqual(off.emissions)
    expect(on.emissions).toHaveLength(12)
    expect(on.asked.attended).toBeGreaterThan(10)
    expect(off.asked).toEqual({ attended: 0, plain: 0 })
  })
})

describe('a step that looks ahead', () => {
  const stopsOf = (share: number, looksAhead: boolean) =>
    withModel(ringTiny, slots(share), (model) => {
      // Once to fill the slots with what these tokens want, as far as they reach.
      for (const token of [0, 1, 2]) run(model, batchOf(ids.slice(token, token + 1), 0, token), 4)
      const again = [...ids.slice(2, 3)]
      run(model, batchOf(again, 0, 3), 4)
      return run(model, { ...batchOf(again, 0, 3), looksAhead }, 4).stops
    })

  it('stops also where all is there, when later layers may want what is nowhere', () => {
    const stops = stopsOf(0.5, true)
    const ahead = stops.filter(({ reason }) => reason === Reason.ahead)
    expect(ahead.length).toBeGreaterThan(0)
    // At most once in each layer, and never in the last, after which nothing comes.
    const layers = ahead.map(({ moeLayer }) => moeLayer)
    expect(new Set(layers).size).toBe(layers.length)
    expect(layers).not.toContain(moeLayers - 1)
  })

  it('does not stop for that unless it is asked to', () => {
    const stops = stopsOf(0.5, false)
    expect(stops.filter(({ reason }) => reason === Reason.ahead)).toEqual([])
  })

  it('never stops where every expert has a slot', () => {
    withModel(ringTiny, slots(1, { policy: 'lru' }), (model) => {
      for (let turn = 0; turn < 40; turn += 1) run(model, batchOf(ids.slice(turn, turn + 16)), 1)
      const batch = { ...batchOf(ids.slice(0, 4)), looksAhead: true }
      expect(run(model, batch, 1).stops.filter(({ reason }) => reason === Reason.ahead)).toEqual([])
    })
  })
})
