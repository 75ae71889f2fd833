// The JSON object that `run --json` and `bench --json` end with. Its keys are a promise to scripts:
// they may grow, never change. What was not measured is null, not a guess: of mapped experts it is looked
// at which lie in memory, where the system tells, but nobody counts what is read, and only `bench` knows
// what the drive can do.
import type { ExpertPlan } from '../engine/budget.js'
import type { EngineFacts } from '../engine/protocol.js'
import {
  figureDistances,
  PrefetchFigure,
  type RequestStats,
  type Usage,
  verdicts,
} from '../engine/stats.js'
import { recallWidths } from '../prefetch/recall.js'
import { countedHits, rateOf } from './log.js'

export interface RunFacts {
  readonly model: string
  readonly engine: EngineFacts
  readonly tokens: readonly number[]
  readonly text: string
  readonly reasoning: string
  readonly finishReason: string
  readonly stats: RequestStats
  readonly seed: number | null
  readonly isExact: boolean
  /** Of the drive, bytes per second; null where it was not measured. */
  readonly ceiling: number | null
}

/** Rates per second, times in seconds, sizes in bytes, shares from 0 to 1. */
export function runReport(facts: RunFacts): Record<string, unknown> {
  const { stats, engine } = facts
  const { promptTokens, cachedTokens, completionTokens, firstTokenSeconds, decodeSeconds } = stats
  const hasDrawn = completionTokens > 0
  return {
    model: facts.model,
    backend: engine.backend,
    load_mode: engine.experts.loadMode,
    exact: facts.isExact,
    reproducible: engine.isReproducible,
    finish_reason: facts.finishReason,
    seed: facts.seed,
    prompt_tokens: promptTokens,
    cached_tokens: cachedTokens,
    completion_tokens: completionTokens,
    tokens: facts.tokens,
    text: facts.text,
    reasoning: facts.reasoning,
    ttft_s: hasDrawn ? firstTokenSeconds : null,
    prefill_tok_s: hasDrawn ? rateOf(promptTokens - cachedTokens, firstTokenSeconds) : null,
    decode_tok_s: rateOf(completionTokens - 1, decodeSeconds),
    ...usageReport(facts),
  }
}

function usageReport({ stats, engine, ceiling }: RunFacts): Record<string, unknown> {
  const { experts: plan, expertBytes } = engine
  const isDirect = plan.loadMode === 'direct'
  const usage = isDirect ? stats.decode : null
  const counted = countedHits(stats)
  return {
    experts: {
      requests: counted?.requests ?? stats.expertRequests,
      hits: hitsInTiers(counted, plan),
      hits_by: counted === null ? null : isDirect ? 'slots' : 'residency',
      misses: counted?.misses ?? null,
      /** Of the hits in RAM, those that the processor computed for a GPU. */
      cpu: isDirect ? (counted?.hosted ?? null) : 0,
      slots: slotsInTiers(plan),
      bytes_each: expertBytes,
    },
    io: ioReport(usage, plan.expertReadBytes, stats.decodeSeconds, ceiling),
    copy: { bytes: usage?.bytesCopied ?? null, busy_s: usage?.copyBusySeconds ?? null },
    stall_s: {
      nvme: usage?.stallSeconds ?? null,
      copy: usage?.copyStallSeconds ?? null,
      compute: usage?.computeSeconds ?? null,
      policy: usage?.policySeconds ?? null,
    },
    compute_s: computeReport(stats.decode),
    prefetch: prefetchReport(usage, plan.expertReadBytes, engine.counters.prefetch),
  }
}

/** By where experts lay that had not to be read. */
function hitsInTiers(counted: Usage | null, { tier }: ExpertPlan): Record<string, number | null> {
  if (tier === 'ram') return { gpu: 0, ram: counted?.hits ?? null }
  if (counted === null) return { gpu: null, ram: null }
  return { gpu: counted.hits - counted.hitsBelow, ram: counted.hitsBelow }
}

