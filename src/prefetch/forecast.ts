// Which experts a layer will want, as probabilities, before it has routed: early scores of its own router
// where they reach it, and priors where they do not, weighed by one small logistic for each distance and
// band of layers. It learns from what layers then used. Must not know whether a read pays, what lies in
// slots, or any device. A call within a step allocates nothing.
import { type Learnt, recall, within } from '../cache/learnt.js'
import { UseField } from '../cache/records.js'
import { Evidence } from './evidence.js'
import { fitWeights, logistic } from './fit.js'
import { Lessons } from './lessons.js'
import type { RouterShape } from './margins.js'
import { Recall } from './recall.js'
import { Sign } from './signs.js'
import {
  bandOf,
  calibrationAt,
  corrected,
  firstWeights,
  leastProbability,
  Published,
  worthsAt,
} from './weights.js'

export interface ForecastShape extends RouterShape {
  readonly moeLayers: number
  /** Of early scores, in layers, rising. */
  readonly distances: readonly number[]
}

export interface Foresight {
  /** A step begins: the id of each token. */
  begin(ids: Int32Array): void
  /**
   * Probability [experts] that the target layer will want each expert in this step, from early scores
   * [tokens][experts] (sigmoid, before bias) that were made `distances[at]` layers before it,
   * `isAttended`: behind the attention of the next layer. Valid until the next call.
   */
  early(
    targetMoeLayer: number,
    at: number,
    scores: Float32Array,
    tokens: number,
    isAttended: boolean,
  ): Float32Array
  /** The same where no early score reaches: priors only. */
  prior(targetMoeLayer: number): Float32Array
  /** What a layer routed to: records of UseField, rising, `count` of them, in a step of so many tokens. A lesson. */
  used(moeLayer: number, records: Int32Array, count: number, tokens: number): void
}

export interface ForecastWishes {
  /** The router's bias [MoE layer][expert]; left out: it has none. */
  readonly bias?: Float32Array | null
  /** Learn within `begin` every so many tokens; left out: another thread does (learn.ts), or nobody. */
  readonly tokensPerFit?: number
}

/** What a learning thread needs. Plain data and shared memory, which cross to other threads. */
export interface ForecastMemory {
  readonly lessons: SharedArrayBuffer
  readonly weights: SharedArrayBuffer
  /** Kinds of estimates, and how many numbers the weights are. */
  readonly kinds: number
  readonly length: number
}

/** Experts of a layer that are weighed one by one, in units of those it chooses; the rest get the same. */
const candidatesPerChosen = 8
/** So many estimates of a kind become lessons in a step of one token. */
const lessonsPerStep = 2
/** How fast the share of experts that are wanted, and were no candidates, is followed. */
const restPace = 0.01
const firstRest = 0.002

export class Forecast implements Foresight {
  /** Of the estimates that became lessons: by distances in their order, then by priors. */
  readonly recall: Recall
  readonly #shape: ForecastShape
  /** Kind of estimates by priors alone; before it come distances, then distances attended. */
  readonly #priors: number
  readonly #evidence: Evidence
  readonly #lessons = new Lessons()
  readonly #published: Published
  readonly #weights: Float32Array
  #version: number
  readonly #tokensPerFit: number
  #tokensSinceFit = 0
  #tokens = 1
  /** [kind][MoE layer] estimates that wait for what the layer will use */
  readonly #waiting: readonly Waiting[]
  /** [kind] how many estimates there are, in this step and the last one */
  readonly #estimates: Int32Array
  readonly #estimatesBefore: Int32Array
  #estimatesEver = 0
  /** [kind] share of the experts that were no candidates that are wanted */
  readonly #rest: Float64Array
  /** [rank][Sign.count] of estimates that become no lesson */
  readonly #signs: Float32Array
  /** [expert] for one token; that no token so far wants it; that any does */
  readonly #one: Float32Array
  readonly #none: Float32Array
  readonly #any: Float32Array
  readonly #isUsed: Uint8Array

