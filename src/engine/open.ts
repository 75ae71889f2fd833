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
  StopField,
  UseField,
} from '../../native/index.js'
import { AdvisedCache } from '../cache/advised.js'
import type { TierParts } from '../cache/below.js'
import { type Cache, MappedCache } from '../cache/cache.js'
import { recall } from '../cache/learnt.js'
import { Tier } from '../cache/place.js'
import { createPolicy, defaultPolicy } from '../cache/policies.js'
import type { Profile } from '../cache/profile.js'
import { Sharing } from '../cache/sharing.js'
import { SlotCache } from '../cache/slotcache.js'
import { type Checkpoint, openCheckpoint } from '../model/checkpoint.js'
import { ModelError } from '../model/error.js'
import type { ForecastMemory, Foresight } from '../prefetch/forecast.js'
import type { PrefetchMode } from '../prefetch/governor.js'
import { Prefetch } from '../prefetch/prefetch.js'
import { ExpertLog } from './activity.js'
import { aheadDistances, forecastShape, LookAhead, newForecast } from './ahead.js'
import type { BackendName } from './backend.js'
import type { ExpertPlan } from './budget.js'
import { type DivisionWishes, divide } from './division.js'
import { identityOf, originOf } from './kvidentity.js'
import { checkKvDir, type KvDiskWishes, KvStore } from './kvstore.js'
import {
  kvBytesPerToken,
  type LayoutParts,
  type LayoutWishes,
  layoutOf,
  type MemoryPlan,
} from './layout.js'
import { loadManifest } from './manifest.js'
import { openProfile, type ProfileWishes } from './profilefile.js'
import { SharedWork } from './sharedwork.js'
import { type EngineCounters, newCounters } from './stats.js'
import type { Stage } from './step.js'
import { packTensors, type TensorTables } from './tables.js'
import { Warmth } from './warm.js'

export interface OpenModel {
  readonly checkpoint: Checkpoint
  readonly backend: BackendName
  readonly plan: MemoryPlan
  readonly experts: ExpertPlan
  readonly stage: Stage
  /** Which router scores are kept; null: none. */
  readonly kept: NonNullable<LayoutWishes['scores']> | null
  /** Fills free slots while nobody asks for anything; null: nothing is known to fill them with. */
  readonly warmth: Warmth | null
  /** What a thread that learns to foresee needs; null: nothing is foreseen. */
  readonly forecast: ForecastMemory | null
  /** Why checksums that were recorded are not used; null where there is nothing to say. */
  readonly note: string | null
  /** Whether requests take what earlier ones have computed of their prompts. */
  readonly reusesPrefixes: boolean
  /** Whether sequences take KV blocks as they grow. */
  readonly kvByNeed: boolean
  /** KV on a drive; null: none is kept there. */
  readonly kvStore: KvStore | null
  /** Words that another thread may write: see Control. */
  readonly control: Int32Array
  /** Figures that another thread may read. */
  readonly counters: EngineCounters
  close(): void
}

export interface OpenWishes extends DivisionWishes, ProfileWishes, KvDiskWishes {
  readonly ropeScaling?: { readonly factor: number } | undefined
  /** Which experts stay in slots: the name of a policy. */
  readonly policy?: string | undefined
  /**
   * auto: of experts that lie in RAM, and not on the GPU that computes, some are computed by the processor
   * where they lie. What comes out then depends on what lies where. Absent: none are.
   */
  readonly cpuExperts?: 'auto' | 'off' | undefined
  /** Whether experts are read before their layers have routed; absent: auto. */
  readonly prefetch?: PrefetchMode | undefined
  /** Tokens after which the forecast learns within the step; absent: another thread does, or nobody. */
  readonly forecastEvery?: number | undefined
  /** Whether requests take what earlier ones have computed of their prompts; absent: they do. */
  readonly reusesPrefixes?: boolean | undefined
  /**
   * Whether sequences take KV blocks as they grow, and the newest waits where none is left; absent: each
   * has all that it may need from its start.
   */
  readonly kvByNeed?: boolean | undefined
  /** Words over shared memory, Control.cancel + a word for each request; absent: this thread's own. */
  readonly control?: Int32Array | undefined
  /** A shared word that is changed and notified when something has arrived; absent: nobody sleeps. */
  readonly wake?: Int32Array | undefined
  /** Hears what a person should know while the model is open. */
  readonly log?: ((line: string) => void) | undefined
}

