// What of a model goes where on a planned machine, by the engine's own division of memory. With a GPU whatever
// every token needs goes there first, experts into the rest of its memory; a GPU that is too small for the
// former is left out. Says in one sentence why a model does not fit.
import { type BudgetWishes, divideMemory } from '../engine/budget.js'
import type { LayoutWishes, MemoryPlan } from '../engine/layout.js'
import type { ModelConfig } from '../model/config.js'
import { ModelError } from '../model/error.js'
import { ofVram } from './fitted.js'
import type { Geometry } from './geometry.js'
import type { PlannedMachine } from './machine.js'

export interface Fit {
  readonly memory: MemoryPlan
  /** Experts that have a slot, at most all. */
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
  { sizes, embeddingBytes }: Geometry,
  machine: PlannedMachine,
  wishes: FitWishes,
): Fit {
  const { slotBytes, denseBytes, scaleBytes } = sizes
  const divided = (from: typeof sizes, freeBytes: number) =>
    divideMemory(config, from, wishes, freeBytes, machine.cores.value)
  const onCard = denseBytes - embeddingBytes
  const cardBytes = ofVram * machine.gpu.value
  // A card takes keys and values off the memory; how many there are is decided with the memory.
  const lighter = { ...sizes, denseBytes: embeddingBytes }
  const beside = cardBytes > onCard ? divided(lighter, machine.ram.value) : null
  const leftBytes = cardBytes - onCard - (beside?.plan.kvBytes ?? 0)
  const isOnGpu = beside !== null && leftBytes >= 0
  const { plan, experts } = isOnGpu ? beside : divided(sizes, machine.ram.value)
  const given = isOnGpu && wishes.expertRam === undefined ? plan.kvBytes : 0
  // Mapped without a budget: all lie in memory.
  const wanted = experts.slots === 0 ? sizes.experts : experts.slots
  const ram = Math.min(sizes.experts, wanted + Math.floor(given / slotBytes))
  const gpu = isOnGpu ? Math.min(sizes.experts - ram, Math.floor(leftBytes / slotBytes)) : 0
  return {
    memory: plan,
    slots: { ram, gpu },
    slotBytes,
    isOnGpu,
    residentBytes: {
      ram: scaleBytes + (isOnGpu ? embeddingBytes : denseBytes + plan.kvBytes),
      gpu: isOnGpu ? onCard + plan.kvBytes : 0,
    },
    onDrive: sizes.experts - ram - gpu,
  }
}
