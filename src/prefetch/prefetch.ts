// Reading ahead: from what later layers will probably want to orders for the drive. At every stop the
// forecast of each distance is asked, near layers first; what pays at the price of the moment is read,
// and guesses that have become unlikely are called back. What the next layer will probably want and lies
// in a tier below that of its slots is copied ahead, weighed by the same price, in copies instead of reads.
// Which slot a guess gets, and who gives way, is the cache's business; whether any of this pays at all, the
// governor's.
import type { Expert } from '../cache/place.js'
import { forEachLayer, tokensOf, UseField } from '../cache/records.js'
import type { ForecastShape, Foresight } from './forecast.js'
import { Governor, type PrefetchMode } from './governor.js'
import { Pace, type StepTimes } from './pace.js'
import { Price } from './price.js'

/** What is asked of the cache. */
export interface Slots {
  holds(expert: Expert): boolean
  /** Whether the expert is on its way as a guess. */
  isGuess(expert: Expert): boolean
  /** Guesses that are on their way. */
  readonly guesses: number
  /** The expert gives way to no guess of this stop. */
  spare(expert: Expert): void
  /** That the expert which would give way for one of the layer is wanted again soon; 1: none can. */
  victimChance(moeLayer: number): number
  /** Whether the expert lies whole in a tier below, and is not on its way up. */
  isBelow(expert: Expert): boolean
  /** Copies of such experts that nobody waits for, and, as victimChance, who would give way to one. */
  readonly copiesAhead: number
  copyVictimChance(moeLayer: number): number
  ahead(experts: Int32Array, unlikely: Int32Array): Int32Array
}

/** Steps of more tokens do not look ahead: their experts are nearly all. The device has the same number. */
export const aheadTokensMost = 16

const none = new Int32Array(0)
/** Guesses on their way that are less likely than this are called back. */
const unlikelyBelow = 0.1
/** Below this nothing is weighed. */
const leastProbability = 0.15
/** What is at least so likely gives way to no guess. */
const sparedFrom = 0.05
/** Guesses at one stop. */
const guessesMost = 16

export class Prefetch {
  readonly governor: Governor
  readonly price = new Price()
  readonly pace: Pace
  readonly #shape: ForecastShape
  readonly #foresight: Foresight
  readonly #slots: Slots
  /** That a miss reads. */
  readonly expertBytes: number
  /** [distance][token][expert] room for early scores, filled by whoever asks. */
  readonly scores: Float32Array
  readonly #guesses = new Int32Array(guessesMost)
  readonly #unlikely: Int32Array
  /** [candidate] experts of a layer worth weighing, and their probabilities, best first */
  readonly #candidates: Int32Array
  readonly #chances: Float64Array
  /** [expert of the model] the probability with which it was guessed and its layer has not routed since */
  readonly #promised: Float32Array
  /** [MoE layer] such guesses */
  readonly #promises: Int32Array
  #guessCount = 0
  #unlikelyCount = 0
  #queuedReads = 0
  #queuedCopies = 0
  #isOn = false
  #tokens = 0

  readonly #isElsewhere = (expert: Expert): boolean => !this.#slots.holds(expert)
  readonly #isBelow = (expert: Expert): boolean => this.#slots.isBelow(expert)

  constructor(
    shape: ForecastShape,
    foresight: Foresight,
    slots: Slots,
    mode: PrefetchMode,
    expertBytes: number,
  ) {
    this.#shape = shape
    this.#foresight = foresight
    this.#slots = slots
    this.expertBytes = expertBytes
    this.governor = new Governor(mode)
    this.pace = new Pace(shape.moeLayers)
    this.scores = new Float32Array(shape.distances.length * aheadTokensMost * shape.experts)
    this.#unlikely = new Int32Array(shape.distances.length * shape.experts)
    this.#candidates = new Int32Array(shape.experts)
    this.#chances = new Float64Array(shape.experts)
    this.#promised = new Float32Array(shape.moeLayers * shape.experts)
    this.#promises = new Int32Array(shape.moeLayers)
  }

  /** A step of these tokens begins. Returns whether it looks ahead. */
  begin(ids: Int32Array): boolean {
    this.#foresight.begin(ids)
    this.#tokens = ids.length
    this.#isOn = ids.length <= aheadTokensMost && this.governor.isOn
    return this.#isOn
  }

  /** Orders for the first layers, which no early score reaches. */
  first(): Int32Array {
    this.#clear()
    const nearest = this.#shape.distances[0] ?? this.#shape.moeLayers
    for (let layer = 0; layer < nearest && layer < this.#shape.moeLayers; layer += 1) {
      const probabilities = this.#foresight.prior(layer)
      this.#mark(layer, probabilities)
      if (layer === 0) this.#considerCopies(layer, probabilities)
      this.#consider(layer, layer + 1, probabilities)
    }
    return this.#orders()
  }

