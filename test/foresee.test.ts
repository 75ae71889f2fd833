// What the device tells of layers that have not routed yet: the scores of their routers, run early, and
// the stops where somebody may want to act on them.
import { describe, expect, it } from 'vitest'
import { type Batch, Limit, Reason, StopField } from '../native/index.js'
import type { OpenModel, OpenWishes } from '../src/engine/open.js'
import { withModel } from './drive.js'
import { tinyGoldens } from './goldens.js'
import { batchOf, outcomeOf } from './models.js'
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

/** Runs a step by hand, foreseeing at every stop; gives the stops and what was recorded of all layers. */
function run(model: OpenModel, batch: Batch, kinds: number) {
  const { device, cache, stop, firstMoeLayer, events, uses } = model.stage
  const tokens = batch.tokens.length
  const id = device.begin(batch)
  const stops: Stop[] = []
  for (let reason = device.advance(id, stop); reason < Reason.done; ) {
    const moeLayer = (stop[StopField.layer] ?? 0) - firstMoeLayer
    const scores = new Float32Array((kinds - 1) * tokens * experts)
    device.foresee(id, false, scores)
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
