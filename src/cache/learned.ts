// Worth by what was learnt: how likely an expert is wanted soon, within as many tokens as the slots of
// a layer serve. A weighted sum of a few signs: how often it was used lately and for long, how near
// the router came to choosing it (near misses count), how long it has not been used, and what follows
// what (pairs.ts). The weights start as fitted beforehand and go on learning from what was then
// wanted. All layers share them, so they settle within a few tokens, and layers compare.
import { Followers } from './followers.js'
import type { Learnt } from './learnt.js'
import { Pairs } from './pairs.js'
import type { CacheShape } from './policy.js'
import { UseField } from './records.js'
import type { Worth } from './worth.js'

/** The signs of an expert, in this order. */
const Sign = {
  /** Logarithm of its uses in recent tokens, and in many. */
  usedLately: 0,
  usedLong: 1,
  /** Mean distance of its logit from that of the last expert chosen: recent tokens, many, this step. */
  nearLately: 2,
  nearLong: 3,
  near: 4,
  /** Logarithm of the tokens since its last use. */
  age: 5,
  /** Logarithm of how often it followed what is used now, relative to chance. */
  follows: 6,
  /** What pairs learnt of it. */
  pairs: 7,
  always: 8,
  count: 9,
} as const

/** Fitted on other sequences than those that figures are measured on. */
const fitted = [0, 0.24, 0.54, 0.56, 0.27, 0, 0.67, 1, 1.5]

/** What is kept of an average when a token passes. */
const kept = { usedLately: 0.8, usedLong: 0.98, nearLately: 0.9, nearLong: 0.99 }
/** Logarithms of shares begin here. */
const leastShare = 0.01
/** Logits farther from a choice say no more. */
const farthest = -6
const nearest = 3
const pace = 1
/** A use so many tokens ago and none at all are the same. */
const longAgo = 1000

export class Learned implements Worth {
  readonly name = 'learned'
  readonly #experts: number
  /** Tokens that count as soon. */
  readonly #soon: number
  readonly #followers: Followers
  readonly #pairs: Pairs
  /** [expert of the model] */
  readonly #usedLately: Float64Array
  readonly #usedLong: Float64Array
  readonly #near: Float64Array
  readonly #nearLately: Float64Array
  readonly #nearLong: Float64Array
  readonly #usedAt: Float64Array
  /** [MoE layer] tokens that have passed; when the lesson that is waiting was noted, or -1 */
  readonly #now: Float64Array
  readonly #noted: Float64Array
  /** [expert of the model][sign] when the lesson was noted */
  readonly #lessons: Float32Array
  readonly #weights = Float64Array.from(fitted)
  /** [MoE layer][sign] the weights when the layer routed */
  readonly #weightsThen: Float64Array
  /** [sign] of the expert in hand */
  readonly #signs = new Float32Array(Sign.count)
  /** [expert of the model] log-odds, and whether they were worked out since the layer routed */
  readonly #worths: Float64Array
  readonly #isWeighed: Uint8Array
  /** [sign] squares of all corrections, which make later ones smaller */
  readonly #corrected = new Float64Array(Sign.count).fill(1)
  readonly #follows: Float64Array
  readonly #paired: Float64Array
  /** [experts] of the layer in hand */
  readonly #errors: Float64Array
  readonly #best: Float64Array

  constructor({ moeLayers, experts, topK, slots }: CacheShape) {
    const all = moeLayers * experts
    this.#experts = experts
    this.#soon = Math.max(2, Math.round(slots / moeLayers / topK))
    this.#followers = new Followers(moeLayers, experts, topK)
    this.#pairs = new Pairs(moeLayers, experts, topK)
    this.#usedLately = new Float64Array(all)
    this.#usedLong = new Float64Array(all)
    this.#near = new Float64Array(all)
    this.#nearLately = new Float64Array(all)
    this.#nearLong = new Float64Array(all)
    this.#usedAt = new Float64Array(all).fill(-longAgo)
    this.#worths = new Float64Array(all)
    this.#isWeighed = new Uint8Array(all).fill(1)
    this.#weightsThen = new Float64Array(moeLayers * Sign.count)
    this.#now = new Float64Array(moeLayers)
    this.#noted = new Float64Array(moeLayers).fill(-1)
    this.#lessons = new Float32Array(all * Sign.count)
    this.#follows = new Float64Array(all)
    this.#paired = new Float64Array(all)
    this.#errors = new Float64Array(experts)
    this.#best = new Float64Array(topK)
  }

