// The policy `auto`, and the default: several rules say what an expert is worth in a slot, and whichever
// would have missed least of late chooses who leaves (choice.ts). Recency suits plenty of slots,
// frequency few, probability and what was learnt most between. Where the learned rule rules, its worths
// compare between layers, and slots move to the layers that gain by them (quotas.ts); under the others
// all layers keep equal shares. Sweeps are another policy's (sweep.ts), but all rules hear of them.
import { Average } from './average.js'
import { Choice } from './choice.js'
import { Learned } from './learned.js'
import { type Learnt, within } from './learnt.js'
import type { Expert } from './place.js'
import type { CacheShape, Policy } from './policy.js'
import { Quotas } from './quotas.js'
import { Recency } from './recency.js'
import { tokensOf } from './records.js'

/** What averages keep of a token when the next has come: of uses, half after ten; of probabilities. */
const usesKept = 0.93
const probabilitiesKept = [0.8, 0.9, 0.95, 0.97]

export class AutoPolicy implements Policy {
  readonly name = 'auto'
  /** [MoE layer] */
  readonly floors: Int32Array
  readonly learnt: Learnt
  readonly #experts: number
  readonly #topK: number
  readonly #learned: Learned
  readonly #choice: Choice
  readonly #quotas: Quotas

  constructor(shape: CacheShape) {
    const { moeLayers, experts, topK, slots } = shape
    const others = [
      new Recency(moeLayers, experts),
      new Average(moeLayers, experts, usesKept, 'uses'),
      ...probabilitiesKept.map((kept) => new Average(moeLayers, experts, kept, 'probabilities')),
    ]
    this.#experts = experts
    this.#topK = topK
    this.#learned = new Learned(shape)
    this.#choice = new Choice(this.#learned, others, moeLayers, experts, slots)
    this.#quotas = new Quotas(shape)
    this.floors = this.#quotas.floors
    this.learnt = within('eviction', this.#learned.learnt)
  }

  get ruling(): string {
    return this.#choice.ruling.name
  }

  scored(moeLayer: number, probabilities: Float32Array): void {
    this.#choice.scored(moeLayer, probabilities)
  }

  used(moeLayer: number, records: Int32Array, count: number, isSweep: boolean): void {
    const before = this.#choice.ruling
    this.#choice.used(moeLayer, records, count, tokensOf(records, this.#topK, count), isSweep)
    const { ruling } = this.#choice
    if (ruling !== before) this.#begin()
    if (ruling === this.#learned && !isSweep) {
      this.#quotas.trade(moeLayer, records, count, ruling)
    }
  }

  entered(expert: Expert): void {
    this.#quotas.entered(expert)
  }

  left(expert: Expert): void {
    this.#quotas.left(expert)
  }

  victim(moeLayer: number, mayLeave: (expert: Expert) => boolean): number {
    const worth = this.#choice.ruling
    const first = moeLayer * this.#experts
    let victim = -1
    let least = Number.POSITIVE_INFINITY
    for (let expert = first; expert < first + this.#experts; expert += 1) {
      if (!mayLeave(expert as Expert)) continue
      const of = worth.of(expert)
      if (of >= least) continue
      least = of
      victim = expert
    }
    return victim
  }

  chance(expert: Expert): number {
    return this.#learned.chance(expert)
  }

  /** Another rule has taken over. */
  #begin(): void {
    if (this.#choice.ruling === this.#learned) this.#quotas.look(this.#learned)
    else this.#quotas.level()
  }
}