  /** Orders at a stop in a layer, whose state gave `scores`, attended or not. */
  ahead(moeLayer: number, isAttended: boolean): Int32Array {
    this.#clear()
    const { distances, experts } = this.#shape
    const width = this.#tokens * experts
    for (let at = 0; at < distances.length; at += 1) {
      const distance = distances[at] ?? 1
      const target = moeLayer + distance
      if (target >= this.#shape.moeLayers) break
      const scores = this.scores.subarray(at * width, (at + 1) * width)
      const probabilities = this.#foresight.early(target, at, scores, this.#tokens, isAttended)
      this.#mark(target, probabilities)
      if (distance === 1) this.#considerCopies(target, probabilities)
      this.#consider(target, distance, probabilities)
    }
    return this.#orders()
  }

  /** What layers routed to, whole layers. */
  used(records: Int32Array): void {
    const { experts, topK } = this.#shape
    forEachLayer(records, experts, (moeLayer, of, count) => {
      this.#foresight.used(moeLayer, of, count, tokensOf(of, topK))
      this.#hold(moeLayer, of)
    })
  }

  /** The step is over. `usefulBytes`, `wastedBytes`: of what was read ahead in it. */
  end(times: StepTimes, usefulBytes: number, wastedBytes: number): void {
    if (this.#tokens > aheadTokensMost) return
    this.pace.took(times)
    this.price.pass()
    this.price.settled(usefulBytes / this.expertBytes, wastedBytes / this.expertBytes)
    this.governor.took(times.seconds)
  }

  #promise(expert: number, probability: number): void {
    this.#promised[expert] = probability
    const layer = Math.floor(expert / this.#shape.experts)
    this.#promises[layer] = (this.#promises[layer] ?? 0) + 1
  }

  /** What was promised of a layer's guesses, and what came true. */
  #hold(moeLayer: number, records: Int32Array): void {
    if (this.#promises[moeLayer] === 0) return
    const first = moeLayer * this.#shape.experts
    let hits = 0
    let promised = 0
    for (let at = 0; at < records.length; at += UseField.count) {
      if ((this.#promised[records[at + UseField.expert] ?? 0] ?? 0) > 0) hits += 1
    }
    for (let expert = first; expert < first + this.#shape.experts; expert += 1) {
      promised += this.#promised[expert] ?? 0
      this.#promised[expert] = 0
    }
    this.#promises[moeLayer] = 0
    this.price.kept(promised, hits)
  }

  #clear(): void {
    this.#guessCount = 0
    this.#unlikelyCount = 0
    this.#queuedReads = this.#slots.guesses
    this.#queuedCopies = this.#slots.copiesAhead
  }

  #orders(): Int32Array {
    if (this.#guessCount + this.#unlikelyCount === 0) return none
    return this.#slots.ahead(
      this.#guesses.subarray(0, this.#guessCount),
      this.#unlikely.subarray(0, this.#unlikelyCount),
    )
  }

  /** Weighs the experts of a layer that would have to be read, likeliest first, as long as they pay. */
  #consider(moeLayer: number, distance: number, probabilities: Float32Array): void {
    const count = this.#list(moeLayer, probabilities, this.#isElsewhere)
    if (count === 0) return
    const idleReads = (distance * this.pace.idleBytesPerLayer) / this.expertBytes
    const victimChance = this.#slots.victimChance(moeLayer)
    this.#queuedReads += this.#take(moeLayer, count, idleReads, this.#queuedReads, victimChance)
  }

  /** The same of those that lie in a tier below: all in units of a copy. */
  #considerCopies(moeLayer: number, probabilities: Float32Array): void {
    const idleCopies = this.pace.idleCopyBytesPerLayer / this.expertBytes
    if (idleCopies === 0) return
    const count = this.#list(moeLayer, probabilities, this.#isBelow)
    if (count === 0) return
    const victimChance = this.#slots.copyVictimChance(moeLayer)
    this.#queuedCopies += this.#take(moeLayer, count, idleCopies, this.#queuedCopies, victimChance)
  }

  /** Takes so many of the listed as pay, behind those that are queued; returns how many. */
  #take(
    moeLayer: number,
    count: number,
    idleReads: number,
    queued: number,
    victimChance: number,
  ): number {
    const first = moeLayer * this.#shape.experts
    let taken = 0
    for (; taken < count && this.#guessCount < guessesMost; taken += 1) {
      const offer = {
        probability: this.#chances[taken] ?? 0,
        idleReads,
        queuedReads: queued + taken,
        victimChance,
      }
      // Also where it is no number: what is not known to pay is not read.
      if (!(this.price.gain(offer) > 0)) break
      const expert = first + (this.#candidates[taken] ?? 0)
      this.#promise(expert, offer.probability)
      this.#guesses[this.#guessCount] = expert
      this.#guessCount += 1
    }
    return taken
  }

  /** Tells guesses that have become unlikely, and spares what is not. */
  #mark(moeLayer: number, probabilities: Float32Array): void {
    const first = moeLayer * this.#shape.experts
    for (let index = 0; index < probabilities.length; index += 1) {
      const probability = probabilities[index] ?? 0
      const expert = (first + index) as Expert
      if (probability < unlikelyBelow && this.#slots.isGuess(expert)) {
        this.#unlikely[this.#unlikelyCount] = expert
        this.#unlikelyCount += 1
      }
      if (probability >= sparedFrom) this.#slots.spare(expert)
    }
  }

  /** Lists the layer's likely experts that are so, likeliest first; returns how many. */
  #list(moeLayer: number, probabilities: Float32Array, isSo: (expert: Expert) => boolean): number {
    const first = moeLayer * this.#shape.experts
    let count = 0
    for (let index = 0; index < probabilities.length; index += 1) {
      const probability = probabilities[index] ?? 0
      if (probability < leastProbability || !isSo((first + index) as Expert)) continue
      let at = count
      for (; at > 0 && (this.#chances[at - 1] ?? 0) < probability; at -= 1) {
        this.#chances[at] = this.#chances[at - 1] ?? 0
        this.#candidates[at] = this.#candidates[at - 1] ?? 0
      }
      this.#chances[at] = probability
      this.#candidates[at] = index
      count += 1
    }
    return count
  }
}
