// What every device with slots must do, whatever is behind it: which orders it obeys, what it tells of
// them, and that a step comes to the same end through any number of slots.
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  Counter,
  type Device,
  EventField,
  EventKind,
  type Layout,
  Limit,
  Reason,
  StopField,
  Urgency,
  UseField,
} from '../native/index.js'
import { MappedCache } from '../src/cache/cache.js'
import { newLayerCounts } from '../src/cache/counts.js'
import { LfuPolicy } from '../src/cache/lfu.js'
import { nowhere, placeOf, Tier } from '../src/cache/place.js'
import { SlotCache } from '../src/cache/slotcache.js'
import { type Stage, step } from '../src/engine/step.js'
import { codeOf, type DeviceFixture } from './devicefixture.js'
import { batchOf, outcomeOf } from './models.js'

export function slotSuite(fixture: DeviceFixture): void {
  const { tier = Tier.ram } = fixture
  describe(`slots: ${fixture.name}`, () => {
    let device: Device
    let layout: Layout
    let stop: Int32Array

    beforeEach(() => {
      device = fixture.create()
    })
    afterEach(() => {
      device.close()
    })

    const begin = (count: number) => device.begin(batchOf(fixture.tokens.slice(0, count)))

    function wanted(): Int32Array {
      return stop.slice(StopField.experts, StopField.experts + (stop[StopField.wanted] ?? 0))
    }

    /** Opens with slots and waits until all of their memory has been touched. */
    function openSlots(slots: number): void {
      layout = { ...fixture.layout(true), slots }
      stop = new Int32Array(StopField.experts + layout.shape.experts)
      device.open(layout)
      const touched = eventsUntil(slots)
      expect(touched.map(([kind, expert]) => [kind, expert])).toEqual(
        Array(slots).fill([EventKind.touched, -1]),
      )
      expect(touched.map(([, , to]) => to).sort((a = 0, b = 0) => a - b)).toEqual(
        Array.from({ length: slots }, (_, slot) => placeOf(tier, slot)),
      )
    }

    /** Polls until so many events have been told; [kind, expert, to, code] each. */
    function eventsUntil(count: number): number[][] {
      const events = new Int32Array(8 * EventField.count)
      const told: number[][] = []
      for (let patience = 200; told.length < count && patience > 0; patience -= 1) {
        const taken = device.poll(events, 50)
        for (let at = 0; at < taken; at += 1) {
          told.push([...events.subarray(at * EventField.count, (at + 1) * EventField.count)])
        }
      }
      expect(told).toHaveLength(count)
      return told
    }

    const order = (expert: number, slot: number, urgency: number = Urgency.demand) => [
      expert,
      -1,
      placeOf(tier, slot),
      urgency,
    ]
    const stage = (...orders: number[][]) => device.stage(Int32Array.from(orders.flat()))

    it('loads an expert into a free slot and tells when it has arrived', () => {
      openSlots(4)
      stage(order(7, 2))
      expect(eventsUntil(1)).toEqual([[EventKind.arrived, 7, placeOf(tier, 2), 0]])
    })

    it('refuses orders that no slot can obey, and then obeys none of the batch', () => {
      openSlots(3)
      stage(order(5, 0))
      eventsUntil(1)
      const experts = layout.expertTensors.length
      const refused: number[][] = [
        order(-1, 1),
        order(experts, 1),
        order(6, 3),
        order(6, 1, 3),
        order(6, 1, Urgency.cancel),
        [6, placeOf(tier, 0), placeOf(tier, 1), Urgency.demand],
        [6, -1, placeOf(Tier.map, 1), Urgency.demand],
        order(5, 1),
        [...order(6, 1), ...order(8, 1)],
        [...order(6, 1), ...order(6, 2)],
      ]
      for (const bad of refused) expect(codeOf(() => stage(order(9, 2), bad))).toBe('bad_order')
      stage(order(9, 2), order(6, 1))
      expect(eventsUntil(2).map(([, expert]) => expert)).toContain(9)
    })

    it('forgets at once what lay in a slot that is ordered anew', () => {
      openSlots(2)
      stage(order(5, 0))
      eventsUntil(1)
      stage(order(6, 0), order(5, 1))
      const arrived = eventsUntil(2).map(([kind, expert, to]) => [kind, expert, to])
      expect(arrived).toContainEqual([EventKind.arrived, 6, placeOf(tier, 0)])
      expect(arrived).toContainEqual([EventKind.arrived, 5, placeOf(tier, 1)])
    })

    it('refuses a slot that is loading another expert, raises and cancels what it loads', () => {
      openSlots(2)
      stage(order(5, 0, Urgency.ahead), order(6, 1, Urgency.ahead))
      expect(codeOf(() => stage(order(7, 0)))).toBe('bad_order')
      stage(order(5, 0), order(6, 1, Urgency.cancel))
      const told = eventsUntil(2).map(([kind, expert]) => [kind, expert])
      expect(told).toContainEqual([EventKind.arrived, 5])
      // What is under way when it is cancelled may still arrive.
      expect([EventKind.cancelled, EventKind.arrived]).toContain(
        told.find(([, expert]) => expert === 6)?.[0],
      )
    })

    it('computes placed experts that are still loading when they land', () => {
      openSlots(16)
      const id = begin(1)
      expect(device.advance(id, stop)).toBe(Reason.missing)
      const orders = [...wanted()].map((expert, at) => order(expert, at))
      stage(...orders)
      device.mix(
        id,
        Int32Array.from(orders, ([, , to]) => to ?? nowhere),
      )
      expect(device.advance(id, stop)).toBe(Reason.missing)
      expect(stop[StopField.layer]).toBe(layout.shape.firstMoeLayer + 1)
      expect(eventsUntil(orders.length).map(([kind]) => kind)).toEqual(
        orders.map(() => EventKind.arrived),
      )
    })

    it('refuses a place whose slot holds another expert, or none', () => {
      openSlots(16)
      const id = begin(1)
      device.advance(id, stop)
      const orders = [...wanted()].map((expert, at) => order(expert, at))
      const places = Int32Array.from(orders, ([, , to]) => to ?? nowhere)
      expect(codeOf(() => device.mix(id, places))).toBe('bad_argument')
      stage(...orders)
      expect(codeOf(() => device.mix(id, places.toReversed()))).toBe('bad_argument')
      device.mix(id, places)
    })

    it('tells what layers routed to, once, in the order of time', () => {
      openSlots(16)
      const { experts, topK } = layout.shape
      const uses = new Int32Array(64 * UseField.count)
      device.routed(uses)
      const id = begin(3)
      device.advance(id, stop)
      const count = device.routed(uses)
      const records = [...uses.subarray(0, count * UseField.count)]
      expect(records.filter((_, at) => at % UseField.count === UseField.expert)).toEqual([
        ...wanted(),
      ])
      const tokens = records.filter((_, at) => at % UseField.count === UseField.tokens)
      expect(tokens.reduce((sum, value) => sum + value, 0)).toBe(3 * topK)
      expect(device.routed(uses)).toBe(0)
      expect(experts).toBeGreaterThan(0)
    })

    it.each([
      ['a decode', 1],
      ['a small step', 20],
      ['a sweep', Limit.unordered_tokens + 20],
    ])('runs %s through any number of slots, in waves', (_, tokens) => {
      const whole = nextOf(null, tokens)
      for (const slots of [1, 3, layout.shape.topK, 40]) {
        device.close()
        device = fixture.create()
        expect(nextOf(slots, tokens)).toBe(whole)
      }
    })

    /** The token drawn after so many, with experts mapped or in slots that a cache fills. */
    function nextOf(slots: number | null, tokens: number): number {
      layout = { ...fixture.layout(false), slots: slots ?? 0 }
      // Nothing is mapped for a backend that computes in memory of its own.
      if (slots === null) layout = { ...layout, library: '' }
      stop = new Int32Array(StopField.experts + layout.shape.experts)
      device.open(layout)
      const { shape } = layout
      const moeLayers = shape.layers - shape.firstMoeLayer
      const cacheShape = { moeLayers, experts: shape.experts, topK: shape.topK, slots: slots ?? 1 }
      const outcome = outcomeOf(1)
      const stage: Stage = {
        device,
        cache:
          slots === null
            ? new MappedCache(shape.experts, newLayerCounts(moeLayers))
            : new SlotCache(
                cacheShape,
                new LfuPolicy(cacheShape),
                newLayerCounts(moeLayers),
                null,
                tier,
              ),
        firstMoeLayer: shape.firstMoeLayer,
        stop,
        events: new Int32Array(16 * EventField.count),
        uses: new Int32Array(32 * UseField.count),
        counters: new Float64Array(Counter.count),
      }
      expect(step(stage, batchOf(fixture.tokens.slice(0, tokens)), outcome)).toBe(Reason.done)
      return outcome.next[0] ?? -1
    }
  })
}
