// The policy `learned`: what is least likely to be wanted soon gives way. How likely is a weighted sum of
// a few signs, of each expert: how often it was used lately and for long, how near the router came to
// choosing it (near misses count), how long it has not been used, and how often it followed what is
// used now. The weights start as fitted beforehand and go on learning from what was then wanted: soon
// means within as many tokens as the slots of a layer serve. All layers share them, so they settle
// within a few tokens. Not the default: nothing in the engine gives it scores yet.
import { type Expert, expertOf } from './place.js'
import type { CacheShape, Policy } from './policy.js'
import { UseField } from './records.js'

/** The signs of an expert, in this order. */
const Sign = {
  /** Logarithm of its uses in recent tokens, and in many. */
  usedLately: 0,
  usedLong: 1,
  /** Mean distance of its logit from that of the last expert chosen: recent tokens, many, this one. */
  nearLately: 2,
  nearLong: 3,
  near: 4,
  /** Logarithm of the tokens since its last use. */
  age: 5,
  /** Logarithm of how often it followed what is used now, relative to chance. */
  follows: 6,
  always: 7,
  count: 8,
} as const

/** Fitted on other sequences than those that figures are measured on. */
const fitted = [0, 0.24, 0.54, 0.56, 0.27, 0, 0.67, 1.5]

/** What is kept of an average when a token passes. */
const kept = { usedLately: 0.8, usedLong: 0.98, nearLately: 0.9, nearLong: 0.99 }
/** Logarithms of shares begin here. */
const leastShare = 0.01
/** Logits farther from a choice say no more. */
const farthest = -6
const nearest = 3
/** One in so many visits teaches; a prime, so that all layers come to it. */
const lessonEvery = 7
const pace = 1
/** A use in a pair that was not seen yet. */
const unseen = 0.5

export class LearnedPolicy implements Policy {
  readonly name = 'learned'
  readonly #experts: number
  readonly #topK: number
  /** Tokens that count as soon. */
  readonly #soon: number
  /** [expert of the model] */
  readonly #usedLately: Float64Array
  readonly #usedLong: Float64Array
  readonly #near: Float64Array
  readonly #nearLately: Float64Array
  readonly #nearLong: Float64Array
  readonly #usedAt: Float64Array
  readonly #worth: Float64Array
  /** [MoE layer][expert before][expert after] times that one token's use followed another's */
  readonly #followed: Float32Array
  /** [expert of the model] uses that followed it */
  readonly #followers: Float64Array
  /** [MoE layer][topK] what the last token used, or -1 */
  readonly #before: Int32Array
  /** [MoE layer] tokens that have passed; when the lesson that is waiting was written down, or -1 */
  readonly #now: Float64Array
  readonly #noted: Float64Array
  /** [expert of the model][sign], now and when the lesson was written down */
  readonly #signs: Float32Array
  readonly #lessons: Float32Array
  readonly #weights = Float64Array.from(fitted)
  /** [sign] squares of all corrections, which make later ones smaller */
  readonly #corrected = new Float64Array(Sign.count).fill(1)
  readonly #follows: Float64Array
  readonly #best: Float64Array
  #visits = 0

  constructor({ moeLayers, experts, topK, slots }: CacheShape) {
    const all = moeLayers * experts
    this.#experts = experts
    this.#topK = topK
    this.#soon = Math.max(2, Math.round(slots / moeLayers / topK))
    this.#usedLately = new Float64Array(all)
    this.#usedLong = new Float64Array(all)
    this.#near = new Float64Array(all)
    this.#nearLately = new Float64Array(all)
    this.#nearLong = new Float64Array(all)
    this.#usedAt = new Float64Array(all).fill(-1000)
    this.#worth = new Float64Array(all)
    this.#followed = new Float32Array(all * experts).fill(unseen)
    this.#followers = new Float64Array(all).fill(unseen * experts)
    this.#before = new Int32Array(moeLayers * topK).fill(-1)
    this.#now = new Float64Array(moeLayers)
    this.#noted = new Float64Array(moeLayers).fill(-1)
    this.#signs = new Float32Array(all * Sign.count)
    this.#lessons = new Float32Array(all * Sign.count)
    this.#follows = new Float64Array(experts)
    this.#best = new Float64Array(topK)
  }