  constructor(shape: ForecastShape, { bias = null, tokensPerFit = 0 }: ForecastWishes = {}) {
    const { moeLayers, experts, topK, distances } = shape
    this.#shape = shape
    this.#priors = 2 * distances.length
    const candidates = Math.min(experts, candidatesPerChosen * topK)
    this.#evidence = new Evidence(shape, bias, candidates)
    this.#weights = firstWeights(distances, topK / experts)
    this.#published = new Published(this.#weights.length)
    this.#published.publish(this.#weights)
    this.#version = this.#published.version
    this.#tokensPerFit = tokensPerFit
    const kinds = this.#priors + 1
    this.#waiting = Array.from(
      { length: kinds * moeLayers },
      (_, at) => new Waiting(at < this.#priors * moeLayers ? candidates : experts),
    )
    this.recall = new Recall(distances.length + 1, topK)
    this.#estimates = new Int32Array(kinds)
    this.#estimatesBefore = new Int32Array(kinds)
    this.#rest = new Float64Array(kinds).fill(firstRest)
    this.#signs = new Float32Array(experts * Sign.count)
    this.#one = new Float32Array(experts)
    this.#none = new Float32Array(experts)
    this.#any = new Float32Array(experts)
    this.#isUsed = new Uint8Array(experts)
  }

  get distances(): readonly number[] {
    return this.#shape.distances
  }

