// How well is foreseen what layers want: walks a trace as an engine would, asks the forecaster the
// engine uses before each layer routes, and counts how much of what was then chosen is among its first
// candidates; beside it, the same of simpler guesses. What is judged has not been learned yet. Must not
// know of slots and time.
import { UseField } from '../cache/records.js'
import { Forecast, type ForecastShape } from '../prefetch/forecast.js'
import { Reliability } from '../prefetch/reliability.js'
import { Shortlist } from '../prefetch/shortlist.js'
import { Guesses } from './foresightguesses.js'
import type { Routers } from './foresightrouter.js'
import { Tally } from './foresighttally.js'
import { type Routing, type Visit, walk } from './routing.js'
import { ScoreReader } from './scores.js'

/** A way to guess, at a distance in layers; null: it goes by the token before, or by priors. */
export interface Foreseen {
  readonly guess:
    | 'control'
    | 'forecast'
    | 'gate'
    | 'attended'
    | 'attended gate'
    | 'transition'
    | 'prior'
    | 'previous'
  readonly distance: number | null
  readonly tally: Tally
  /** Of its probabilities; null where there are none. */
  readonly reliability: Reliability | null
}

/** Candidates are counted up to 4 times topK; probabilities for 8 times, as many as the forecaster weighs. */
const reliedPerChosen = 8
const tokensPerFit = 128

/** `tokenIds`: [token of the trace], -1 where unknown. Throws ModelError when scores cannot be read. */
export function foresee(routing: Routing, tokenIds: Int32Array, routers: Routers): Foreseen[] {
  const reader =
    routing.scores === null
      ? null
      : new ScoreReader(routing.scores, routing.layers.length, routing.experts)
  const watched = (isAttended: boolean) => {
    const watch = new Watch(routing, tokenIds, routers, reader, isAttended)
    walk(routing, (visit) => watch.visit(visit))
    return watch
  }
  const rows = watched(false).foreseen()
  if (reader?.isAttended) rows.push(...watched(true).foreseenAhead())
  reader?.close()
  return rows
}

class Watch {
  readonly #routing: Routing
  readonly #tokenIds: Int32Array
  readonly #reader: ScoreReader | null
  readonly #forecast: Forecast
  readonly #guesses: Guesses
  readonly #distances: readonly number[]
  /** [distance] what was thought of each layer */
  readonly #early: readonly Thought[]
  readonly #prior: Thought
  readonly #gates: readonly Thought[]
  readonly #control: Foreseen
  readonly #previous: Foreseen
  readonly #transitions: readonly Foreseen[]
  readonly #scores: Float32Array
  readonly #shortlist: Shortlist
  /** [expert] its share in what the layer adds, of a token */
  readonly #weights: Float32Array
  readonly #isAttended: boolean
  #token = -1

