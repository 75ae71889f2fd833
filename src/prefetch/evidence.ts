// What is known of a layer's experts before it routes, written down as signs: margins of early scores,
// what the layer used lately, what follows what an earlier layer used, what the token's id says, and
// what was thought from farther away. Must not know what a sign is worth.
import { type Learnt, within } from '../cache/learnt.js'
import type { ForecastShape } from './forecast.js'
import { History } from './history.js'
import { Margins } from './margins.js'
import { Shortlist } from './shortlist.js'
import { farthest, leastShare, Sign } from './signs.js'
import { TokenPrior } from './tokenprior.js'
import { Transitions } from './transitions.js'

export class Evidence {
  readonly #shortlist: Shortlist
  readonly #all: Int32Array
  readonly #shape: ForecastShape
  readonly #groupSize: number
  /** The router's bias [MoE layer][expert], or null. */
  readonly #bias: Float32Array | null
  readonly #margins: Margins
  readonly #history: History
  readonly #transitions: readonly Transitions[]
  readonly #tokenPrior: TokenPrior
  /** [MoE layer][expert] what was thought from farther away, in which step, by which distance */
  readonly #thought: Float32Array
  readonly #thoughtIn: Float64Array
  readonly #thoughtAt: Int32Array
  readonly #ranks: readonly number[]
  // What the layer that is aimed at has in common.
  #moeLayer = 0
  #pairs: Transitions | null = null
  #tokenRow = -1
  #isDeeper = false
  #isBlind = false

  /** `most`: candidates of which signs are written, where there are scores. */
  constructor(shape: ForecastShape, bias: Float32Array | null, most: number) {
    const { moeLayers, experts, topK, groups, distances } = shape
    this.#shape = shape
    this.#groupSize = Math.floor(experts / groups)
    this.#bias = bias
    this.#margins = new Margins(shape)
    this.#history = new History(moeLayers, experts, topK)
    const gaps = [...new Set([1, ...distances.filter((distance) => distance > 0)])]
    this.#transitions = gaps.map((gap) => new Transitions(gap, moeLayers, experts, topK))
    this.#tokenPrior = new TokenPrior(moeLayers, experts, topK)
    this.#thought = new Float32Array(moeLayers * experts)
    this.#thoughtIn = new Float64Array(moeLayers)
    this.#thoughtAt = new Int32Array(moeLayers)
    this.#shortlist = new Shortlist(most)
    this.#all = Int32Array.from({ length: experts }, (_, index) => index)
    this.#ranks = [topK / 2, topK, 2 * topK, 4 * topK]
  }