  /** The router's probabilities [experts] of a token in a layer, before `used` tells what it chose. */
  scored(moeLayer: number, probabilities: Float32Array): void {
    const first = moeLayer * this.#experts
    const last = this.#lastChosen(probabilities)
    for (let index = 0; index < this.#experts; index += 1) {
      const expert = first + index
      const near = Math.max(farthest, Math.min(nearest, logit(probabilities[index] ?? 0) - last))
      this.#near[expert] = near
      mixIn(this.#nearLately, expert, near, kept.nearLately)
      mixIn(this.#nearLong, expert, near, kept.nearLong)
    }
  }

  used(moeLayer: number, records: Int32Array, count: number): void {
    let uses = 0
    for (let at = 0; at < count; at += 1)
      uses += records[at * UseField.count + UseField.tokens] ?? 0
    const tokens = Math.max(1, Math.round(uses / this.#topK))
    this.#pass(moeLayer, tokens)
    for (let at = 0; at < count; at += 1) {
      const expert = records[at * UseField.count + UseField.expert] ?? 0
      const share = (records[at * UseField.count + UseField.tokens] ?? 0) / tokens
      this.#usedAt[expert] = this.#now[moeLayer] ?? 0
      add(this.#usedLately, expert, (1 - kept.usedLately ** tokens) * share)
      add(this.#usedLong, expert, (1 - kept.usedLong ** tokens) * share)
    }
    this.#pair(moeLayer, records, tokens === 1 ? Math.min(count, this.#topK) : 0)
    this.#learn(moeLayer)
    this.#weigh(moeLayer)
    this.#visits += 1
    if ((this.#noted[moeLayer] ?? 0) < 0 && this.#visits % lessonEvery === 0) this.#note(moeLayer)
  }

  entered(): void {}

  left(): void {}

  victim(moeLayer: number, mayLeave: (expert: Expert) => boolean): number {
    let victim = -1
    let least = Number.POSITIVE_INFINITY
    for (let index = 0; index < this.#experts; index += 1) {
      const expert = expertOf(moeLayer, index, this.#experts)
      const worth = this.#worth[expert] ?? 0
      if (worth < least && mayLeave(expert)) {
        victim = expert
        least = worth
      }
    }
    return victim
  }

  /** How likely the expert is wanted soon, beside others of its layer. */
  worth(expert: Expert): number {
    return this.#worth[expert] ?? 0
  }

  /** Logit of the last of the topK largest, near which choices are made. */
  #lastChosen(probabilities: Float32Array): number {
    const best = this.#best.fill(-1)
    const last = best.length - 1
    for (const probability of probabilities) {
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
    const [lately, long] = [kept.usedLately ** tokens, kept.usedLong ** tokens]
    for (let expert = first; expert < first + this.#experts; expert += 1) {
      this.#usedLately[expert] = lately * (this.#usedLately[expert] ?? 0)
      this.#usedLong[expert] = long * (this.#usedLong[expert] ?? 0)
    }
  }

  /** Counts what followed what, and sums for each expert how often it followed what is used now. */
  #pair(moeLayer: number, records: Int32Array, count: number): void {
    const experts = this.#experts
    const before = this.#before.subarray(moeLayer * this.#topK, (moeLayer + 1) * this.#topK)
    for (const earlier of count === 0 ? [] : before) {
      if (earlier < 0) continue
      for (let at = 0; at < count; at += 1) {
        const after = (records[at * UseField.count] ?? 0) - moeLayer * experts
        add(this.#followed, earlier * experts + after, 1)
      }
      add(this.#followers, earlier, count)
    }
    before.fill(-1)
    this.#follows.fill(count === 0 ? 1 : 0)
    for (let at = 0; at < count; at += 1) {
      const expert = records[at * UseField.count] ?? 0
      before[at] = expert
      const weight = experts / count / (this.#followers[expert] ?? 1)
      for (let after = 0; after < experts; after += 1) {
        add(this.#follows, after, weight * (this.#followed[expert * experts + after] ?? 0))
      }
    }
  }

  /** What was written down some tokens ago is compared with what was wanted since. */
  #learn(moeLayer: number): void {
    const noted = this.#noted[moeLayer] ?? -1
    if (noted < 0 || (this.#now[moeLayer] ?? 0) < noted + this.#soon) return
    this.#noted[moeLayer] = -1
    const first = moeLayer * this.#experts
    for (let expert = first; expert < first + this.#experts; expert += 1) {
      const start = expert * Sign.count
      const expected = 1 / (1 + Math.exp(-this.#sum(this.#lessons, start)))
      const error = ((this.#usedAt[expert] ?? 0) > noted ? 1 : 0) - expected
      for (let sign = 0; sign < Sign.count; sign += 1) {
        const slope = error * (this.#lessons[start + sign] ?? 0)
        add(this.#corrected, sign, slope * slope)
        add(this.#weights, sign, (pace * slope) / Math.sqrt(this.#corrected[sign] ?? 1))
      }
    }
  }

  #weigh(moeLayer: number): void {
    const first = moeLayer * this.#experts
    const now = this.#now[moeLayer] ?? 0
    const signs = this.#signs
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
      signs[start + Sign.always] = 1
      this.#worth[expert] = this.#sum(signs, start)
    }
  }

  #note(moeLayer: number): void {
    const width = this.#experts * Sign.count
    const start = moeLayer * width
    this.#lessons.set(this.#signs.subarray(start, start + width), start)
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

/** Probabilities of half precision end before 0 and 1. */
function logit(probability: number): number {
  const inside = Math.max(6e-8, Math.min(0.9995, probability))
  return Math.log(inside / (1 - inside))
}

function mixIn(averages: Float64Array, at: number, value: number, kept: number): void {
  averages[at] = kept * (averages[at] ?? 0) + (1 - kept) * value
}

function add(numbers: Float64Array | Float32Array, at: number, value: number): void {
  numbers[at] = (numbers[at] ?? 0) + value
}