  constructor(
    routing: Routing,
    tokenIds: Int32Array,
    routers: Routers,
    reader: ScoreReader | null,
    /** Scores are those behind the next layer's attention. */
    isAttended: boolean,
  ) {
    this.#isAttended = isAttended
    const { layers, experts, topK } = routing
    const distances = (reader?.ahead ?? []).filter((distance) => distance < layers.length)
    const shape: ForecastShape = { moeLayers: layers.length, experts, topK, distances, ...routers }
    this.#routing = routing
    this.#tokenIds = tokenIds
    this.#reader = reader
    this.#distances = distances
    this.#forecast = new Forecast(shape, { bias: routers.bias, tokensPerFit })
    this.#guesses = new Guesses(shape, routers.bias)
    const row = (guess: Foreseen['guess'], distance: number | null = null): Foreseen => ({
      guess,
      distance,
      tally: new Tally(layers.length, topK),
      reliability: isForecast(guess) ? new Reliability() : null,
    })
    const thought = (guess: Foreseen['guess'], distance: number | null = null) =>
      new Thought(row(guess, distance), layers.length, reliedPerChosen * topK)
    this.#early = distances.map((distance) =>
      thought(isAttended ? 'attended' : 'forecast', distance),
    )
    this.#gates = distances.map((distance) =>
      thought(isAttended ? 'attended gate' : 'gate', distance),
    )
    this.#prior = thought('prior')
    this.#control = row('control', 0)
    this.#previous = row('previous')
    const gaps = distances.length > 0 ? distances : [1]
    this.#transitions = gaps.map((gap) => row('transition', gap))
    this.#scores = new Float32Array(experts)
    this.#weights = new Float32Array(experts)
    this.#shortlist = new Shortlist(Math.min(experts, 4 * topK))
  }

  /** By early scores only. */
  foreseenAhead(): Foreseen[] {
    return [...this.#early, ...this.#gates].map(({ row }) => row)
  }

  foreseen(): Foreseen[] {
    return [
      ...(this.#reader === null ? [] : [this.#control]),
      ...this.#early.map(({ row }) => row),
      ...this.#gates.map(({ row }) => row),
      ...this.#transitions,
      this.#prior.row,
      this.#previous,
    ]
  }

  visit(visit: Visit): void {
    const { firstToken, tokens, isPrompt } = visit
    // A prompt whose layers take one token after another is not how an engine goes.
    if (isPrompt && !this.#routing.isPromptJoint) return
    if (firstToken !== this.#token) {
      this.#token = firstToken
      this.#forecast.begin(this.#tokenIds.subarray(firstToken, firstToken + tokens))
      this.#guesses.begin()
    }
    if (!isPrompt) this.#judge(visit)
    this.#forecast.used(visit.moeLayer, visit.uses, visit.count, tokens)
    this.#guesses.used(visit.moeLayer, visit.uses, visit.count, tokens)
    if (!isPrompt) this.#think(visit)
  }

  /** Compares what the layer wants with what was thought of it. */
  #judge(visit: Visit): void {
    const { moeLayer } = visit
    this.#weigh(visit)
    for (const thought of [...this.#early, ...this.#gates]) {
      thought.judge(visit, this.#weights)
    }
    this.#prior.keep(moeLayer, this.#token, this.#forecast.prior(moeLayer))
    this.#prior.judge(visit, this.#weights)
    const judge = ({ tally }: Foreseen, values: Float32Array | null) => {
      if (values === null) return
      const count = this.#shortlist.pick(values)
      tally.add(moeLayer, this.#shortlist.indices.subarray(0, count), this.#weights)
    }
    if (this.#reader !== null) judge(this.#control, this.#guesses.gate(this.#scores, moeLayer))
    judge(this.#previous, this.#guesses.previous(moeLayer))
    for (const row of this.#transitions) {
      judge(row, this.#guesses.transition(moeLayer, row.distance ?? 1))
    }
  }

  /** What this layer's state says of the layers after it, the farthest first. */
  #think({ moeLayer, firstToken }: Visit): void {
    for (let at = this.#distances.length - 1; at >= 0; at -= 1) {
      const target = moeLayer + (this.#distances[at] ?? 0)
      if (target >= this.#routing.layers.length) continue
      if (this.#isAttended) this.#reader?.readAttended(firstToken, moeLayer, at, this.#scores)
      else this.#reader?.readAhead(firstToken, moeLayer, at, this.#scores)
      const probabilities = this.#forecast.early(target, at, this.#scores, 1, this.#isAttended)
      this.#early[at]?.keep(target, firstToken, probabilities)
      this.#gates[at]?.keep(target, firstToken, this.#guesses.gate(this.#scores, target))
    }
  }

  /** The shares of the experts that the token chose; those of others are 0. Without scores all are the same. */
  #weigh({ moeLayer, firstToken, uses, count }: Visit): void {
    this.#reader?.read(firstToken, moeLayer, this.#scores)
    this.#weights.fill(0)
    for (let at = 0; at < count; at += 1) {
      const index = (uses[at * UseField.count] ?? 0) - moeLayer * this.#routing.experts
      this.#weights[index] = this.#reader === null ? 1 : (this.#scores[index] ?? 0)
    }
  }
}

function isForecast(guess: Foreseen['guess']): boolean {
  return guess === 'forecast' || guess === 'attended' || guess === 'prior'
}

/** What was thought of each layer at one distance, best candidates first, until the layer is judged. */
class Thought {
  /** [MoE layer] the token of which it was thought, and how many candidates there are */
  readonly #token: Int32Array
  readonly #count: Int32Array
  /** [MoE layer][most] */
  readonly #ranked: Int32Array
  readonly #shortlist: Shortlist
  readonly #probabilities: Float32Array

  constructor(
    readonly row: Foreseen,
    moeLayers: number,
    private readonly most: number,
  ) {
    this.#token = new Int32Array(moeLayers).fill(-1)
    this.#count = new Int32Array(moeLayers)
    this.#ranked = new Int32Array(moeLayers * most)
    this.#shortlist = new Shortlist(most)
    this.#probabilities = new Float32Array(moeLayers * most)
  }

  /** `values` [expert]: the larger the likelier. */
  keep(moeLayer: number, token: number, values: Float32Array): void {
    const first = moeLayer * this.most
    const count = this.#shortlist.pick(values)
    for (let at = 0; at < count; at += 1) {
      const index = this.#shortlist.indices[at] ?? 0
      this.#ranked[first + at] = index
      this.#probabilities[first + at] = values[index] ?? 0
    }
    this.#token[moeLayer] = token
    this.#count[moeLayer] = count
  }

  /** `weights` [expert]: above 0 where the token chose it. Nothing happens where nothing was thought. */
  judge({ moeLayer, firstToken }: Visit, weights: Float32Array): void {
    if (this.#token[moeLayer] !== firstToken) return
    const first = moeLayer * this.most
    const count = this.#count[moeLayer] ?? 0
    const ranked = this.#ranked.subarray(first, first + count)
    this.row.tally.add(moeLayer, ranked, weights)
    for (let at = 0; at < count; at += 1) {
      const isWanted = (weights[ranked[at] ?? 0] ?? 0) > 0
      this.row.reliability?.add(this.#probabilities[first + at] ?? 0, isWanted)
    }
  }
}