  get learnt(): Learnt {
    return {
      ...within('history', this.#history.learnt),
      ...within('tokens', this.#tokenPrior.learnt),
      ...Object.assign(
        {},
        ...this.#transitions.map((pairs) => within(`pairs${pairs.gap}`, pairs.learnt)),
      ),
    }
  }

  get step(): number {
    return this.#history.step
  }

  begin(ids: Int32Array): void {
    this.#history.begin()
    this.#tokenPrior.begin(ids)
  }

  /** As Foresight.used. */
  used(moeLayer: number, records: Int32Array, count: number, tokens: number): void {
    this.#history.used(moeLayer, records, count, tokens)
    for (const transitions of this.#transitions) transitions.learn(moeLayer, this.#history)
    this.#tokenPrior.learn(moeLayer, this.#history)
  }

  /** Indices in the layer of the experts that were taken up last, best first where scores say. */
  get candidates(): Int32Array {
    return this.#isBlind ? this.#all : this.#shortlist.indices
  }

  /** Takes up the likeliest by one token's early scores. Returns how many there are. */
  aim(moeLayer: number, at: number, scores: Float32Array, token: number): number {
    const { experts, distances } = this.#shape
    this.#margins.weigh(scores, token * experts, this.#bias, moeLayer * experts)
    this.#isBlind = false
    this.#isDeeper =
      this.#thoughtIn[moeLayer] === this.step && (this.#thoughtAt[moeLayer] ?? 0) > at
    this.#aim(moeLayer, distances[at] ?? 1, token)
    return this.#shortlist.pick(this.#margins.soft)
  }

  /** Takes up all experts of a layer that no early score reaches. Returns how many there are. */
  aimBlind(moeLayer: number, token: number): number {
    this.#isBlind = true
    this.#isDeeper = false
    this.#aim(moeLayer, 1, token)
    return this.#all.length
  }

  /** The signs of the candidate of that rank, into `out` from `start` on. */
  write(rank: number, out: Float32Array, start: number): void {
    const index = this.candidates[rank] ?? 0
    const expert = this.#moeLayer * this.#shape.experts + index
    out[start + Sign.always] = 1
    if (this.#isBlind) out.fill(0, start + Sign.own, start + Sign.before)
    else this.#writeMargins(rank, index, out, start)
    this.#writeHistory(index, expert, out, start)
    const deeper = this.#isDeeper ? (this.#thought[expert] ?? 0.5) : 0.5
    out[start + Sign.deeper] = this.#isDeeper ? Math.log(deeper / (1 - deeper)) : 0
    out[start + Sign.isDeeper] = this.#isDeeper ? 1 : 0
  }

  /** Probabilities [experts] that the layer's experts are wanted, as thought from distance `at`. */
  remember(moeLayer: number, at: number, probabilities: Float32Array): void {
    this.#thought.set(probabilities, moeLayer * this.#shape.experts)
    this.#thoughtIn[moeLayer] = this.step
    this.#thoughtAt[moeLayer] = at
  }

  #aim(moeLayer: number, gap: number, token: number): void {
    this.#moeLayer = moeLayer
    this.#pairs = null
    for (const transitions of this.#transitions) {
      const isKnown = transitions.known(moeLayer, this.#history) > 0
      if (transitions.gap === gap && isKnown) this.#pairs = transitions
    }
    this.#tokenRow = this.#tokenPrior.rowOf(moeLayer, token)
  }

  #writeMargins(rank: number, index: number, out: Float32Array, start: number): void {
    const odds = clipped(this.#margins.odds(index))
    const group = clipped(this.#margins.group[Math.floor(index / this.#groupSize)] ?? 0)
    out[start + Sign.own] = clipped(this.#margins.own[index] ?? 0)
    out[start + Sign.odds] = odds
    out[start + Sign.group] = group
    out[start + Sign.both] = Math.min(odds, group)
    let isAbove = true
    for (let bucket = 0; bucket < this.#ranks.length; bucket += 1) {
      const isIn = isAbove && rank < (this.#ranks[bucket] ?? 0)
      out[start + Sign.rank + bucket] = isIn ? 1 : 0
      if (isIn) isAbove = false
    }
  }

  #writeHistory(index: number, expert: number, out: Float32Array, start: number): void {
    const { before, lately, long, usual } = this.#history
    const chance = this.#shape.topK / this.#shape.experts
    const own = (usual[expert] ?? 0) / chance
    const pairs = this.#pairs
    const row = this.#tokenRow
    out[start + Sign.before] = before[expert] ?? 0
    out[start + Sign.lately] = Math.log((lately[expert] ?? 0) / chance + leastShare)
    out[start + Sign.long] = Math.log((long[expert] ?? 0) / chance + leastShare)
    out[start + Sign.follows] = 0
    out[start + Sign.token] = 0
    if (pairs !== null) {
      const share = pairs.follows(this.#moeLayer, index, own * chance, this.#history) / chance
      out[start + Sign.follows] = Math.log((share + leastShare) / (own + leastShare))
    }
    if (row >= 0) {
      const share = this.#tokenPrior.share(row, index, own * chance) / chance
      out[start + Sign.token] = Math.log((share + leastShare) / (own + leastShare))
    }
  }
}

/** What is not a number counts as the farthest. */
function clipped(margin: number): number {
  return Number.isNaN(margin) ? -farthest : Math.max(-farthest, Math.min(farthest, margin))
}
