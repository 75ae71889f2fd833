// Makes snapshots (telemetry.ts) of an open engine from the shared memory that its thread and the device
// write. It runs on whatever thread wants to know, reads numbers and asks nobody; two numbers of one
// snapshot may be a moment apart.
import { Counter } from '../../native/index.js'
import { recallWidths } from '../prefetch/recall.js'
import { type Activity, SequenceField, sequenceStates, Total } from './activity.js'
import type { EngineFacts } from './protocol.js'
import {
  type EngineCounters,
  figureDistances,
  KvFigure,
  PrefetchFigure,
  readUsage,
  verdicts,
} from './stats.js'
import {
  ageMost,
  type EngineFigures,
  type ExpertMap,
  type LinkFigures,
  type PrefetchFigures,
  type RecallFigures,
  type RequestFigures,
  type RequestRow,
  type Snapshot,
  usesScale,
} from './telemetry.js'

/** What the engine's thread does not know of its surroundings. */
export interface Surroundings {
  readonly model: string
  /** Requests that wait before they reach the engine. */
  readonly waiting: number
  readonly restarts?: number | undefined
  /** Of the drive, bytes per second; absent: it was not measured. */
  readonly ceiling?: number | undefined
}

/** `facts` null: the engine is not open. `hasMap`: with the map of experts, which is long. */
export function snapshotOf(
  facts: EngineFacts | null,
  surroundings: Surroundings,
  hasMap: boolean,
): Snapshot {
  const { model, waiting, restarts, ceiling } = surroundings
  const begin = {
    version: 1 as const,
    time: (performance.timeOrigin + performance.now()) / 1000,
    model,
    ...(restarts === undefined ? {} : { restarts }),
  }
  if (facts === null) {
    const requests = { running: 0, waiting, begun: 0, ended: 0, failed: 0, rows: [] }
    return { ...begin, state: 'loading', requests }
  }
  return {
    ...begin,
    state: 'ready',
    requests: requestFigures(facts.counters.activity, waiting),
    engine: engineFigures(facts, ceiling),
    ...(hasMap ? { map: mapOf(facts.counters) } : {}),
  }
}

function engineFigures(facts: EngineFacts, ceiling: number | undefined): EngineFigures {
  const { counters, config, plan, experts, device } = facts
  const { activity, layers } = counters
  const usage = readUsage(counters)
  const isDirect = experts.loadMode === 'direct'
  const prefetch = prefetchFigures(facts)
  const isTold = isDirect || usage.requests > 0
  const resident = isTold ? { resident: countOf(activity.isResident) } : {}
  return {
    device,
    loadMode: experts.loadMode,
    contextTokens: plan.contextTokens,
    steps: counters.device[Counter.steps] ?? 0,
    tokensRead: activity.totals[Total.read] ?? 0,
    tokensDrawn: activity.totals[Total.drawn] ?? 0,
    experts: {
      moeLayers: layers.requests.length,
      firstMoeLayer: config.firstMoeLayer,
      perLayer: config.experts,
      topK: config.topK,
      ...(isDirect ? { slots: experts.slots } : {}),
      ...(experts.slotsBelow > 0 ? { slotsBelow: experts.slotsBelow } : {}),
      ...(experts.tier === 'gpu' ? { isOnGpu: true } : {}),
      ...resident,
      readBytes: experts.expertReadBytes,
    },
    layers: {
      requests: [...layers.requests],
      hits: [...layers.hits],
      ...(experts.slotsBelow > 0 ? { hitsBelow: [...layers.hitsBelow] } : {}),
      misses: [...layers.misses],
      evictions: [...layers.evictions],
    },
    links: {
      ...(isDirect ? { drive: driveFigures(facts, ceiling) } : {}),
      ...(experts.tier === 'gpu' ? { pcie: copyFigures(facts) } : {}),
    },
    stall: {
      ...(isDirect ? { nvme: usage.stallSeconds } : {}),
      ...(experts.tier === 'gpu' ? { copy: usage.copyStallSeconds } : {}),
      compute: usage.computeSeconds,
      policy: usage.policySeconds,
    },
    memory: memoryFigures(facts),
    ...(prefetch === null ? {} : { prefetch }),
  }
}

function driveFigures(
  { counters, experts }: EngineFacts,
  ceiling: number | undefined,
): LinkFigures {
  const { bytesRead, misses, driveBusySeconds } = readUsage(counters)
  return {
    bytesRead,
    bytesNeeded: misses * experts.expertReadBytes,
    busySeconds: driveBusySeconds,
    depthSeconds: counters.device[Counter.drive_depth_s] ?? 0,
    ...(ceiling === undefined ? {} : { ceilingBytesPerSecond: ceiling }),
  }
}

/** Of copies to the GPU, one after the other. */
function copyFigures({ counters, experts }: EngineFacts): LinkFigures {
  const { misses, hitsBelow } = readUsage(counters)
  const busySeconds = counters.device[Counter.copy_busy_s] ?? 0
  return {
    bytesRead: counters.device[Counter.bytes_copied] ?? 0,
    bytesNeeded: (misses + hitsBelow) * experts.expertReadBytes,
    busySeconds,
    depthSeconds: busySeconds,
  }
}

