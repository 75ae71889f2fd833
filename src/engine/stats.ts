// The figures of the engine: one set of counters in shared memory, written by the engine's thread and
// by the device, read by everything that shows or prints figures; and what a request cost, taken as
// the difference of two readings. Times are seconds.
import { Counter } from '../../native/index.js'
import { type LayerCounts, newLayerCounts } from '../cache/counts.js'
import { type Activity, newActivity } from './activity.js'

/** Everything that is counted while an engine is open. */
export interface EngineCounters {
  /** [Counter.count] */
  readonly device: Float64Array
  readonly layers: LayerCounts
  /** [PrefetchFigure.count], written after every step that could look ahead; NaN: not known. */
  readonly prefetch: Float64Array
  /** Where experts lie and how far requests are, as the engine's thread writes it. */
  readonly activity: Activity
  /** [KvFigure.count], in memory as of the last step, on the drive as of the last change. */
  readonly kv: Float64Array
  /** [FillFigure.count], since open. */
  readonly fill: Float64Array
  /** [WidthFigure.count], zeros where it is not tried. */
  readonly width: Float64Array
}

/** What look-ahead thinks of itself. */
export const PrefetchFigure = {
  /** Index in `verdicts`. */
  verdict: 0,
  /** Speed with look-ahead relative to without, its standard error, and pairs of windows measured. */
  speed: 1,
  speedError: 2,
  pairs: 3,
  /** Of a byte that is read for nothing, beside one that is saved. */
  price: 4,
  /** Bytes that the drive could read in each layer while nobody waits for it. */
  idleBytesPerLayer: 5,
  /** [distance][width] share of what layers used that was foreseen, and [distance] calibration error. */
  recall: 6,
  calibration: 15,
  count: 18,
} as const

/** KV blocks in memory and on the drive. */
export const KvFigure = {
  /** Blocks that there are, that sequences in work have, and others that remember tokens. */
  blocks: 0,
  used: 1,
  remembering: 2,
  /** Since open: tokens of prompts that were known, of those that could have been. */
  hitTokens: 3,
  queryTokens: 4,
  /** On the drive. */
  diskBlocks: 5,
  diskBytes: 6,
  bytesRead: 7,
  bytesWritten: 8,
  damaged: 9,
  count: 10,
} as const

/** How full steps are. */
export const FillFigure = {
  /** Steps, and the sequences in them, summed. */
  steps: 0,
  sequences: 1,
  /**
   * Steps while at least as many requests were unfinished as fit, the sequences in them, and the share that
   * these were of what KV had room for, summed.
   */
  fullSteps: 2,
  fullSequences: 3,
  fullShares: 4,
  /** How often a sequence gave its KV blocks back before it was done. */
  parked: 5,
  /** Written by whoever asks: requests that the engine has not been given yet. */
  toCome: 6,
  /** Tokens that had been computed before: those that came back from a drive, and those computed again. */
  restored: 7,
  again: 8,
  count: 9,
} as const

/** How many sequences steps have, where that is found by trying. */
export const WidthFigure = {
  /** With how many a job began; the best so far. */
  atFirst: 0,
  best: 1,
  /** Whether more and fewer were tried beside it (1) or still are (0). */
  settled: 2,
  /** Numbers that were tried, those that were kept, and times as fast as at first by what was measured. */
  trials: 3,
  changes: 4,
  speed: 5,
  count: 6,
} as const

/** Distances of which these are told. */
export const figureDistances = [1, 2, 4] as const

/** Names of verdicts; `none`: there is nothing to look ahead for. */
export const verdicts = ['none', 'off', 'on', 'measuring'] as const

/** `experts`: of the whole model. */
export function newCounters(moeLayers: number, experts = 0, sequences = 0): EngineCounters {
  const doubles = (count: number) =>
    new Float64Array(new SharedArrayBuffer(count * Float64Array.BYTES_PER_ELEMENT))
  return {
    device: doubles(Counter.count),
    layers: newLayerCounts(moeLayers, doubles),
    prefetch: doubles(PrefetchFigure.count).fill(Number.NaN),
    activity: newActivity(experts, sequences),
    kv: doubles(KvFigure.count),
    fill: doubles(FillFigure.count),
    width: doubles(WidthFigure.count),
  }
}

/** Adds the time of decisions since then; what the device does with them is its own. */
export function countPolicy(device: Float64Array, beginMs: number): void {
  const seconds = (performance.now() - beginMs) / 1000
  device[Counter.policy_s] = (device[Counter.policy_s] ?? 0) + seconds
}

