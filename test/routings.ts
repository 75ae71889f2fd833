// Routing written out by hand, and a plain replay that shares no code with what it checks.
import { expect } from 'vitest'
import type { Contest } from '../src/simulate/contest.js'
import { type Judgement, judge } from '../src/simulate/judge.js'
import { type Routing, walk } from '../src/simulate/routing.js'

/** [token][MoE layer] its experts, best first */
export type Tokens = readonly (readonly (readonly number[])[])[]

/** One sequence of `prompt` tokens and then the others. */
export function routingOf(tokens: Tokens, experts: number, prompt = 0): Routing {
  const first = tokens[0] ?? []
  return {
    name: 'written',
    model: 'none',
    layers: first.map((_, layer) => layer),
    experts,
    topK: first[0]?.length ?? 0,
    sequences: [{ first: 0, tokens: tokens.length, prompt }],
    isPromptJoint: true,
    ids: Uint16Array.from(tokens.flat(2)),
    scores: null,
  }
}

/** One layer, one expert a token. */
export function lineOf(experts: number, ...wanted: number[]): Routing {
  return routingOf(
    wanted.map((expert) => [[expert]]),
    experts,
  )
}

/** Hit rate by decode in slots of each layer, unless told otherwise. */
export function judged(routing: Routing, contest: Partial<Contest>): Judgement {
  const judgement = judge(
    routing,
    { policy: 'lru', scope: 'layer', phase: 'decode', slotsPerLayer: 1, ...contest },
    null,
  )
  if ('problem' in judgement) throw new Error(judgement.problem)
  return judgement
}

export function hitRate(routing: Routing, contest: Partial<Contest>): number {
  const { hits, requests } = judged(routing, contest)
  expect(requests).toBeGreaterThan(0)
  return hits / requests
}

/** What layers want, in order: of which layer, which experts of the model, and whether it counts. */
function wantsOf(routing: Routing): { layer: number; wanted: number[]; counts: boolean }[] {
  const wants: { layer: number; wanted: number[]; counts: boolean }[] = []
  walk(routing, ({ moeLayer, wanted, count, isPrompt }) => {
    wants.push({ layer: moeLayer, wanted: [...wanted.subarray(0, count)], counts: !isPrompt })
  })
  return wants
}

/** Hits of decode when what is used farthest in the future gives way, or passes by; found by search. */
export function farthestHits(routing: Routing, slots: number): number {
  const wants = wantsOf(routing)
  const pools = new Map<number, Set<number>>()
  const nextUse = (expert: number, after: number) => {
    const at = wants.findIndex(({ wanted }, time) => time > after && wanted.includes(expert))
    return at < 0 ? Number.POSITIVE_INFINITY : at
  }
  let hits = 0
  for (const [now, { layer, wanted, counts }] of wants.entries()) {
    const pool = pools.get(layer) ?? new Set<number>()
    if (counts) hits += wanted.filter((expert) => pool.has(expert)).length
    const all = [...new Set([...pool, ...wanted])]
    all.sort((a, b) => nextUse(a, now) - nextUse(b, now))
    pools.set(layer, new Set(all.slice(0, slots)))
  }
  return hits
}
