// What of a model goes where on a planned machine, by the engine's own division of memory. With a GPU whatever
// every token needs goes there first, experts into the rest of its memory and into RAM below; a GPU that is too
// small for the former is left out. Says in one sentence why a model does not fit.
import { type BudgetWishes, divideMemory } from '../engine/budget.js'
import { divideGpuMemory } from '../engine/gpubudget.js'
import type { LayoutWishes, MemoryPlan } from '../engine/layout.js'
import type { ModelConfig } from '../model/config.js'
import { ModelError } from '../model/error.js'
import { ofVram } from './fitted.js'
import type { Geometry } from './geometry.js'
import type { PlannedMachine } from './machine.js'

export interface Fit {
  readonly memory: MemoryPlan
  /** Experts that have a slot, of each kind at most all; those in RAM may be those of the GPU as well. */
  readonly slots: { readonly ram: number; readonly gpu: number }
  readonly slotBytes: number
  /** Whether what every token needs lies in the GPU's memory. */
  readonly isOnGpu: boolean
  /** In RAM, and in the GPU's memory, beside slots. */
  readonly residentBytes: { readonly ram: number; readonly gpu: number }
  /** Experts that are on the drive only. */
  readonly onDrive: number
}

export interface Misfit {
  readonly problem: string
}

export type FitWishes = Pick<
  LayoutWishes,
  'contextTokens' | 'kvType' | 'sequences' | 'kvTokens' | 'stepTokens'
> &
  BudgetWishes

export function fitOf(
  config: ModelConfig,
  geometry: Geometry,
  machine: PlannedMachine,
  wishes: FitWishes,
): Fit | Misfit {
  try {
    return placed(config, geometry, machine, wishes)
  } catch (error) {
    if (error instanceof ModelError) return { problem: error.message }
    throw error
  }
}

function placed(
  config: ModelConfig,
  geometry: Geometry,
  machine: PlannedMachine,
  wishes: FitWishes,
): Fit {
  const { sizes } = geometry
  const onGpu = placedOnGpu(config, geometry, machine, wishes)
  if (onGpu !== null) return onGpu
  const { slotBytes, denseBytes, scaleBytes } = sizes
  const { plan, experts } = divideMemory(
    config,
    sizes,
    wishes,
    machine.ram.value,
    machine.cores.value,
  )
  // Mapped without a budget: all lie in memory.
  const ram = experts.slots === 0 ? sizes.experts : experts.slots
  return {
    memory: plan,
    slots: { ram, gpu: 0 },
    slotBytes,
    isOnGpu: false,
    residentBytes: { ram: denseBytes + scaleBytes + plan.kvBytes, gpu: 0 },
    onDrive: sizes.experts - ram,
  }
}

/** Null: there is no GPU, or it cannot have what every token needs. */
function placedOnGpu(
  config: ModelConfig,
  { sizes, embeddingBytes }: Geometry,
  machine: PlannedMachine,
  wishes: FitWishes,
): Fit | null {
  if (machine.gpu.value === 0) return null
  const free = { ram: machine.ram.value, gpu: ofVram * machine.gpu.value }
  const { slotBytes, denseBytes, scaleBytes } = sizes
  try {
    // What the processor would compute for a small card is not planned: nothing else may move.
    const movable = { embeddingBytes, headBytes: 0, mlpBytes: [] }
    const { plan, experts } = divideGpuMemory(config, { ...sizes, ...movable }, wishes, free)
    const { slots: gpu, slotsBelow: ram, rooms } = experts
    const weights = denseBytes + scaleBytes
    return {
      memory: plan,
      slots: { ram, gpu },
      slotBytes,
      isOnGpu: true,
      residentBytes: {
        ram: weights + rooms * slotBytes,
        gpu: experts.denseBytes + scaleBytes + plan.kvBytes,
      },
      onDrive: Math.max(0, sizes.experts - ram - gpu),
    }
  } catch (error) {
    if (error instanceof ModelError) return null
    throw error
  }
}