/** What happened between two moments. */
export interface Usage {
  requests: number
  hits: number
  /** Of the hits, those that had to be copied to the GPU from RAM. */
  hitsBelow: number
  misses: number
  /** Experts read ahead, those of them that were wanted in time, and those that were not wanted. */
  ahead: number
  aheadHits: number
  aheadWasted: number
  /** Of those, complete ones. */
  aheadUnused: number
  /** Delivered by the drive. */
  bytesRead: number
  /** Of that, while nobody waited for it, and of reads that were cancelled. */
  bytesAhead: number
  bytesCancelled: number
  /** With a read outstanding. */
  driveBusySeconds: number
  /** Computing, all threads as one: the sum of the six after it. */
  computeSeconds: number
  /** Attention, and the MLP of dense layers. */
  attendSeconds: number
  routeSeconds: number
  mixSeconds: number
  /** Shared experts and the residual. */
  settleSeconds: number
  /** Head and drawing. */
  sampleSeconds: number
  /** Routers of later layers. */
  aheadSeconds: number
  /** Of computeSeconds, while reads that the step waited for were under way. */
  overlappedSeconds: number
  /** Waiting for reads with nothing to compute. */
  stallSeconds: number
  /** Waiting for copies to the GPU, with nothing to compute and nothing to read. */
  copyStallSeconds: number
  /** To the GPU, and with a copy there under way. */
  bytesCopied: number
  copyBusySeconds: number
  /** Experts that the processor computed for a GPU, and the time of that. */
  hosted: number
  hostSeconds: number
  policySeconds: number
  readerCpuSeconds: number
  checksumSeconds: number
}

export function readUsage({ device, layers }: EngineCounters): Usage {
  const of = (counter: number) => device[counter] ?? 0
  const kernels = {
    attendSeconds: of(Counter.attend_s),
    routeSeconds: of(Counter.route_s),
    mixSeconds: of(Counter.mix_s),
    settleSeconds: of(Counter.settle_s),
    sampleSeconds: of(Counter.sample_s),
    aheadSeconds: of(Counter.ahead_s),
  }
  return {
    requests: sum(layers.requests),
    hits: sum(layers.hits),
    hitsBelow: sum(layers.hitsBelow),
    misses: sum(layers.misses),
    ahead: sum(layers.ahead),
    aheadHits: sum(layers.aheadHits),
    aheadWasted: sum(layers.aheadWasted),
    aheadUnused: sum(layers.aheadUnused),
    bytesRead: of(Counter.bytes_landed),
    bytesAhead: of(Counter.bytes_ahead),
    bytesCancelled: of(Counter.bytes_cancelled),
    driveBusySeconds: of(Counter.drive_busy_s),
    computeSeconds: Object.values(kernels).reduce((sum, seconds) => sum + seconds),
    ...kernels,
    overlappedSeconds: of(Counter.overlapped_s),
    stallSeconds: of(Counter.stall_nvme_s),
    copyStallSeconds: of(Counter.stall_copy_s),
    bytesCopied: of(Counter.bytes_copied),
    copyBusySeconds: of(Counter.copy_busy_s),
    hosted: of(Counter.host_experts),
    hostSeconds: of(Counter.host_s),
    policySeconds: of(Counter.policy_s),
    readerCpuSeconds: of(Counter.reader_cpu_s),
    checksumSeconds: of(Counter.checksum_s),
  }
}

export function usageBetween(before: Usage, after: Usage): Usage {
  const difference = { ...after }
  for (const name of Object.keys(difference) as (keyof Usage)[])
    difference[name] = after[name] - before[name]
  return difference
}

/** Of one request. */
export interface RequestStats {
  promptTokens: number
  /** Of those, how many were known from earlier requests and not computed. */
  cachedTokens: number
  completionTokens: number
  /** From arrival at the engine to the first drawn token. */
  firstTokenSeconds: number
  /** From the first drawn token to the last. */
  decodeSeconds: number
  /** Distinct experts wanted per layer and step, over the steps in which this request drew. */
  expertRequests: number
  /** Of the whole engine while this request decoded; null where nothing was decoded. */
  decode: Usage | null
}

export function newRequestStats(promptTokens: number): RequestStats {
  return {
    promptTokens,
    cachedTokens: 0,
    completionTokens: 0,
    firstTokenSeconds: 0,
    decodeSeconds: 0,
    expertRequests: 0,
    decode: null,
  }
}

/**
 * Distinct experts of a step, summed over its MoE layers. experts: [MoE layer][token][topK] of this
 * step; seen: [experts per layer] scratch, all zero before and after.
 */
export function countExpertRequests(
  experts: Uint16Array,
  moeLayers: number,
  perLayer: number,
  seen: Uint8Array,
): number {
  let distinct = 0
  for (let layer = 0; layer < moeLayers; layer += 1) {
    const wanted = experts.subarray(layer * perLayer, (layer + 1) * perLayer)
    for (const expert of wanted) {
      if (seen[expert] === 0) distinct += 1
      seen[expert] = 1
    }
    for (const expert of wanted) seen[expert] = 0
  }
  return distinct
}

function sum(values: Float64Array): number {
  let total = 0
  for (const value of values) total += value
  return total
}
