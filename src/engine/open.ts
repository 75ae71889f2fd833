// From a model folder to a device that is ready to step. Used by the engine's thread and by tests;
// whoever opens closes.
import { Control, createDevice, type Device, isDeviceError, StopField } from '../../native/index.js'
import { type Cache, MappedCache } from '../cache/cache.js'
import { type Checkpoint, openCheckpoint } from '../model/checkpoint.js'
import { ModelError } from '../model/error.js'
import { type LayoutWishes, layoutOf, type MemoryPlan, planMemory } from './layout.js'
import { availableBytes } from './memory.js'
import type { Stage } from './step.js'
import { packTensors, type TensorTables } from './tables.js'

export interface OpenModel {
  readonly checkpoint: Checkpoint
  readonly plan: MemoryPlan
  readonly stage: Stage
  /** Words that another thread may write: see Control. */
  readonly control: Int32Array
  close(): void
}

export interface OpenWishes extends LayoutWishes {
  readonly ropeScaling?: { readonly factor: number } | undefined
  /** Words over shared memory, Control.cancel + sequences of them; absent: this thread's own. */
  readonly control?: Int32Array | undefined
}

/** Reads headers, maps weights and reserves memory. Throws ModelError with one sentence. */
export function openModel(folder: string, wishes: OpenWishes = {}): OpenModel {
  const checkpoint = openCheckpoint(folder, { ropeScaling: wishes.ropeScaling })
  const plan = planMemory(checkpoint.config, wishes, availableBytes())
  const control = wishes.control ?? new Int32Array(Control.cancel + plan.sequences)
  const tables = packTensors(checkpoint)
  const device = createDevice()
  openDevice(device, checkpoint, tables, plan, wishes, control)
  const { experts, firstMoeLayer } = checkpoint.config
  const cache: Cache = new MappedCache(experts)
  const stop = new Int32Array(StopField.experts + experts)
  return {
    checkpoint,
    plan,
    control,
    stage: { device, cache, firstMoeLayer, stop },
    close: () => device.close(),
  }
}

function openDevice(
  device: Device,
  checkpoint: Checkpoint,
  tables: TensorTables,
  plan: MemoryPlan,
  wishes: LayoutWishes,
  control: Int32Array,
): void {
  try {
    device.open(layoutOf(checkpoint, tables, plan, wishes, control))
  } catch (error) {
    if (!isDeviceError(error)) throw error
    const tensor = error.tensor >= 0 ? `${tables.nameOf(error.tensor)} ` : ''
    throw new ModelError(`${tensor}${error.message}`)
  }
}