function slotsInTiers({ loadMode, tier, slots, slotsBelow }: ExpertPlan): Record<string, number> {
  if (loadMode === 'mapped') return { gpu: 0, ram: 0 }
  return tier === 'gpu' ? { gpu: slots, ram: slotsBelow } : { gpu: 0, ram: slots }
}

/** Over the decode part, by what was computed. */
function computeReport(usage: Usage | null): Record<string, number> | null {
  if (usage === null) return null
  return {
    attention: usage.attendSeconds,
    router: usage.routeSeconds,
    experts: usage.mixSeconds,
    shared_expert: usage.settleSeconds,
    head: usage.sampleSeconds,
    look_ahead: usage.aheadSeconds,
  }
}

/**
 * Over the decode part. `attainable`: t / (t + u), t the time that the needed bytes take at the
 * ceiling, u the computing that no awaited read overlapped.
 */
function ioReport(
  usage: Usage | null,
  bytesEach: number,
  wallSeconds: number,
  ceiling: number | null,
): Record<string, number | null> {
  if (usage === null || wallSeconds <= 0) {
    const none = { bytes_read: null, bytes_needed: null, ceiling_bytes_s: ceiling, busy: null }
    return { ...none, share_of_bound: null, attainable: null, reader_cpu_s: null, checksum_s: null }
  }
  const bytesNeeded = usage.misses * bytesEach
  const idealSeconds = ceiling === null ? null : bytesNeeded / ceiling
  const exposedSeconds = usage.computeSeconds - usage.overlappedSeconds + usage.policySeconds
  return {
    bytes_read: usage.bytesRead,
    bytes_needed: bytesNeeded,
    ceiling_bytes_s: ceiling,
    busy: usage.driveBusySeconds / wallSeconds,
    share_of_bound: idealSeconds === null ? null : idealSeconds / wallSeconds,
    attainable: idealSeconds === null ? null : idealSeconds / (idealSeconds + exposedSeconds),
    reader_cpu_s: usage.readerCpuSeconds,
    checksum_s: usage.checksumSeconds,
  }
}

/** Over the decode part; `speed` is with look-ahead relative to without, as the governor measured it. */
function prefetchReport(usage: Usage | null, bytesEach: number, figures: Float64Array): object {
  const verdict = verdicts[figures[PrefetchFigure.verdict] ?? 0] ?? 'none'
  const isIdle = usage === null || verdict === 'none'
  const known = (figure: number) => {
    const value = figures[figure] ?? Number.NaN
    return Number.isFinite(value) ? value : null
  }
  return {
    issued: isIdle ? null : usage.ahead,
    used: isIdle ? null : usage.ahead - usage.aheadWasted,
    in_time: isIdle ? null : usage.aheadHits,
    cancelled: isIdle ? null : usage.aheadWasted - usage.aheadUnused,
    bytes: isIdle ? null : usage.bytesAhead,
    wasted_bytes: isIdle ? null : usage.bytesCancelled + usage.aheadUnused * bytesEach,
    recall: Object.fromEntries(
      figureDistances.map((distance, row) => [`d${distance}`, recallOf(row, known)]),
    ),
    calibration_error: Object.fromEntries(
      figureDistances.map((distance, row) => [
        `d${distance}`,
        known(PrefetchFigure.calibration + row),
      ]),
    ),
    verdict: verdict === 'none' ? null : verdict,
    speed: known(PrefetchFigure.speed),
    speed_error: known(PrefetchFigure.speedError),
    pairs: known(PrefetchFigure.pairs),
    price: known(PrefetchFigure.price),
  }
}

/** Of a distance: share of what layers used that was among as many candidates, twice and four times as many. */
function recallOf(
  row: number,
  known: (figure: number) => number | null,
): Record<string, number | null> {
  const first = PrefetchFigure.recall + row * recallWidths.length
  return Object.fromEntries(recallWidths.map((width, at) => [`${width}x`, known(first + at)]))
}
