// From a model folder to a device that is ready to step. Used by the engine's thread and by tests;
// whoever opens closes.
import { statSync } from 'node:fs'
import { basename, join } from 'node:path'
import {
  Control,
  createDevice,
  type Device,
  EventField,
  isDeviceError,
  type Layout,
  probe,
  StopField,
  UseField,
} from '../../native/index.js'
import { AdvisedCache } from '../cache/advised.js'
import { type Cache, MappedCache } from '../cache/cache.js'
import { createPolicy, defaultPolicy } from '../cache/policies.js'
import { SlotCache } from '../cache/slotcache.js'
import { type Checkpoint, openCheckpoint } from '../model/checkpoint.js'
import { ModelError } from '../model/error.js'
import {
  type BudgetWishes,
  type ExpertPlan,
  holdsAll,
  loadModeOf,
  planExperts,
  sizesOf,
} from './budget.js'
import {
  automaticKvShare,
  type LayoutParts,
  type LayoutWishes,
  layoutOf,
  type MemoryPlan,
  planMemory,
} from './layout.js'
import { loadManifest } from './manifest.js'
import { availableBytes } from './memory.js'
import { newProfile, profiledModel, readProfile } from './profilefile.js'
import { type EngineCounters, newCounters } from './stats.js'
import type { Stage } from './step.js'
import { packTensors, type TensorTables } from './tables.js'

export interface OpenModel {
  readonly checkpoint: Checkpoint
  readonly plan: MemoryPlan
  readonly experts: ExpertPlan
  readonly stage: Stage
  /** Distances of the look-ahead scores that are kept; null: no scores. */
  readonly ahead: readonly number[] | null
  /** Why checksums that were recorded are not used; null where there is nothing to say. */
  readonly note: string | null
  /** Words that another thread may write: see Control. */
  readonly control: Int32Array
  /** Figures that another thread may read. */
  readonly counters: EngineCounters
  close(): void
}

export interface OpenWishes extends LayoutWishes, BudgetWishes {
  readonly ropeScaling?: { readonly factor: number } | undefined
  /** Which experts stay in slots: the name of a policy. */
  readonly policy?: string | undefined
  /** The file of the profile that the policy `pinned` goes by. */
  readonly profile?: string | undefined
  /** Where a profile shall be written in the end: it is kept from the start, and whoever closes writes it. */
  readonly saveProfile?: string | undefined
  /** Words over shared memory, Control.cancel + sequences of them; absent: this thread's own. */
  readonly control?: Int32Array | undefined
}

/** Share of free memory for KV when experts compete for it. */
const scarceKvShare = 0.1
/** Events and uses taken over at once; more come with the next call. */
const recordsAtOnce = 1024

/** Reads headers, decides the budget, maps or reads weights. Throws ModelError with one sentence. */
export function openModel(folder: string, wishes: OpenWishes = {}): OpenModel {
  const checkpoint = openCheckpoint(folder, { ropeScaling: wishes.ropeScaling })
  const { config } = checkpoint
  const freeBytes = availableBytes()
  const { plan, experts } = planAll(checkpoint, wishes, freeBytes)
  const control = wishes.control ?? new Int32Array(Control.cancel + plan.sequences)
  const counters = newCounters(config.layers - config.firstMoeLayer)
  const manifest =
    experts.loadMode === 'direct' ? loadManifest(checkpoint) : { checksums: null, note: null }
  // Before anything is read: a policy or a file that does not exist is a mistake of the person.
  const cache = cacheOf(checkpoint, experts, wishes, counters)
  const { saveProfile } = wishes
  const profile =
    saveProfile === undefined ? null : newProfile(saveProfile, profiledModel(checkpoint))
  const isAdvised = experts.loadMode === 'mapped' && experts.slots > 0
  const device = createDevice()
  openDevice(device, {
    checkpoint,
    files: filesOf(checkpoint, wishes.reads?.mirrors ?? []),
    tables: packTensors(checkpoint, manifest.checksums ?? undefined),
    plan,
    // Advice is given where the device stops.
    wishes: isAdvised ? { ...wishes, lockstep: true } : wishes,
    slots: experts.loadMode === 'direct' ? experts.slots : 0,
    control,
    counters: counters.device,
    ahead: wishes.scores?.ahead ?? [],
    scores: new Float32Array(0),
  })
  const stage: Stage = {
    device,
    cache,
    profile,
    firstMoeLayer: config.firstMoeLayer,
    stop: new Int32Array(StopField.experts + config.experts),
    events: new Int32Array(recordsAtOnce * EventField.count),
    uses: new Int32Array(Math.max(recordsAtOnce, config.experts) * UseField.count),
    counters: counters.device,
  }
  const ahead = wishes.scores?.ahead ?? null
  return {
    ...{ checkpoint, plan, experts, ahead, control, counters, stage, note: manifest.note },
    close: () => device.close(),
  }
}

function planAll(
  checkpoint: Checkpoint,
  wishes: OpenWishes,
  freeBytes: number,
): { plan: MemoryPlan; experts: ExpertPlan } {
  const { config } = checkpoint
  const sizes = sizesOf(checkpoint)
  const threads = wishes.threads ?? probe().cores
  const isScarce = loadModeOf(wishes, sizes) === 'direct' && !holdsAll(sizes, freeBytes)
  const forKv = isScarce ? freeBytes - sizes.denseBytes - sizes.scaleBytes : freeBytes
  const plan = planMemory(config, wishes, forKv, isScarce ? scarceKvShare : automaticKvShare)
  return { plan, experts: planExperts(config, sizes, wishes, plan, freeBytes, threads) }
}

function cacheOf(
  checkpoint: Checkpoint,
  plan: ExpertPlan,
  wishes: OpenWishes,
  counters: EngineCounters,
): Cache {
  const { experts, layers, firstMoeLayer, topK } = checkpoint.config
  if (plan.slots === 0) return new MappedCache(experts, counters.layers)
  const shape = { moeLayers: layers - firstMoeLayer, experts, topK, slots: plan.slots }
  const name = wishes.policy ?? defaultPolicy
  const isProfiled = name === 'pinned' && wishes.profile !== undefined
  const profile = isProfiled ? readProfile(wishes.profile, profiledModel(checkpoint)) : null
  const policy = createPolicy(name, shape, profile)
  if ('problem' in policy) throw new ModelError(`--policy: ${policy.problem}`)
  return plan.loadMode === 'mapped'
    ? new AdvisedCache(shape, policy, counters.layers)
    : new SlotCache(shape, policy, counters.layers)
}

/** The checkpoint's files with their copies: files of the same name and size in other folders. */
function filesOf(checkpoint: Checkpoint, folders: readonly string[]): Layout['files'] {
  return checkpoint.files.map(({ path, sizeBytes }) => {
    const copies = folders.map((folder) => join(folder, basename(path)))
    const mirrors = copies.filter(
      (copy) => statSync(copy, { throwIfNoEntry: false })?.size === sizeBytes,
    )
    return { path, sizeBytes, mirrors }
  })
}

function openDevice(device: Device, parts: LayoutParts): void {
  try {
    device.open(layoutOf(parts))
  } catch (error) {
    if (!isDeviceError(error)) throw error
    throw new ModelError(`${tensorOf(error.tensor, parts.tables)}${error.message}`)
  }
}

function tensorOf(row: number, tables: TensorTables): string {
  return row >= 0 ? `${tables.nameOf(row)} ` : ''
}