function memoryFigures({ counters, experts, plan }: EngineFacts): EngineFigures['memory'] {
  const { slots, slotsBelow, slotBytes, denseBytes, scaleBytes, scratchBytes, loadMode } = experts
  const used = (counters.kv[KvFigure.used] ?? 0) / plan.kvBlocks
  const kv = { name: 'KV', budgetBytes: plan.kvBytes, usedBytes: used * plan.kvBytes }
  if (loadMode === 'mapped') return [kv]
  const below = {
    name: 'experts in RAM',
    budgetBytes: slotsBelow * slotBytes,
    usedBytes: countOf(counters.activity.isBelow) * slotBytes,
  }
  return [
    {
      name: 'experts',
      budgetBytes: slots * slotBytes,
      usedBytes: countOf(counters.activity.isResident) * slotBytes,
    },
    ...(slotsBelow > 0 ? [below] : []),
    { name: 'dense', budgetBytes: denseBytes, usedBytes: denseBytes },
    { name: 'scales', budgetBytes: scaleBytes, usedBytes: scaleBytes },
    kv,
    { name: 'scratch', budgetBytes: scratchBytes },
  ]
}

function prefetchFigures({ counters, experts }: EngineFacts): PrefetchFigures | null {
  const figures = counters.prefetch
  const verdict = verdicts[figures[PrefetchFigure.verdict] ?? 0]
  if (verdict === undefined || verdict === 'none') return null
  const usage = readUsage(counters)
  return {
    verdict,
    issued: usage.ahead,
    inTime: usage.aheadHits,
    used: usage.ahead - usage.aheadWasted,
    cancelled: usage.aheadWasted - usage.aheadUnused,
    bytes: usage.bytesAhead,
    wastedBytes: usage.bytesCancelled + usage.aheadUnused * experts.expertReadBytes,
    recall: figureDistances.map((distance, row) => recallFigures(figures, distance, row)),
    ...known('speed', figures[PrefetchFigure.speed]),
    ...known('speedError', figures[PrefetchFigure.speedError]),
    ...known('pairs', figures[PrefetchFigure.pairs]),
    ...known('price', figures[PrefetchFigure.price]),
  }
}

function recallFigures(figures: Float64Array, distance: number, row: number): RecallFigures {
  const first = PrefetchFigure.recall + row * recallWidths.length
  return {
    distance,
    ...known('x1', figures[first]),
    ...known('x2', figures[first + 1]),
    ...known('x4', figures[first + 2]),
    ...known('calibrationError', figures[PrefetchFigure.calibration + row]),
  }
}

function requestFigures(activity: Activity, waiting: number): RequestFigures {
  const { sequences, totals } = activity
  const rows: RequestRow[] = []
  let inEngine = 0
  for (let slot = 0; slot * SequenceField.count < sequences.length; slot += 1) {
    const row = rowOf(sequences, slot)
    if (row === null) continue
    rows.push(row)
    if (row.state === 'waiting') inEngine += 1
  }
  const begun = totals[Total.begun] ?? 0
  const ended = totals[Total.ended] ?? 0
  return {
    running: begun - ended - inEngine,
    waiting: waiting + inEngine,
    begun,
    ended,
    failed: totals[Total.failed] ?? 0,
    rows: rows.sort((a, b) => a.number - b.number),
  }
}

function rowOf(sequences: Float64Array, slot: number): RequestRow | null {
  const of = (field: number) => sequences[slot * SequenceField.count + field] ?? 0
  const state = sequenceStates[of(SequenceField.state)] ?? 'none'
  if (state === 'none') return null
  return {
    slot,
    number: of(SequenceField.number),
    state,
    promptTokens: of(SequenceField.promptTokens),
    tokensRead: of(SequenceField.read),
    tokensDrawn: of(SequenceField.drawn),
    tokensDrawnMost: of(SequenceField.drawnMost),
    ...known('tokensCached', of(SequenceField.cached)),
    arrived: of(SequenceField.arrivedMs) / 1000,
    ...known('firstToken', of(SequenceField.firstMs) / 1000),
    ...known('lastToken', of(SequenceField.lastMs) / 1000),
  }
}

function mapOf({ activity, device }: EngineCounters): ExpertMap {
  const { isResident, usedAt, loadedAt, leftAt, uses } = activity
  const steps = device[Counter.steps] ?? 0
  const ages = (at: Uint32Array) => packed(at, (when) => (when === 0 ? ageMost : steps + 1 - when))
  return {
    resident: packed(isResident, (flag) => flag),
    used: ages(usedAt),
    loaded: ages(loadedAt),
    left: ages(leftAt),
    uses: packed(uses, (count) => Math.round(usesScale * Math.log2(1 + count))),
  }
}

function packed(values: Uint8Array | Uint32Array, byteOf: (value: number) => number): string {
  const bytes = new Uint8Array(values.length)
  for (let at = 0; at < values.length; at += 1) {
    bytes[at] = Math.max(0, Math.min(ageMost, byteOf(values[at] ?? 0)))
  }
  return Buffer.from(bytes.buffer).toString('base64')
}

function countOf(flags: Uint8Array): number {
  let count = 0
  for (const flag of flags) count += flag
  return count
}

/** A figure under its name; nothing where it is not known. */
function known<Name extends string>(
  name: Name,
  value: number | undefined,
): { readonly [key in Name]?: number } {
  const of: { [key in Name]?: number } = {}
  if (value !== undefined && Number.isFinite(value)) of[name] = value
  return of
}
