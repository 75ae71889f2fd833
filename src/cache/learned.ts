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
  /** Log-odds. */
  readonly of: Float64Array
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
  /** [expert of the model][sign], now and when the lesson was noted */
  readonly #signs: Float32Array
  readonly #lessons: Float32Array
  readonly #weights = Float64Array.from(fitted)
  /** [sign] squares of all corrections, which make later ones smaller */
  readonly #corrected = new Float64Array(Sign.count).fill(1)
  /** [experts] of the layer in hand */
  readonly #follows: Float64Array
  readonly #paired: Float64Array
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
    this.of = new Float64Array(all)
    this.#now = new Float64Array(moeLayers)
    this.#noted = new Float64Array(moeLayers).fill(-1)
    this.#signs = new Float32Array(all * Sign.count)
    this.#lessons = new Float32Array(all * Sign.count)
    this.#follows = new Float64Array(experts)
    this.#paired = new Float64Array(experts)
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
    for (let at = 0; at < count * UseField.count; at += UseField.count) {
      const expert = records[at + UseField.expert] ?? 0
      const share = (records[at + UseField.tokens] ?? 0) / tokens
      this.#usedAt[expert] = this.#now[moeLayer] ?? 0
      add(this.#usedLately, expert, (1 - kept.usedLately ** tokens) * share)
      add(this.#usedLong, expert, (1 - kept.usedLong ** tokens) * share)
    }
    this.#followers.used(moeLayer, records, count, tokens, this.#follows)
    this.#pairs.used(moeLayer, records, count, tokens)
    this.#learn(moeLayer)
    this.#weigh(moeLayer)
    if ((this.#noted[moeLayer] ?? 0) < 0) this.#note(moeLayer)
  }

  /** From 0 to 1. */
  chance(expert: number): number {
    return chanceOf(this.of[expert] ?? 0)
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
      const start = (first + index) * Sign.count
      const wanted = (this.#usedAt[first + index] ?? 0) > noted ? 1 : 0
      const error = wanted - chanceOf(this.#sum(this.#lessons, start))
      this.#errors[index] = error
      for (let sign = 0; sign < Sign.count; sign += 1) {
        const slope = error * (this.#lessons[start + sign] ?? 0)
        add(this.#corrected, sign, slope * slope)
        add(this.#weights, sign, (pace * slope) / Math.sqrt(this.#corrected[sign] ?? 1))
      }
    }
    this.#pairs.learn(moeLayer, this.#errors)
  }

  #weigh(moeLayer: number): void {
    const first = moeLayer * this.#experts
    const now = this.#now[moeLayer] ?? 0
    const signs = this.#signs
    this.#pairs.sum(moeLayer, this.#paired)
    for (let index = 0; index < this.#experts; index += 1) {
      const expert = first + index
      const start = expert * Sign.count
      signs[start + Sign.usedLately] = Math.log((this.#usedLately[expert] ?? 0) + leastShare)
      signs[start + Sign.usedLong] = Math.log((this.#usedLong[expert] ?? 0) + leastShare)
      signs[start + Sign.nearLately] = (this.#nearLately[expert] ?? 0) / 2
      signs[start + Sign.nearLong] = (this.#nearLong[expert] ?? 0) / 2
      signs[start + Sign.near] = (this.#near[expert] ?? 0) / 2
      signs[start + Sign.age] = Math.log(1 + now - (this.#usedAt[expert] ?? 0)) / 2
      signs[start + Sign.follows] = Math.log((this.#follows[index] ?? 0) + leastShare)
      signs[start + Sign.pairs] = this.#paired[index] ?? 0
      signs[start + Sign.always] = 1
      this.of[expert] = this.#sum(signs, start)
    }
  }

  #note(moeLayer: number): void {
    const width = this.#experts * Sign.count
    const start = moeLayer * width
    for (let at = start; at < start + width; at += 1) this.#lessons[at] = this.#signs[at] ?? 0
    this.#pairs.note(moeLayer)
    this.#noted[moeLayer] = this.#now[moeLayer] ?? 0
  }

  #sum(signs: Float32Array, start: number): number {
    let sum = 0
    for (let sign = 0; sign < Sign.count; sign += 1) {
      sum += (this.#weights[sign] ?? 0) * (signs[start + sign] ?? 0)
    }
    return sum
  }
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