/** Where a GPU has no memory for all slots, it is asked for so many of them, down to so many of the first. */
const fewerSlots = 0.9
const leastSlots = 0.5
/** Events and uses taken over at once; more come with the next call. */
const recordsAtOnce = 1024

/**
 * Reads headers, decides the budget, maps or reads weights. Throws ModelError with one sentence.
 * `foresight` stands in for what is learned, in experiments.
 */
export function openModel(
  folder: string,
  wishes: OpenWishes = {},
  foresight: Foresight | null = null,
): OpenModel {
  const checkpoint = openCheckpoint(folder, { ropeScaling: wishes.ropeScaling })
  const { config } = checkpoint
  const { gpu, plan, experts: planned, note: divisionNote } = divide(checkpoint, wishes)
  const { prefetch = 'auto' } = wishes
  const control = wishes.control ?? new Int32Array(Control.cancel + plan.sequences)
  const counters = newCounters(
    config.layers - config.firstMoeLayer,
    planned.experts,
    control.length - Control.cancel,
  )
  const manifest =
    planned.loadMode === 'direct' ? loadManifest(checkpoint) : { checksums: null, note: null }
  const scores = new Float32Array((config.layers - config.firstMoeLayer) * config.experts)
  // Before anything is read: a policy or a file that does not exist is a mistake of the person.
  const profile = openProfile(checkpoint, wishes, planned.slots > 0)
  checkKvDir(wishes)
  const sharing =
    wishes.cpuExperts === 'auto' && planned.slotsBelow > 0 ? new Sharing(config.experts) : null
  const cacheFor = (experts: ExpertPlan) =>
    cacheOf(checkpoint, experts, wishes, { counters, scores, known: profile.known, sharing })
  const firstCache = cacheFor(planned)
  const isAdvised = planned.loadMode === 'mapped' && planned.slots > 0
  const recorded = wishes.scores?.ahead ?? null
  const isReading = firstCache instanceof SlotCache && planned.slots < planned.experts
  const mode = isReading ? prefetch : 'off'
  const ahead = recorded ?? (mode === 'off' ? [] : aheadDistances)
  const distances = ahead.filter((distance) => distance < config.layers)
  const device = createDevice()
  const slots = openDevice(device, {
    checkpoint,
    files: filesOf(checkpoint, wishes.reads?.mirrors ?? []),
    tables: packTensors(checkpoint, manifest.checksums ?? undefined),
    plan,
    // Advice is given where the device stops.
    wishes: isAdvised ? { ...wishes, lockstep: true } : wishes,
    slots: planned.loadMode === 'direct' ? planned.slots : 0,
    library: gpu?.library ?? '',
    rooms: planned.rooms,
    slotsBelow: planned.slotsBelow,
    inRam: planned.inRam,
    control,
    counters: counters.device,
    ahead: distances,
    scores,
  })
  const isShort = planned.loadMode === 'direct' && slots < planned.slots
  const experts = isShort ? { ...planned, slots } : planned
  const cache = isShort ? cacheFor(experts) : firstCache
  const shortNote = isShort
    ? `the GPU has less memory left than it said: ${slots} experts have a slot, not ${planned.slots}`
    : null
  const sharingNote =
    wishes.cpuExperts !== 'auto'
      ? null
      : sharing === null
        ? '--cpu-experts has no effect: no experts lie in memory below those of a GPU'
        : 'some experts are computed by the processor: answers are not reproducible'
  const shape = forecastShape(config, distances)
  const forecast =
    mode === 'off' || foresight !== null
      ? null
      : newForecast(shape, device, wishes.forecastEvery ?? 0)
  const guide = foresight ?? forecast
  const { known, kept } = profile
  const evicting = (cache instanceof SlotCache ? cache.policy.learnt : null) ?? {}
  if (known !== null) {
    forecast?.goOn(known.learnt)
    recall(evicting, known.learnt)
  }
  if (kept !== null) kept.learnt = { ...forecast?.learnt, ...evicting }
  const events = new Int32Array(recordsAtOnce * EventField.count)
  const stage: Stage = {
    device,
    cache,
    ahead:
      mode !== 'off' && guide !== null && cache instanceof SlotCache
        ? new LookAhead(
            device,
            cache,
            new Prefetch(shape, guide, cache, mode, experts.expertReadBytes),
            counters,
            forecast,
          )
        : null,
    shared:
      sharing === null ? null : new SharedWork(sharing, counters.device, experts.expertReadBytes),
    profile: kept,
    log: new ExpertLog(counters.activity, experts),
    firstMoeLayer: config.firstMoeLayer,
    stop: new Int32Array(StopField.experts + config.experts),
    events,
    uses: new Int32Array(Math.max(recordsAtOnce, config.experts) * UseField.count),
    counters: counters.device,
  }
  const kvStore =
    wishes.kvDir === undefined
      ? null
      : new KvStore(wishes.kvDir, wishes, {
          device,
          identity: identityOf(originOf(checkpoint, plan.kvType, computesOf(device, sharing))),
          bytesPerToken: kvBytesPerToken(config, plan.kvType),
          wake: wishes.wake ?? new Int32Array(new SharedArrayBuffer(4)),
          figures: counters.kv,
          log: wishes.log ?? (() => {}),
        })
  const notes = [divisionNote, shortNote, sharingNote, manifest.note, profile.note].filter(
    (note) => note !== null,
  )
  return {
    ...{ checkpoint, plan, experts, control, counters, stage },
    backend: gpu === null ? 'cpu' : 'cuda',
    warmth:
      cache instanceof SlotCache && known !== null
        ? new Warmth(cache, known.hottest(), stage)
        : null,
    kept: wishes.scores ?? null,
    reusesPrefixes: wishes.reusesPrefixes ?? true,
    kvByNeed: wishes.kvByNeed ?? false,
    kvStore,
    forecast: forecast?.memory ?? null,
    note: notes.length > 0 ? notes.join('; ') : null,
    close: () => {
      kvStore?.close()
      device.close()
    },
  }
}

