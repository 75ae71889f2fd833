// What is told of a running engine: one plain record of an instant, fit for JSON, and the figures that
// follow from two of them. Counters only grow while the engine is open; rates are differences. What a
// machine lacks, or what is not known yet, is left out and never 0. This file imports nothing, so a
// screen on another machine may use it; who fills the record is observer.ts.

/** Rates and sizes are bytes and seconds, shares from 0 to 1. */
export interface Snapshot {
  readonly version: 1
  /** Seconds since 1970. */
  readonly time: number
  readonly model: string
  readonly state: 'loading' | 'ready'
  /** Times the engine was lost and opened again. */
  readonly restarts?: number
  readonly requests: RequestFigures
  /** Left out where no file of requests is worked through. */
  readonly job?: JobFigures
  /** All that follows is of the open engine. */
  readonly engine?: EngineFigures
  /** Only where it was asked for. */
  readonly map?: ExpertMap
  /** What one request said, where it was asked for and may be told. */
  readonly said?: string
}

export interface EngineFigures {
  /** Backend, instruction set and threads, for people. */
  readonly device: string
  readonly loadMode: 'mapped' | 'direct'
  readonly contextTokens: number
  readonly steps: number
  /** Prompt tokens read and tokens drawn since open. */
  readonly tokensRead: number
  readonly tokensDrawn: number
  readonly experts: ExpertFigures
  /** One for each MoE layer. */
  readonly layers: LayerFigures
  /** What experts come over; a way that there is not is left out. */
  readonly links: { readonly drive?: LinkFigures; readonly pcie?: LinkFigures }
  /** Where the time of steps went, seconds since open. */
  readonly stall: StallFigures
  readonly memory: readonly MemoryFigures[]
  readonly prefetch?: PrefetchFigures
}

export interface ExpertFigures {
  readonly moeLayers: number
  readonly firstMoeLayer: number
  readonly perLayer: number
  readonly topK: number
  /** Left out where experts are mapped. */
  readonly slots?: number
  /** Those in RAM that slots of a GPU are filled from; left out where there are none. */
  readonly slotsBelow?: number
  /** Slots lie in the memory of the GPU that computes; left out: in RAM. */
  readonly isOnGpu?: boolean
  /** Experts that lie in memory; left out where nobody can tell. */
  readonly resident?: number
  /** Read for a miss, on average. */
  readonly readBytes: number
}

/** [MoE layer] since open. Requests of 0: not counted yet, or nobody can tell. */
export interface LayerFigures {
  readonly requests: readonly number[]
  readonly hits: readonly number[]
  /** Of the hits, those that had to be copied to the GPU; left out where it has no slots below. */
  readonly hitsBelow?: readonly number[]
  readonly misses: readonly number[]
  readonly evictions: readonly number[]
}

export interface LinkFigures {
  readonly bytesRead: number
  /** Of experts that were wanted and were not there. */
  readonly bytesNeeded: number
  /** With a read outstanding. */
  readonly busySeconds: number
  /** Integral of reads outstanding over time. */
  readonly depthSeconds: number
  /** What it can do, where that is known. */
  readonly ceilingBytesPerSecond?: number
}

export interface StallFigures {
  /** Waiting for the drive; left out where it is not counted. */
  readonly nvme?: number
  /** Waiting for copies between memories; left out where there are none. */
  readonly copy?: number
  readonly compute: number
  readonly policy: number
}

export interface MemoryFigures {
  readonly name: string
  readonly budgetBytes: number
  readonly usedBytes?: number
}

export interface PrefetchFigures {
  readonly verdict: string
  /** Experts read ahead, those wanted in time, wanted at all, and cancelled. */
  readonly issued: number
  readonly inTime: number
  readonly used: number
  readonly cancelled: number
  readonly bytes: number
  readonly wastedBytes: number
  /** Share of what layers used that was foreseen, by distance in layers. */
  readonly recall: readonly RecallFigures[]
  /** Speed with look-ahead relative to without, its standard error, and pairs measured. */
  readonly speed?: number
  readonly speedError?: number
  readonly pairs?: number
  /** Of a byte that is read for nothing, beside one that is saved. */
  readonly price?: number
}

export interface RecallFigures {
  readonly distance: number
  /** Among as many candidates as a token takes, twice and four times as many. */
  readonly x1?: number
  readonly x2?: number
  readonly x4?: number
  readonly calibrationError?: number
}

export interface RequestFigures {
  /** Of those, in work and waiting. */
  readonly running: number
  readonly waiting: number
  readonly begun: number
  readonly ended: number
  readonly failed: number
  /** Those in work and those whose place nobody has taken yet. */
  readonly rows: readonly RequestRow[]
}

