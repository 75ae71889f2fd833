// What computes and what lies in which memory, when a model is opened: the choice between processor and GPU,
// and the budget of whichever it is. A GPU that nobody asked for is left alone where the model does not fit it.
import { probe } from '../../native/index.js'
import type { Checkpoint } from '../model/checkpoint.js'
import { ModelError } from '../model/error.js'
import { type BackendWish, chooseBackend, type GpuBackend } from './backend.js'
import { type BudgetWishes, divideMemory, type ExpertPlan, sizesOf } from './budget.js'
import { divideGpuMemory } from './gpubudget.js'
import { movableOf } from './inram.js'
import type { LayoutWishes, MemoryPlan } from './layout.js'
import { availableBytes } from './memory.js'

export interface DivisionWishes extends LayoutWishes, BudgetWishes {
  /** What computes; absent: the processor. */
  readonly backend?: BackendWish | undefined
}

export interface Division {
  /** Null: the processor computes. */
  readonly gpu: GpuBackend | null
  readonly plan: MemoryPlan
  readonly experts: ExpertPlan
  /** What a person should know of it, one line; null: nothing. */
  readonly note: string | null
}

/** Throws ModelError when the wishes cannot be met. */
export function divide(checkpoint: Checkpoint, wishes: DivisionWishes): Division {
  const { backend = 'cpu', expertVram } = wishes
  const { gpu, note } = chooseBackend(backend)
  if (gpu === null) return onProcessor(checkpoint, wishes, note)
  try {
    const free = { ram: availableBytes(), gpu: gpu.probe.freeBytes }
    const sizes = { ...sizesOf(checkpoint), ...movableOf(checkpoint) }
    const divided = divideGpuMemory(checkpoint.config, sizes, wishes, free)
    return { gpu, ...divided, note: null }
  } catch (error) {
    const isAskedFor = backend === 'cuda' || expertVram !== undefined
    if (!(error instanceof ModelError) || isAskedFor) throw error
    return onProcessor(checkpoint, wishes, `the GPU is not used: ${error.message}`)
  }
}

function onProcessor(
  checkpoint: Checkpoint,
  wishes: DivisionWishes,
  note: string | null,
): Division {
  const threads = wishes.threads ?? probe().cores
  const sizes = sizesOf(checkpoint)
  const divided = divideMemory(checkpoint.config, sizes, wishes, availableBytes(), threads)
  const isIdle = wishes.backend === 'auto' && wishes.expertVram !== undefined
  const idle = isIdle ? 'no GPU computes: --expert-vram has no effect' : null
  const notes = [note, idle].filter((one) => one !== null)
  return { gpu: null, ...divided, note: notes.length > 0 ? notes.join('; ') : null }
}
