// What `simulate` found, as `--json` prints it and as table and page show it. Rates and shares are
// fractions from 0 to 1.
import type { Judgement } from '../simulate/judge.js'
import { decodeTokensOf, type Routing, tokensOf } from '../simulate/routing.js'
import type { Usage } from '../simulate/usage.js'

export type Result = ReturnType<typeof resultOf>

/** The policy, and who reads ahead. */
export function nameOf({ policy, prefetch }: Result): string {
  return prefetch === null ? policy : `${policy}, prefetch ${prefetch}`
}

/** One trace with all that was judged on it. */
export interface Simulated {
  readonly routing: Routing
  readonly usage: Usage
  readonly results: readonly Result[]
}

export function simulatedOf(
  routing: Routing,
  usage: Usage,
  judgements: readonly Judgement[],
): Simulated {
  const results = judgements.map((judgement) =>
    resultOf(routing, judgement, againstLru(judgement, judgements)),
  )
  return { routing, usage, results }
}

/** Keys as `simulate --json` prints them. */
export function simulationReport(simulated: readonly Simulated[]) {
  return {
    results: simulated.flatMap(({ results }) => results),
    traces: simulated.map(({ routing, usage }) => ({
      trace: routing.name,
      model: routing.model,
      layers: routing.layers,
      experts: routing.experts,
      top_k: routing.topK,
      sequences: routing.sequences.length,
      tokens: tokensOf(routing),
      decode_tokens: decodeTokensOf(routing),
      distinct: usage.distinct,
    })),
  }
}

function resultOf({ name, experts }: Routing, judgement: Judgement, against: AgainstLru) {
  const { policy, scope, phase, slotsPerLayer, requests, hits, figures, lookAhead, ahead, tiers } =
    judgement
  const { layerRequests, layerHits } = judgement
  return {
    trace: name,
    policy,
    scope,
    phase,
    slots_per_layer: slotsPerLayer,
    share: slotsPerLayer / experts,
    requests,
    hits,
    hit_rate: rate(hits, requests),
    /** Misses more than lru has, as a share of those: below 0 are fewer. Null as below. */
    misses_against_lru: against.misses,
    /** Of the way from lru to belady; null where one of them was not judged, they are equal, or for static. */
    gap_closed: against.gapClosed,
    /** [MoE layer] */
    layer_hit_rates: layerRequests.map((all, layer) => rate(layerHits[layer] ?? 0, all)),
    /** Of decode; null without --machine. */
    tokens_s: figures?.tokensPerSecond ?? null,
    share_of_bound: figures?.shareOfBound ?? null,
    /** Who read ahead, and what became of it; null without --prefetch. */
    prefetch: lookAhead ?? null,
    ahead:
      ahead === null
        ? null
        : { issued: ahead.issued, used: ahead.used, wasted_per_useful: ahead.wastedPerUseful },
    /** Where decode found its experts, what came over each way, and what it waited for most; null with one tier. */
    tiers,
  }
}

interface AgainstLru {
  readonly misses: number | null
  readonly gapClosed: number | null
}

function againstLru(judgement: Judgement, all: readonly Judgement[]): AgainstLru {
  const missesOf = (policy: string) => {
    const found = all.find(
      (one) =>
        one.policy === policy &&
        one.slotsPerLayer === judgement.slotsPerLayer &&
        one.lookAhead === judgement.lookAhead,
    )
    return found === undefined ? null : found.requests - found.hits
  }
  const [lru, belady] = [missesOf('lru'), missesOf('belady')]
  // What its set cost is not among its misses.
  if (judgement.policy === 'static' || lru === null) return { misses: null, gapClosed: null }
  const saved = lru - (judgement.requests - judgement.hits)
  const gap = belady === null ? 0 : lru - belady
  return {
    misses: lru === 0 ? null : 0 - saved / lru,
    gapClosed: gap === 0 ? null : saved / gap,
  }
}

function rate(part: number, whole: number): number | null {
  return whole === 0 ? null : part / whole
}
