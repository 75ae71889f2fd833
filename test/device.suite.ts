// What every device must do, whatever is behind it: the native one over a checkpoint, the replay of a
// trace. One implementation passes a fixture in and gets the whole list.
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  Control,
  type Device,
  type Layout,
  Limit,
  OrderField,
  PartField,
  Reason,
  Rows,
  StopField,
} from '../native/index.js'
import { MappedCache } from '../src/cache/cache.js'
import { newLayerCounts } from '../src/cache/counts.js'
import { nowhere, type Place, placeOf, Tier } from '../src/cache/place.js'
import { codeOf, type DeviceFixture } from './devicefixture.js'
import { batchOf, outcomeOf } from './models.js'
import { slotSuite } from './slots.suite.js'

export { codeOf, type DeviceFixture }

export function deviceSuite(fixture: DeviceFixture): void {
  describe(`device: ${fixture.name}`, () => {
    let device: Device
    let layout: Layout
    let stop: Int32Array

    function open(lockstep = false): void {
      layout = fixture.layout(lockstep)
      stop = new Int32Array(StopField.experts + layout.shape.experts)
      device.open(layout)
    }

    const begin = (count: number, slot = 0) =>
      device.begin(batchOf(fixture.tokens.slice(0, count), slot))

    function wanted(): Int32Array {
      return stop.slice(StopField.experts, StopField.experts + (stop[StopField.wanted] ?? 0))
    }

    function placesOfWanted(): Int32Array {
      const moeLayer = (stop[StopField.layer] ?? 0) - layout.shape.firstMoeLayer
      const cache = new MappedCache(layout.shape.experts, newLayerCounts(layout.shape.layers))
      return cache.place(moeLayer, wanted()).places.slice()
    }

    function finish(id: number): Reason {
      let reason = device.advance(id, stop)
      while (reason === Reason.missing) {
        device.mix(id, placesOfWanted())
        reason = device.advance(id, stop)
      }
      return reason
    }

    beforeEach(() => {
      device = fixture.create()
    })
    afterEach(() => {
      device.close()
    })

    it('runs a step to its end by itself while every expert is resident', () => {
      open()
      const id = begin(9)
      expect(device.advance(id, stop)).toBe(Reason.done)
      expect(device.advance(id, stop)).toBe(Reason.done)
      const outcome = outcomeOf(1)
      expect(device.sample(id, outcome)).toBe(Reason.done)
      expect(outcome.next[0]).toBeGreaterThanOrEqual(0)
      expect(outcome.next[0]).toBeLessThan(layout.shape.vocabulary)
    })

    it('stops at every MoE layer in lockstep, in order, wanting its experts in rising index', () => {
      open(true)
      const id = begin(5)
      const { layers, firstMoeLayer, topK, experts } = layout.shape
      for (let layer = firstMoeLayer; layer < layers; layer += 1) {
        expect(device.advance(id, stop)).toBe(Reason.missing)
        expect(stop[StopField.layer]).toBe(layer)
        const list = [...wanted()]
        expect(list.length).toBeGreaterThanOrEqual(topK)
        expect(list.length).toBeLessThanOrEqual(Math.min(experts, 5 * topK))
        expect(list).toEqual([...new Set(list)].sort((a, b) => a - b))
        device.mix(id, placesOfWanted())
      }
      expect(device.advance(id, stop)).toBe(Reason.done)
    })

    it('wants exactly the experts that the routing log then names', () => {
      open(true)
      const { layers, firstMoeLayer, topK } = layout.shape
      const perLayer = 4 * topK
      const lists: number[][] = []
      const id = begin(4)
      while (device.advance(id, stop) === Reason.missing) {
        lists.push([...wanted()])
        device.mix(id, placesOfWanted())
      }
      const count = (layers - firstMoeLayer) * perLayer
      const experts = new Uint16Array(count)
      device.sample(id, { ...outcomeOf(1), experts, weights: new Float32Array(count) })
      for (const [moeLayer, list] of lists.entries()) {
        const logged = experts.subarray(moeLayer * perLayer, (moeLayer + 1) * perLayer)
        expect([...new Set(logged)].sort((a, b) => a - b)).toEqual(list)
      }
    })

    it('comes back for the same layer until every wanted expert was mixed', () => {
      open(true)
      const id = begin(3)
      device.advance(id, stop)
      const all = wanted()
      const layer = stop[StopField.layer]
      device.mix(
        id,
        placesOfWanted().map((place, at) => (at === 1 ? place : nowhere)),
      )
      expect(device.advance(id, stop)).toBe(Reason.missing)
      expect(stop[StopField.layer]).toBe(layer)
      expect([...wanted()]).toEqual([...all].filter((_, at) => at !== 1))
      device.mix(id, placesOfWanted().fill(nowhere))
      expect(device.advance(id, stop)).toBe(Reason.missing)
      expect([...wanted()]).toEqual([...all].filter((_, at) => at !== 1))
      expect(finish(id)).toBe(Reason.done)
    })

    it('refuses a place that does not hold the expert, and changes nothing by it', () => {
      open(true)
      const id = begin(3)
      device.advance(id, stop)
      const good = placesOfWanted()
      const wrong: Place[] = [placeOf(Tier.map, 0xffff00), -2 as Place, placeOf(1 as Tier, 0)]
      for (const place of wrong) {
        const places = good.slice()
        places[0] = place
        expect(codeOf(() => device.mix(id, places))).toBe('bad_argument')
      }
      expect(codeOf(() => device.mix(id, good.slice(1)))).toBe('bad_argument')
      device.mix(id, good)
      expect(finish(id)).toBe(Reason.done)
    })

    it('takes the experts of a large step in rising index only', () => {
      open(true)
      const id = begin(Limit.unordered_tokens + 1)
      device.advance(id, stop)
      const gap = placesOfWanted()
      gap[0] = nowhere
      expect(codeOf(() => device.mix(id, gap))).toBe('bad_argument')
      const prefix = placesOfWanted().map((place, at) => (at < 2 ? place : nowhere))
      device.mix(id, prefix)
      expect(finish(id)).toBe(Reason.done)
    })

    it('refuses orders while it has no slots, and has no events', () => {
      open()
      device.stage(new Int32Array(0))
      expect(codeOf(() => device.stage(new Int32Array(OrderField.count)))).toBe('bad_order')
      expect(codeOf(() => device.stage(new Int32Array(1)))).toBe('bad_argument')
      expect(device.poll(new Int32Array(16), 0)).toBe(0)
    })

    it(`keeps ${Limit.steps_open} steps open and refuses one more until one has ended`, () => {
      open()
      const ids = [begin(4), begin(4, 1)]
      expect(codeOf(() => begin(4))).toBe('busy')
      expect(new Set(ids).size).toBe(2)
      for (const id of ids) device.advance(id, stop)
      device.sample(ids[0] ?? 0, outcomeOf(1))
      const third = begin(4)
      expect(ids).not.toContain(third)
      expect(finish(third)).toBe(Reason.done)
    })

    it('ends a step as cancelled once all of its sequences are', () => {
      open(true)
      const id = begin(4)
      expect(device.advance(id, stop)).toBe(Reason.missing)
      Atomics.store(layout.control, Control.cancel, 1)
      expect(device.advance(id, stop)).toBe(Reason.cancelled)
      const outcome = outcomeOf(1)
      expect(device.sample(id, outcome)).toBe(Reason.cancelled)
      expect(outcome.next[0]).toBe(0)
      Atomics.store(layout.control, Control.cancel, 0)
      expect(finish(begin(4))).toBe(Reason.done)
    })

    it('goes on with a step while one of its sequences is not cancelled', () => {
      open()
      const first = batchOf(fixture.tokens.slice(0, 3), 0)
      const second = batchOf(fixture.tokens.slice(0, 2), 1)
      const both = {
        ...first,
        parts: 2,
        part: Int32Array.from([...first.part, ...second.part]),
        tokens: Int32Array.from([...first.tokens, ...second.tokens]),
        blocks: Int32Array.from([0, 1]),
        sampling: Float64Array.from([...first.sampling, ...second.sampling]),
      }
      Atomics.store(layout.control, Control.cancel, 1)
      const id = device.begin(both)
      expect(device.advance(id, stop)).toBe(Reason.done)
      Atomics.store(layout.control, Control.cancel + 1, 1)
      expect(device.sample(id, outcomeOf(2))).toBe(Reason.done)
    })

    it('gives as many rows as the parts ask for, and refuses too small an outcome', () => {
      open()
      const batch = batchOf(fixture.tokens.slice(0, 6))
      batch.part[PartField.rows] = Rows.all
      const id = device.begin(batch)
      device.advance(id, stop)
      expect(codeOf(() => device.sample(id, outcomeOf(5)))).toBe('bad_argument')
      const outcome = outcomeOf(6)
      expect(device.sample(id, outcome)).toBe(Reason.done)
      expect([...outcome.next.subarray(0, 5)]).toEqual([-1, -1, -1, -1, -1])
      expect(outcome.next[5]).toBeGreaterThanOrEqual(0)
    })

    it('refuses batches that are not within its limits', () => {
      open()
      const change = (field: number, value: number) => {
        const batch = batchOf(fixture.tokens.slice(0, 4))
        batch.part[field] = value
        return () => device.begin(batch)
      }
      expect(codeOf(change(PartField.tokens, 0))).toBe('bad_argument')
      expect(codeOf(change(PartField.tokens, 1_000_000))).toBe('bad_argument')
      expect(codeOf(change(PartField.position, -1))).toBe('bad_argument')
      expect(codeOf(change(PartField.position, 2 ** 30))).toBe('bad_argument')
      expect(codeOf(change(PartField.sequence, 99))).toBe('bad_argument')
      expect(codeOf(() => device.begin({ ...batchOf([1]), parts: 0 }))).toBe('bad_argument')
      expect(codeOf(() => device.begin({ ...batchOf([1]), parts: 3 }))).toBe('bad_argument')
      expect(finish(begin(4))).toBe(Reason.done)
    })

    it('knows only the steps that are open', () => {
      open()
      const id = begin(4)
      expect(codeOf(() => device.advance(id + 1, stop))).toBe('bad_step')
      expect(codeOf(() => device.sample(id, outcomeOf(1)))).toBe('bad_step')
      expect(codeOf(() => device.mix(id, new Int32Array(1)))).toBe('bad_step')
      expect(finish(id)).toBe(Reason.done)
      expect(codeOf(() => device.mix(id, new Int32Array(1)))).toBe('bad_step')
      device.sample(id, outcomeOf(1))
      expect(codeOf(() => device.advance(id, stop))).toBe('bad_step')
      expect(codeOf(() => device.sample(id, outcomeOf(1)))).toBe('bad_step')
    })

    it('says what it is while it is open', () => {
      expect(device.describe()).toBe('')
      open()
      expect(device.describe()).not.toBe('')
      device.close()
      expect(device.describe()).toBe('')
    })

    it('is refused in every state that a call has no meaning in', () => {
      const calls: [string, () => unknown][] = [
        ['begin', () => begin(2)],
        ['advance', () => device.advance(1, new Int32Array(2000))],
        ['mix', () => device.mix(1, new Int32Array(1))],
        ['stage', () => device.stage(new Int32Array(0))],
        ['poll', () => device.poll(new Int32Array(4), 0)],
        ['routed', () => device.routed(new Int32Array(4))],
        ['sample', () => device.sample(1, outcomeOf(1))],
      ]
      for (const [, call] of calls) expect(codeOf(call)).toBe('not_open')
      open()
      expect(codeOf(() => device.open(layout))).toBe('already_open')
      device.close()
      for (const [, call] of calls) expect(codeOf(call)).toBe('closed')
      expect(codeOf(() => device.open(layout))).toBe('closed')
    })

    it('may be closed at any time, with steps open, and again', () => {
      device.close()
      device.close()
      device = fixture.create()
      open(true)
      const id = begin(4)
      device.advance(id, stop)
      begin(4, 1)
      device.close()
      device.close()
      expect(codeOf(() => device.advance(id, stop))).toBe('closed')
    })
  })

  slotSuite(fixture)
}
