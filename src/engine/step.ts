// One step: a batch of tokens through every layer, then sampling. Read this file first. The device
// runs layers by itself as long as every routed expert is resident, and comes back only where a
// decision is wanted. Nothing here waits for a promise: while a step runs, the engine's thread
// belongs to it, and a cancel reaches the device through shared memory.
import {
  type Batch,
  Counter,
  type Device,
  EventField,
  type Outcome,
  PartField,
  Reason,
  StopField,
  UseField,
} from '../../native/index.js'
import type { Cache } from '../cache/cache.js'
import { nowhere } from '../cache/place.js'
import type { Profile } from '../cache/profile.js'
import type { ExpertLog } from './activity.js'
import type { LookAhead } from './ahead.js'
import type { SharedWork } from './sharedwork.js'
import { countPolicy } from './stats.js'

/** What a step needs besides its batch, created once. */
export interface Stage {
  readonly device: Device
  readonly cache: Cache
  /** Reads experts before their layers have routed to them; null or absent: nobody does. */
  readonly ahead?: LookAhead | null
  /** How experts are shared between a GPU and the processor; null or absent: they are not. */
  readonly shared?: SharedWork | null
  /** Where it is kept which experts are used; null or absent: nowhere. */
  readonly profile?: Profile | null
  /** Where it is written down which experts lie in memory; null or absent: nowhere. */
  readonly log?: ExpertLog | null
  readonly firstMoeLayer: number
  /** [StopField.experts + experts], filled by the device at every stop. */
  readonly stop: Int32Array
  /** Room for what the device tells: [n][EventField.count] and [n][UseField.count]. */
  readonly events: Int32Array
  readonly uses: Int32Array
  /** [Counter.count], the device's own figures and the time of decisions. */
  readonly counters: Float64Array
}

/** A batch of which something may come while it is computed. */
export interface LateBatch extends Batch {
  /** Asked when all layers are computed: masks in place of those of the beginning; null: the same. */
  lateMasks?(): Uint32Array | null
}

/** While no slot can be had, the device is asked again at least this often, so that a cancel counts. */
const waitMs = 20

/**
 * Runs a batch to its end and fills `outcome`. Returns Reason.done, or why there are no results:
 * cancelled, failed (outcome.message says why), or lost.
 */
export function step(stage: Stage, batch: LateBatch, outcome: Outcome): Reason {
  const { device, ahead, shared, stop } = stage
  const tokens = tokensOf(batch)
  shared?.begin(tokens)
  ahead?.begin(batch, tokens)
  const id = device.begin(batch)
  ahead?.first()
  let reason = device.advance(id, stop)
  for (; reason < Reason.done; reason = device.advance(id, stop)) {
    const moeLayer = (stop[StopField.layer] ?? 0) - stage.firstMoeLayer
    const wanted = wantedOf(stop)
    if (reason === Reason.missing) {
      const places = load(stage, moeLayer, wanted, tokens)
      ahead?.ordered(id, moeLayer, wanted)
      // At the start no slot may have been touched yet.
      if (places.every((place) => place === nowhere)) learn(stage, waitMs)
      else device.mix(id, places)
    } else {
      learn(stage, 0)
      // Behind what this layer waits for.
      ahead?.at(id, moeLayer, wanted, stop[StopField.awaited] ?? 0)
    }
  }
  if (reason !== Reason.lost) learn(stage, 0)
  ahead?.end()
  shared?.end()
  const masks = reason === Reason.done ? batch.lateMasks?.() : null
  return device.sample(id, outcome, masks ?? undefined)
}

/**
 * Orders what a layer misses; returns where its experts lie or will lie. The drive waits for this, so
 * whatever else wants to know what the layer routed to is told when the orders are out.
 */
function load(stage: Stage, moeLayer: number, wanted: Int32Array, tokens: number): Int32Array {
  const untold = hear(stage, 0)
  const begin = performance.now()
  stage.shared?.tell()
  const plan = stage.cache.place(moeLayer, wanted, tokens)
  countPolicy(stage.counters, begin)
  stage.device.stage(plan.orders)
  tell(stage, untold)
  return plan.places
}

/** Tells the cache and all others what has arrived, and what layers wanted, in this order. */
function learn(stage: Stage, patienceMs: number): void {
  tell(stage, hear(stage, patienceMs))
}

/** Tells the cache. Returns the latest of what layers wanted, which the others have yet to be told. */
function hear(stage: Stage, patienceMs: number): Int32Array {
  const { device, cache, log, stop, events, uses, counters } = stage
  for (let wait = patienceMs; ; wait = 0) {
    const count = device.poll(events, wait)
    const arrived = events.subarray(0, count * EventField.count)
    if (count > 0) cache.settle(arrived)
    log?.settled(arrived, counters[Counter.steps] ?? 0)
    if (count * EventField.count < events.length) break
  }
  const layerLength = (stop.length - StopField.experts) * UseField.count
  for (;;) {
    const records = uses.subarray(0, device.routed(uses) * UseField.count)
    if (records.length > 0) {
      const begin = performance.now()
      cache.used(records)
      countPolicy(counters, begin)
    }
    // Where another layer would have had room, there is none.
    if (records.length + layerLength <= uses.length) return records
    tell(stage, records)
  }
}

/** Tells whoever is not the cache what layers wanted. */
function tell({ ahead, profile, log, counters }: Stage, records: Int32Array): void {
  if (records.length === 0) return
  const begin = performance.now()
  ahead?.prefetch.used(records)
  profile?.add(records)
  log?.used(records, counters[Counter.steps] ?? 0)
  countPolicy(counters, begin)
}

/** The experts that the stopped layer still wants, indices within the layer, rising. */
function wantedOf(stop: Int32Array): Int32Array {
  return stop.subarray(StopField.experts, StopField.experts + (stop[StopField.wanted] ?? 0))
}

function tokensOf(batch: Batch): number {
  let tokens = 0
  for (let part = 0; part < batch.parts; part += 1)
    tokens += batch.part[part * PartField.count + PartField.tokens] ?? 0
  return tokens
}
