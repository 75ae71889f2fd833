// One policy, one number of slots, one trace: how much of what the layers wanted lay in slots. Read by
// read the course of the drive is told too, where a machine is given. A prefetcher comes in between
// the two: it sees a visit before the pool does and fills slots of it within the time that the course
// says the drive is idle; nothing else here would have to change.
import type { Problem } from '../cache/profile.js'
import { type Contender, contenderOf, isOfEngine, ordersAcrossLayers } from './contender.js'
import { type Contest, isCounted } from './contest.js'
import { type Figures, type MachineModel, Timeline } from './machine.js'
import { BarePool, EnginePool, type Pool } from './pool.js'
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
}

/** Warms with everything that comes before, and counts the chosen phase. */
export function judge(
  routing: Routing,
  contest: Contest,
  machine: MachineModel | null,
): Judgement | Problem {
  const contender = contenderOf(routing, contest)
  if ('problem' in contender) return contender
  const pool = poolOf(routing, contest, contender)
  const teller = new ScoreTeller(routing, contender)
  const course = machine === null ? null : new Timeline(machine, routing.topK)
  const layerRequests = routing.layers.map(() => 0)
  const layerHits = routing.layers.map(() => 0)
  walk(routing, (visit) => {
    const { moeLayer, count, isPrompt } = visit
    teller.tell(visit)
    const hits = pool.visit(visit)
    if (!isPrompt) course?.layer(hits, count - hits)
    if (!isCounted(visit, contest.phase)) return
    layerRequests[moeLayer] = (layerRequests[moeLayer] ?? 0) + count
    layerHits[moeLayer] = (layerHits[moeLayer] ?? 0) + hits
  })
  teller.close()
  return {
    ...contest,
    requests: sum(layerRequests),
    hits: sum(layerHits),
    layerRequests,
    layerHits,
    figures: course?.figures(decodeTokensOf(routing)) ?? null,
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