export interface RequestRow {
  /** Place, and a number that no other request has: both name it where it is cancelled. */
  readonly slot: number
  readonly number: number
  readonly state: string
  readonly promptTokens: number
  /** Of prompt and answer. */
  readonly tokensRead: number
  readonly tokensDrawn: number
  readonly tokensDrawnMost: number
  /** Of the prompt, what did not have to be computed. */
  readonly tokensCached?: number
  /** Seconds since 1970. */
  readonly arrived: number
  readonly firstToken?: number
  readonly lastToken?: number
}

/** Of a file of requests. */
export interface JobFigures {
  readonly lines: number
  readonly linesDone: number
  /** Of those, with an answer. */
  readonly linesAnswered: number
  /** Left out before one is done. */
  readonly secondsLeft?: number
}

/**
 * Of each expert of the model one byte in each, in base64: 1 where it lies in memory; steps since it was
 * used, brought and given up, 255 for that many and more, or never; and uses, 16 * log2(1 + n).
 */
export interface ExpertMap {
  readonly resident: string
  readonly used: string
  readonly loaded: string
  readonly left: string
  readonly uses: string
}

export const usesScale = 16
export const ageMost = 255

/** How many uses a byte of `uses` stands for. */
export function usesOf(byte: number): number {
  return Math.round(2 ** (byte / usesScale) - 1)
}

/** What happened between two snapshots of one engine. */
export interface Rates {
  /** Between the two, more than 0. */
  readonly seconds: number
  readonly drawnPerSecond: number
  readonly readPerSecond: number
  /** Of what layers wanted; absent: they wanted nothing. */
  readonly hitRate?: number
  /** The same, of those that had to be copied to the GPU. */
  readonly hitRateBelow?: number
  readonly misses: number
  readonly drive?: LinkRates
  readonly pcie?: LinkRates
  /** Shares of the time that steps took; absent: there were none. */
  readonly stall?: StallFigures
}

export interface LinkRates {
  readonly bytesPerSecond: number
  /** Share of the time. */
  readonly busy: number
  /** Reads outstanding while there are any; absent: there were none. */
  readonly depth?: number
  /** Bytes that had to be read / what the link could have read; absent: it is not known what it can do. */
  readonly shareOfBound?: number
}

/** Null where the two are not of one engine, or not one after the other. */
export function ratesBetween(before: Snapshot, after: Snapshot): Rates | null {
  const [first, last] = [before.engine, after.engine]
  const seconds = after.time - before.time
  if (first === undefined || last === undefined || seconds <= 0) return null
  const isSame = before.model === after.model && before.restarts === after.restarts
  if (!isSame || last.steps < first.steps) return null
  const requests = total(last.layers.requests) - total(first.layers.requests)
  const hits = total(last.layers.hits) - total(first.layers.hits)
  const below = total(last.layers.hitsBelow ?? []) - total(first.layers.hitsBelow ?? [])
  const drive = linkRates(first.links.drive, last.links.drive, seconds)
  const pcie = linkRates(first.links.pcie, last.links.pcie, seconds)
  const stall = stallShares(first.stall, last.stall)
  return {
    seconds,
    drawnPerSecond: (last.tokensDrawn - first.tokensDrawn) / seconds,
    readPerSecond: (last.tokensRead - first.tokensRead) / seconds,
    misses: total(last.layers.misses) - total(first.layers.misses),
    ...(requests > 0 ? { hitRate: hits / requests } : {}),
    ...(requests > 0 && last.layers.hitsBelow !== undefined
      ? { hitRateBelow: below / requests }
      : {}),
    ...(drive === null ? {} : { drive }),
    ...(pcie === null ? {} : { pcie }),
    ...(stall === null ? {} : { stall }),
  }
}

function linkRates(
  before: LinkFigures | undefined,
  after: LinkFigures | undefined,
  seconds: number,
): LinkRates | null {
  if (before === undefined || after === undefined) return null
  const busySeconds = after.busySeconds - before.busySeconds
  const ceiling = after.ceilingBytesPerSecond
  const needed = after.bytesNeeded - before.bytesNeeded
  return {
    bytesPerSecond: (after.bytesRead - before.bytesRead) / seconds,
    busy: Math.min(1, busySeconds / seconds),
    ...(busySeconds > 0 ? { depth: (after.depthSeconds - before.depthSeconds) / busySeconds } : {}),
    ...(ceiling === undefined ? {} : { shareOfBound: needed / (ceiling * seconds) }),
  }
}

function stallShares(before: StallFigures, after: StallFigures): StallFigures | null {
  const compute = after.compute - before.compute
  const policy = after.policy - before.policy
  const nvme = differenceOf(before.nvme, after.nvme)
  const copy = differenceOf(before.copy, after.copy)
  const all = compute + policy + (nvme ?? 0) + (copy ?? 0)
  if (all <= 0) return null
  return {
    compute: compute / all,
    policy: policy / all,
    ...(nvme === null ? {} : { nvme: nvme / all }),
    ...(copy === null ? {} : { copy: copy / all }),
  }
}

function differenceOf(before: number | undefined, after: number | undefined): number | null {
  return before === undefined || after === undefined ? null : after - before
}

export function total(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0)
}
