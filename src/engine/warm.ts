// Before anybody has asked for anything: free slots are filled with the experts that earlier runs used
// most, a few at a time, so that a first request finds the drive free at once.
import { Counter, EventField } from '../../native/index.js'
import type { Expert } from '../cache/place.js'
import type { SlotCache } from '../cache/slotcache.js'
import type { Stage } from './step.js'

/** Loads on their way at once. */
const atOnce = 4

export class Warmth {
  readonly #stage: Stage
  readonly #cache: SlotCache
  /** Experts of the model, those first that shall be there first. */
  readonly #hottest: Int32Array
  #next = 0

  constructor(cache: SlotCache, hottest: Int32Array, stage: Stage) {
    this.#stage = stage
    this.#cache = cache
    this.#hottest = hottest
  }

  /** Orders what can be ordered now, between steps. Returns whether there is more to come. */
  turn(): boolean {
    const { device, events, log, counters } = this.#stage
    const arrived = events.subarray(0, device.poll(events, 0) * EventField.count)
    this.#cache.settle(arrived)
    log?.settled(arrived, counters[Counter.steps] ?? 0)
    const first = this.#next
    const room = Math.min(atOnce - this.#cache.guesses, this.#cache.freeSlots)
    let wanted = 0
    for (; this.#next < this.#hottest.length && wanted < room; this.#next += 1) {
      if (!this.#cache.holds((this.#hottest[this.#next] ?? 0) as Expert)) wanted += 1
    }
    device.stage(this.#cache.warm(this.#hottest.subarray(first, this.#next)))
    const isFull = this.#cache.freeSlots === 0 && this.#cache.coldSlots === 0
    return this.#next < this.#hottest.length && !isFull
  }
}