/** All that bits depend on; where experts are shared, nobody knows whose they are. */
function computesOf(device: Device, sharing: Sharing | null): string {
  return `${device.identify()}${sharing === null ? '' : ', shared'}`
}

interface CacheParts {
  readonly counters: EngineCounters
  readonly scores: Float32Array
  readonly known: Profile | null
  readonly sharing: Sharing | null
}

function cacheOf(
  checkpoint: Checkpoint,
  plan: ExpertPlan,
  wishes: OpenWishes,
  { counters, scores, known, sharing }: CacheParts,
): Cache {
  const { experts, layers, firstMoeLayer, topK } = checkpoint.config
  if (plan.slots === 0) return new MappedCache(experts, counters.layers)
  const shape = { moeLayers: layers - firstMoeLayer, experts, topK, slots: plan.slots }
  const tierOf = (slots: number): TierParts => {
    const of = { ...shape, slots }
    const policy = createPolicy(wishes.policy ?? defaultPolicy, of, known)
    if ('problem' in policy) throw new ModelError(`--policy: ${policy.problem}`)
    return { shape: of, policy }
  }
  const { policy } = tierOf(plan.slots)
  if (plan.loadMode === 'mapped') return new AdvisedCache(shape, policy, counters.layers)
  const below = plan.slotsBelow === 0 ? null : tierOf(plan.slotsBelow)
  return new SlotCache(shape, policy, counters.layers, scores, Tier[plan.tier], below, sharing)
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

/**
 * Opens it with as many slots as it gets memory for, and returns how many: of a GPU, others may have taken
 * some since it was asked.
 */
function openDevice(device: Device, parts: LayoutParts): number {
  const { topK } = parts.checkpoint.config
  for (let slots = parts.slots; ; slots = Math.floor(fewerSlots * slots)) {
    try {
      device.open(layoutOf({ ...parts, slots }))
      return slots
    } catch (error) {
      if (!isDeviceError(error)) throw error
      const mayShrink =
        parts.library !== '' &&
        error.code === 'out_of_memory' &&
        fewerSlots * slots >= Math.max(topK, leastSlots * parts.slots)
      if (!mayShrink) {
        throw new ModelError(`${tensorOf(error.tensor, parts.tables)}${error.message}`)
      }
    }
  }
}

function tensorOf(row: number, tables: TensorTables): string {
  return row >= 0 ? `${tables.nameOf(row)} ` : ''
}
