// One policy, one number of slots, one trace: how much of what the layers wanted lay in slots. Read by
// read the course of the drive is told too, where a machine is given; where reading ahead is tried, the
// engine's own parts are rehearsed instead.
import type { Problem } from '../cache/profile.js'
import {
  type Contender,
  contenderOf,
  isOfEngine,
  isPolicy,
  ordersAcrossLayers,
} from './contender.js'
import { type Contest, isCounted } from './contest.js'
import { plainRouters, type Routers } from './foresightrouter.js'
import { type Figures, type MachineModel, Timeline } from './machine.js'
import { BarePool, EnginePool, type Pool } from './pool.js'
import { type AheadFigures, type LookAheadName, Rehearsal, type TierFigures } from './rehearsal.js'
import { decodeTokensOf, type Routing, type Visit, walk } from './routing.js'
import { ScoreReader } from './scores.js'

export interface Judgement extends Contest {
  readonly requests: number
  readonly hits: number
  /** [MoE layer] */
  readonly layerRequests: readonly number[]
  readonly layerHits: readonly number[]
  /** Of the decode part; null without a machine. */
  readonly figures: Figures | null
  /** What became of reads ahead; null where there are none. */
  readonly ahead: AheadFigures | null
  /** What became of experts between tiers; null where there is one. */
  readonly tiers: TierFigures | null
}

/** Warms with everything that comes before, and counts the chosen phase. */
export function judge(
  routing: Routing,
  contest: Contest,
  machine: MachineModel | null,
  routers: Routers = plainRouters,
): Judgement | Problem {
  const contender = contenderOf(routing, contest)
  if ('problem' in contender) return contender
  const hasTiers = machine?.belowShare !== undefined
  if (machine !== null && (contest.lookAhead !== undefined || hasTiers)) {
    if (!isPolicy(contest.policy)) {
      const how = hasTiers ? 'over slots in RAM' : 'with look-ahead'
      return { problem: `${contest.policy} knows what comes, and cannot be tried ${how}` }
    }
    return rehearse(routing, contest, contender, machine, routers, contest.lookAhead ?? 'off')
  }
  const pool = poolOf(routing, contest, contender)
  const teller = new ScoreTeller(routing, contender)
  const course = machine === null ? null : new Timeline(machine, routing.topK)
  const tally = new LayerTally(routing)
  walk(routing, (visit) => {
    const { count, isPrompt } = visit
    teller.tell(visit)
    const hits = pool.visit(visit)
    if (!isPrompt) course?.layer(hits, count - hits)
    if (isCounted(visit, contest.phase)) tally.add(visit, hits)
  })
  teller.close()
  return {
    ...contest,
    ...tally.counts(),
    figures: course?.figures(decodeTokensOf(routing)) ?? null,
    ahead: null,
    tiers: null,
  }
}

function rehearse(
  routing: Routing,
  contest: Contest,
  policy: Contender,
  machine: MachineModel,
  routers: Routers,
  lookAhead: LookAheadName,
): Judgement {
  const tally = new LayerTally(routing)
  const rehearsal = new Rehearsal(routing, {
    policy,
    slotsPerLayer: contest.slotsPerLayer,
    machine,
    lookAhead,
    routers,
  })
  walk(routing, (visit) => {
    const hits = rehearsal.visit(visit)
    if (isCounted(visit, contest.phase)) tally.add(visit, hits)
  })
  rehearsal.close()
  return {
    ...contest,
    ...tally.counts(),
    figures: rehearsal.figures(decodeTokensOf(routing)),
    ahead: rehearsal.ahead(),
    tiers: rehearsal.tiers(),
  }
}

/** Requests and hits by layer. */
class LayerTally {
  readonly #requests: number[]
  readonly #hits: number[]

  constructor({ layers }: Routing) {
    this.#requests = layers.map(() => 0)
    this.#hits = layers.map(() => 0)
  }

  add({ moeLayer, count }: Visit, hits: number): void {
    this.#requests[moeLayer] = (this.#requests[moeLayer] ?? 0) + count
    this.#hits[moeLayer] = (this.#hits[moeLayer] ?? 0) + hits
  }

  counts() {
    return {
      requests: sum(this.#requests),
      hits: sum(this.#hits),
      layerRequests: this.#requests,
      layerHits: this.#hits,
    }
  }
}

function poolOf(routing: Routing, contest: Contest, contender: Contender): Pool {
  const { scope, policy, slotsPerLayer } = contest
  const isGlobal = scope === 'global'
  if (isOfEngine(policy) || (isGlobal && !ordersAcrossLayers(policy))) {
    return new EnginePool(routing, slotsPerLayer, contender)
  }
  const groups = isGlobal ? 1 : routing.layers.length
  return new BarePool(routing, groups, slotsPerLayer, contender)
}

/** Gives a contender that asks for them the scores of each visit, means over its tokens, where there are any. */
class ScoreTeller {
  readonly #contender: Contender
  readonly #reader: ScoreReader | null
  readonly #scores: Float32Array
  readonly #means: Float32Array

  constructor({ scores, layers, experts }: Routing, contender: Contender) {
    const isWanted = scores !== null && contender.scored !== undefined
    this.#contender = contender
    this.#reader = isWanted ? new ScoreReader(scores, layers.length, experts) : null
    this.#scores = new Float32Array(experts)
    this.#means = new Float32Array(experts)
  }

  tell({ moeLayer, firstToken, tokens }: Visit): void {
    if (this.#reader === null) return
    this.#means.fill(0)
    for (let token = firstToken; token < firstToken + tokens; token += 1) {
      this.#reader.read(token, moeLayer, this.#scores)
      for (let index = 0; index < this.#scores.length; index += 1) {
        this.#means[index] = (this.#means[index] ?? 0) + (this.#scores[index] ?? 0) / tokens
      }
    }
    this.#contender.scored?.(moeLayer, this.#means)
  }

  close(): void {
    this.#reader?.close()
  }
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0)
}