  /** For a thread that learns; what it publishes is taken over by `begin`. */
  get memory(): ForecastMemory {
    const { length } = this.#weights
    const kinds = this.#priors + 1
    return { lessons: this.#lessons.memory, weights: this.#published.memory, kinds, length }
  }

  /**
   * Expected calibration error (0 to 1) of the candidates' probabilities at `distances[at]`, or after the
   * last of them that of priors; the larger one where there are both kinds; NaN until enough lessons
   * have been learned.
   */
  calibration(at: number): number {
    const { length } = this.#shape.distances
    const own = this.#weights[calibrationAt(at < length ? at : this.#priors)] ?? Number.NaN
    const attended = at < length ? this.#weights[calibrationAt(length + at)] : Number.NaN
    if (attended === undefined || Number.isNaN(attended)) return own
    return Number.isNaN(own) ? attended : Math.max(own, attended)
  }

  /** What can be kept for another run. */
  get learnt(): Learnt {
    return within('forecast', { weights: this.#weights, ...this.#evidence.learnt })
  }

  /** Goes on from what another run has kept. Returns whether it fits. */
  goOn(from: Learnt): boolean {
    if (!recall(this.learnt, from)) return false
    this.#published.publish(this.#weights)
    this.#version = this.#published.version
    return true
  }

  begin(ids: Int32Array): void {
    this.#evidence.begin(ids)
    this.#tokens = ids.length
    this.#estimatesBefore.set(this.#estimates)
    this.#estimates.fill(0)
    this.#takeOver()
    this.#tokensSinceFit += ids.length
    if (this.#tokensPerFit > 0 && this.#tokensSinceFit >= this.#tokensPerFit) this.#learnNow()
  }

  early(
    moeLayer: number,
    at: number,
    scores: Float32Array,
    tokens: number,
    isAttended: boolean,
  ): Float32Array {
    const kind = isAttended ? this.#shape.distances.length + at : at
    this.#none.fill(1)
    for (let token = 0; token < tokens; token += 1) {
      const count = this.#evidence.aim(moeLayer, at, scores, token)
      this.#estimate(kind, moeLayer, count, tokens)
    }
    if (tokens > 1) return this.#anyOf()
    this.#evidence.remember(moeLayer, at, this.#one)
    return this.#one
  }

  prior(moeLayer: number): Float32Array {
    this.#none.fill(1)
    for (let token = 0; token < this.#tokens; token += 1) {
      const count = this.#evidence.aimBlind(moeLayer, token)
      this.#estimate(this.#priors, moeLayer, count, this.#tokens)
    }
    return this.#tokens > 1 ? this.#anyOf() : this.#one
  }

  used(moeLayer: number, records: Int32Array, count: number, tokens: number): void {
    if (tokens === 1) this.#teach(moeLayer, records, count)
    this.#evidence.used(moeLayer, records, count, tokens)
  }

  /** One token's probabilities, and that no token so far wants an expert. */
  #estimate(kind: number, moeLayer: number, count: number, tokens: number): void {
    const waiting = tokens === 1 && this.#isLesson(kind) ? this.#waitingFor(kind, moeLayer) : null
    const signs = waiting?.signs ?? this.#signs
    const first = worthsAt(kind, bandOf(moeLayer, this.#shape.moeLayers))
    const { candidates } = this.#evidence
    this.#one.fill(Math.max(leastProbability, this.#rest[kind] ?? 0))
    for (let rank = 0; rank < count; rank += 1) {
      const start = rank * Sign.count
      this.#evidence.write(rank, signs, start)
      const raw = logistic(signs, start, this.#weights, first)
      this.#one[candidates[rank] ?? 0] = corrected(this.#weights, kind, raw)
    }
    waiting?.keep(this.#evidence.step, candidates, count, this.#one)
    if (tokens === 1) return
    for (let index = 0; index < this.#one.length; index += 1) {
      this.#none[index] = (this.#none[index] ?? 0) * (1 - (this.#one[index] ?? 0))
    }
  }

  #anyOf(): Float32Array {
    for (let index = 0; index < this.#any.length; index += 1) {
      this.#any[index] = 1 - (this.#none[index] ?? 0)
    }
    return this.#any
  }

  /** A few estimates of each step, drawn evenly. */
  #isLesson(kind: number): boolean {
    this.#estimates[kind] = (this.#estimates[kind] ?? 0) + 1
    this.#estimatesEver = (this.#estimatesEver + 1) >>> 0
    const drawn = mixed(this.#estimatesEver) / 2 ** 32
    return drawn * (this.#estimatesBefore[kind] ?? 0) < lessonsPerStep
  }

  /** What was thought of the layer in this step is compared with what it used. */
  #teach(moeLayer: number, records: Int32Array, count: number): void {
    const first = moeLayer * this.#shape.experts
    for (let at = 0; at < count; at += 1) {
      this.#isUsed[(records[at * UseField.count + UseField.expert] ?? 0) - first] = 1
    }
    for (let kind = 0; kind <= this.#priors; kind += 1) {
      const waiting = this.#waitingFor(kind, moeLayer)
      if (waiting.step === this.#evidence.step) this.#learn(kind, moeLayer, waiting, count)
      waiting.step = -1
    }
    this.#isUsed.fill(0)
  }

  #learn(kind: number, moeLayer: number, waiting: Waiting, used: number): void {
    const band = bandOf(moeLayer, this.#shape.moeLayers)
    const { length } = this.#shape.distances
    const row = kind === this.#priors ? length : kind % length
    let wanted = 0
    for (let rank = 0; rank < waiting.count; rank += 1) {
      if (!this.#note(kind, band, waiting, rank)) continue
      wanted += 1
      this.recall.found(row, likelierThan(waiting.told[rank] ?? 0, waiting))
    }
    this.recall.used(row, used)
    const others = this.#shape.experts - waiting.count
    if (others === 0) return
    const rest = this.#rest[kind] ?? 0
    this.#rest[kind] = rest + restPace * ((used - wanted) / others - rest)
  }

  /** Makes a lesson of the candidate of that rank. Returns whether it was wanted. */
  #note(kind: number, band: number, waiting: Waiting, rank: number): boolean {
    const isWanted = this.#isUsed[waiting.candidates[rank] ?? 0] === 1
    const told = waiting.told[rank] ?? 0
    this.#lessons.add(waiting.signs, rank * Sign.count, isWanted, kind, band, told)
    return isWanted
  }

  #takeOver(): void {
    if (this.#published.version !== this.#version) {
      this.#version = this.#published.take(this.#weights)
    }
  }

  #learnNow(): void {
    this.#tokensSinceFit = 0
    this.#published.publish(fitWeights(this.#lessons.latest(), this.#weights, this.#priors + 1))
    this.#takeOver()
  }

  #waitingFor(kind: number, moeLayer: number): Waiting {
    const waiting = this.#waiting[kind * this.#shape.moeLayers + moeLayer]
    if (waiting === undefined) throw new RangeError(`no MoE layer ${moeLayer} at distance ${kind}`)
    return waiting
  }
}

/** An estimate that waits for what its layer will use. */
class Waiting {
  step = -1
  count = 0
  /** [rank] index of the expert, its probability, its signs [Sign.count] */
  readonly candidates: Int32Array
  readonly told: Float32Array
  readonly signs: Float32Array

  /** `size`: candidates at most. */
  constructor(size: number) {
    this.candidates = new Int32Array(size)
    this.told = new Float32Array(size)
    this.signs = new Float32Array(size * Sign.count)
  }

  /** Its signs have been written already. */
  keep(step: number, candidates: Int32Array, count: number, probabilities: Float32Array): void {
    this.step = step
    this.count = count
    for (let rank = 0; rank < count; rank += 1) {
      const index = candidates[rank] ?? 0
      this.candidates[rank] = index
      this.told[rank] = probabilities[index] ?? 0
    }
  }
}

function likelierThan(told: number, waiting: Waiting): number {
  let count = 0
  for (let rank = 0; rank < waiting.count; rank += 1) {
    if ((waiting.told[rank] ?? 0) > told) count += 1
  }
  return count
}

/** 32 bits that all depend on all of the word's. */
function mixed(word: number): number {
  let bits = Math.imul(word ^ (word >>> 16), 0x85ebca6b)
  bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2ae35)
  return (bits ^ (bits >>> 16)) >>> 0
}
