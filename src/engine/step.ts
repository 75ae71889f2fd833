// One step: a batch of tokens through every layer, then sampling. Read this file first. The device
// runs layers by itself as long as every routed expert is resident, and comes back only where a
// decision is wanted. Nothing here waits for a promise: while a step runs, the engine's thread
// belongs to it, and a cancel reaches the device through shared memory.
import { type Batch, type Device, type Outcome, Reason, StopField } from '../../native/index.js'
import type { Cache } from '../cache/cache.js'

/** What a step needs besides its batch, created once. */
export interface Stage {
  readonly device: Device
  readonly cache: Cache
  readonly firstMoeLayer: number
  /** [StopField.experts + experts], filled by the device at every stop. */
  readonly stop: Int32Array
}

/**
 * Runs a batch to its end and fills `outcome`. Returns Reason.done, or why there are no results:
 * cancelled, failed (outcome.message says why), or lost.
 */
export function step(stage: Stage, batch: Batch, outcome: Outcome): Reason {
  const { device, cache, stop } = stage
  const id = device.begin(batch)
  for (
    let reason = device.advance(id, stop);
    reason < Reason.done;
    reason = device.advance(id, stop)
  ) {
    if (reason === Reason.missing) {
      const moeLayer = (stop[StopField.layer] ?? 0) - stage.firstMoeLayer
      const plan = cache.place(moeLayer, wantedOf(stop))
      device.stage(plan.orders)
      device.mix(id, plan.places)
    }
  }
  return device.sample(id, outcome)
}

/** The experts that the stopped layer still wants, indices within the layer, rising. */
function wantedOf(stop: Int32Array): Int32Array {
  return stop.subarray(StopField.experts, StopField.experts + (stop[StopField.wanted] ?? 0))
}