  /** Weights and what changes slowly. What follows what fills megabytes, and is soon learnt again. */
  get learnt(): Learnt {
    return {
      weights: this.#weights,
      corrected: this.#corrected,
      usedLong: this.#usedLong,
      nearLong: this.#nearLong,
    }
  }

  scored(moeLayer: number, probabilities: Float32Array): void {
    const first = moeLayer * this.#experts
    const last = this.#lastChosen(probabilities)
    for (let index = 0; index < this.#experts; index += 1) {
      const distance = logit(probabilities[index] ?? 0) - last
      this.#near[first + index] = Math.max(farthest, Math.min(nearest, distance))
    }
  }

  used(moeLayer: number, records: Int32Array, count: number, tokens: number): void {
    this.#pass(moeLayer, tokens)
    const lately = 1 - kept.usedLately ** tokens
    const long = 1 - kept.usedLong ** tokens
    for (let at = 0; at < count * UseField.count; at += UseField.count) {
      const expert = records[at + UseField.expert] ?? 0
      const share = (records[at + UseField.tokens] ?? 0) / tokens
      this.#usedAt[expert] = this.#now[moeLayer] ?? 0
      add(this.#usedLately, expert, lately * share)
      add(this.#usedLong, expert, long * share)
    }
    this.#pairs.used(moeLayer, records, count, tokens)
    this.#learn(moeLayer)
    this.#followers.used(moeLayer, records, count, tokens, this.#follows)
    this.#pairs.sum(moeLayer, this.#paired)
    this.#begin(moeLayer)
    if ((this.#noted[moeLayer] ?? 0) < 0) this.#note(moeLayer)
  }

  /** Log-odds. */
  of(expert: number): number {
    if (this.#isWeighed[expert] === 0) this.#weigh(expert)
    return this.#worths[expert] ?? 0
  }

  /** From 0 to 1. */
  chance(expert: number): number {
    return chanceOf(this.of(expert))
  }

  /** Logit of the last of the topK largest, near which choices are made. */
  #lastChosen(probabilities: Float32Array): number {
    const best = this.#best.fill(-1)
    const last = best.length - 1
    for (let index = 0; index < this.#experts; index += 1) {
      const probability = probabilities[index] ?? 0
      if (probability <= (best[last] ?? 0)) continue
      let at = last
      for (; at > 0 && (best[at - 1] ?? 0) < probability; at -= 1) best[at] = best[at - 1] ?? 0
      best[at] = probability
    }
    return logit(best[last] ?? 0)
  }

  #pass(moeLayer: number, tokens: number): void {
    const first = moeLayer * this.#experts
    add(this.#now, moeLayer, tokens)
    const lately = kept.usedLately ** tokens
    const long = kept.usedLong ** tokens
    const nearLately = kept.nearLately ** tokens
    const nearLong = kept.nearLong ** tokens
    for (let expert = first; expert < first + this.#experts; expert += 1) {
      const near = this.#near[expert] ?? 0
      this.#usedLately[expert] = lately * (this.#usedLately[expert] ?? 0)
      this.#usedLong[expert] = long * (this.#usedLong[expert] ?? 0)
      mixIn(this.#nearLately, expert, near, nearLately)
      mixIn(this.#nearLong, expert, near, nearLong)
    }
  }

  /** What was noted some tokens ago is compared with what was wanted since. */
  #learn(moeLayer: number): void {
    const noted = this.#noted[moeLayer] ?? -1
    const passed = (this.#now[moeLayer] ?? 0) - noted
    if (noted < 0 || passed < this.#soon) return
    this.#noted[moeLayer] = -1
    // Many tokens came at once: what they wanted says nothing of so short a time.
    if (passed > 2 * this.#soon) return
    const first = moeLayer * this.#experts
    for (let index = 0; index < this.#experts; index += 1) {
      this.#errors[index] = this.#correct(first + index, noted)
    }
    this.#pairs.learn(moeLayer, this.#errors)
  }

  /** Moves the weights by what came of an expert; returns what that was, less what had been expected. */
  #correct(expert: number, noted: number): number {
    const start = expert * Sign.count
    const wanted = (this.#usedAt[expert] ?? 0) > noted ? 1 : 0
    const error = wanted - chanceOf(sumOf(this.#lessons, start, this.#weights, 0))
    for (let sign = 0; sign < Sign.count; sign += 1) {
      const slope = error * (this.#lessons[start + sign] ?? 0)
      add(this.#corrected, sign, slope * slope)
      add(this.#weights, sign, (pace * slope) / Math.sqrt(this.#corrected[sign] ?? 1))
    }
    return error
  }

  /** Worths are others now, and are worked out by the weights of now. */
  #begin(moeLayer: number): void {
    const first = moeLayer * this.#experts
    this.#isWeighed.fill(0, first, first + this.#experts)
    for (let sign = 0; sign < Sign.count; sign += 1) {
      this.#weightsThen[moeLayer * Sign.count + sign] = this.#weights[sign] ?? 0
    }
  }

  #weigh(expert: number): void {
    const moeLayer = Math.floor(expert / this.#experts)
    this.#read(expert, moeLayer)
    this.#worths[expert] = sumOf(this.#signs, 0, this.#weightsThen, moeLayer * Sign.count)
    this.#isWeighed[expert] = 1
  }

  #note(moeLayer: number): void {
    const first = moeLayer * this.#experts
    for (let expert = first; expert < first + this.#experts; expert += 1) {
      this.#read(expert, moeLayer)
      for (let sign = 0; sign < Sign.count; sign += 1) {
        this.#lessons[expert * Sign.count + sign] = this.#signs[sign] ?? 0
      }
    }
    this.#pairs.note(moeLayer)
    this.#noted[moeLayer] = this.#now[moeLayer] ?? 0
  }

  /** The signs of an expert, as its layer left them when it routed. */
  #read(expert: number, moeLayer: number): void {
    const signs = this.#signs
    const now = this.#now[moeLayer] ?? 0
    signs[Sign.usedLately] = Math.log((this.#usedLately[expert] ?? 0) + leastShare)
    signs[Sign.usedLong] = Math.log((this.#usedLong[expert] ?? 0) + leastShare)
    signs[Sign.nearLately] = (this.#nearLately[expert] ?? 0) / 2
    signs[Sign.nearLong] = (this.#nearLong[expert] ?? 0) / 2
    signs[Sign.near] = (this.#near[expert] ?? 0) / 2
    signs[Sign.age] = Math.log(1 + now - (this.#usedAt[expert] ?? 0)) / 2
    signs[Sign.follows] = Math.log((this.#follows[expert] ?? 0) + leastShare)
    signs[Sign.pairs] = this.#paired[expert] ?? 0
    signs[Sign.always] = 1
  }
}

function sumOf(signs: Float32Array, start: number, weights: Float64Array, first: number): number {
  let sum = 0
  for (let sign = 0; sign < Sign.count; sign += 1) {
    sum += (weights[first + sign] ?? 0) * (signs[start + sign] ?? 0)
  }
  return sum
}

function chanceOf(logOdds: number): number {
  return 1 / (1 + Math.exp(-logOdds))
}

/** Probabilities of half precision end before 0 and 1. */
function logit(probability: number): number {
  const inside = Math.max(6e-8, Math.min(0.9995, probability))
  return Math.log(inside / (1 - inside))
}

function mixIn(averages: Float64Array, at: number, value: number, kept: number): void {
  averages[at] = kept * (averages[at] ?? 0) + (1 - kept) * value
}

function add(numbers: Float64Array, at: number, value: number): void {
  numbers[at] = (numbers[at] ?? 0) + value
}
