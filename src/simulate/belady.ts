// The bounds that know what comes. `belady`: what is used last in the future gives way, and what is
// used later than all that lies in slots passes by; nothing can hit more. `belady1` knows only what
// the next token wants, which is what a perfect prediction of one token could tell: what that wants
// stays, recency rules the rest.
import { LruPolicy } from '../cache/lru.js'
import type { Expert } from '../cache/place.js'
import type { CacheShape } from '../cache/policy.js'
import { UseField } from '../cache/records.js'
import type { Contender } from './contender.js'
import { type Future, never } from './future.js'
import { Heap } from './heap.js'

/** Room for every expert of the largest model in the lower part of a key. */
const experts = 2 ** 26

export class Belady implements Contender {
  readonly name = 'belady'
  readonly #future: Future
  readonly #perLayer: number
  /** [MoE layer] next use and expert in one number; entries that no longer hold are passed over */
  readonly #heaps: readonly Heap[]
  /** [expert of the model] */
  readonly #isIn: Uint8Array

  constructor(shape: CacheShape, future: Future) {
    this.#future = future
    this.#perLayer = shape.experts
    this.#heaps = Array.from({ length: shape.moeLayers }, () => new Heap())
    this.#isIn = new Uint8Array(shape.moeLayers * shape.experts)
  }

  used(_moeLayer: number, records: Int32Array, count: number): void {
    this.#future.pass(records, count, UseField.count)
    for (let at = 0; at < count * UseField.count; at += UseField.count) {
      const expert = records[at + UseField.expert] ?? 0
      if (this.#isIn[expert] === 1) this.#push(expert)
    }
  }

  entered(expert: Expert): void {
    this.#isIn[expert] = 1
    this.#push(expert)
  }

  left(expert: Expert): void {
    this.#isIn[expert] = 0
  }

  victim(moeLayer: number, mayLeave: (expert: Expert) => boolean): number {
    const heap = this.#heaps[moeLayer]
    if (heap === undefined) return -1
    while (heap.size > 0) {
      const key = heap.largest
      const expert = key % experts
      const isTrue = Math.floor(key / experts) === this.#future.nextUse(expert)
      if (isTrue && this.#isIn[expert] === 1 && mayLeave(expert as Expert)) return expert
      heap.pop()
    }
    return -1
  }

  admits(expert: Expert, victim: Expert): boolean {
    return this.#future.nextUse(expert) < this.#future.nextUse(victim)
  }

  #push(expert: number): void {
    const layer = Math.floor(expert / this.#perLayer)
    this.#heaps[layer]?.push(this.#future.nextUse(expert) * experts + expert)
  }
}

export class BeladyByToken extends LruPolicy implements Contender {
  override readonly name = 'belady1'
  readonly #future: Future

  constructor(shape: CacheShape, future: Future) {
    super(shape)
    this.#future = future
  }

  override used(moeLayer: number, records: Int32Array, count: number, isSweep: boolean): void {
    this.#future.pass(records, count, UseField.count)
    super.used(moeLayer, records, count, isSweep)
  }

  /** Where all that lies in slots is wanted next, any: what comes is then not admitted. */
  override victim(moeLayer: number, mayLeave: (expert: Expert) => boolean): number {
    const spared = (expert: Expert) => mayLeave(expert) && !this.#isWantedNext(expert)
    const victim = super.victim(moeLayer, spared)
    return victim >= 0 ? victim : super.victim(moeLayer, mayLeave)
  }

  admits(_expert: Expert, victim: Expert): boolean {
    return !this.#isWantedNext(victim)
  }

  #isWantedNext(expert: Expert): boolean {
    const next = this.#future.nextUse(expert)
    return next !== never && next <= this.#future.now + this.#future.stepVisits
  }
}
