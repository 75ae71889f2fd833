// Who stays in the slots of one tier: finds a slot for an expert of a layer, free or emptied of a
// victim. The layer that gives up an expert is chosen here, by floors; which of its experts, by a
// policy. Nothing leaves that is loading, that the layer in hand still wants, or that a tier above is
// being filled from.
import { decodeFloors, streamLeast, sweepFloors } from './floors.js'
import type { Expert } from './place.js'
import type { CacheShape, Policy } from './policy.js'
import { UseField } from './records.js'
import { SlotState, SlotTable } from './slots.js'
import { SweepPolicy } from './sweep.js'

export class Residents {
  readonly table: SlotTable
  readonly #policy: Policy
  readonly #sweep: SweepPolicy
  readonly #decodeFloors: Int32Array
  readonly #sweepFloors: Int32Array
  /** Experts that may be loading at once in place of some that the same visit has computed. */
  readonly decodeStream: number
  /** The same in sweeps: slots that no layer keeps. */
  readonly sweepStream: number
  /** Guesses that came to nothing, for whoever takes them away. */
  readonly wasted: Expert[] = []
  /** [MoE layer] experts given up */
  readonly #evictions: Float64Array
  /** [expert of the model] the call that wanted it last */
  readonly #wantedAt: Float64Array
  /** [expert of the model] the call in which it was said that no guess is worth it */
  readonly #sparedAt: Float64Array
  /** [expert of the model] whether it was loaded ahead and its layer has not routed since */
  readonly #awaited: Uint8Array
  readonly #awaitedOf: Int32Array
  /** [expert of the model] and [MoE layer]: the last routing that named it, the last of the layer */
  readonly #routedAt: Float64Array
  readonly #lastRouting: Float64Array
  /** [MoE layer] the search that found nothing to give up there */
  readonly #exhaustedAt: Float64Array
  readonly #experts: number
  #call = 0
  #search = 0
  #sparesAwaited = true
  #sparesPinned = false
  #isGuessing = false
  readonly #isLent: (expert: Expert) => boolean
  readonly #mayLeave = (expert: Expert): boolean =>
    this.table.stateOf(expert) === SlotState.ready &&
    !this.#isLent(expert) &&
    this.#wantedAt[expert] !== this.#call &&
    !(this.#sparesAwaited && this.#awaited[expert] === 1) &&
    !(this.#isGuessing && this.#sparedAt[expert] === this.#call) &&
    !(this.#sparesPinned && this.#policy.isPinned?.(expert) === true)

  /** `isLent`: whether the expert is being copied from here. */
  constructor(
    shape: CacheShape,
    policy: Policy,
    evictions: Float64Array,
    isLent: (expert: Expert) => boolean = () => false,
  ) {
    this.#isLent = isLent
    const { moeLayers, experts, topK, slots } = shape
    this.table = new SlotTable(slots, moeLayers, experts)
    this.#policy = policy
    this.#sweep = new SweepPolicy(shape, policy)
    this.#decodeFloors = policy.floors ?? decodeFloors(slots, moeLayers, topK)
    this.#sweepFloors = sweepFloors(slots, moeLayers)
    this.decodeStream = Math.max(streamLeast, topK)
    this.sweepStream = slots - this.#sweepFloors.reduce((sum, floor) => sum + floor, 0)
    this.#evictions = evictions
    this.#wantedAt = new Float64Array(moeLayers * experts)
    this.#sparedAt = new Float64Array(moeLayers * experts)
    this.#awaited = new Uint8Array(moeLayers * experts)
    this.#awaitedOf = new Int32Array(moeLayers)
    this.#exhaustedAt = new Float64Array(moeLayers)
    this.#routedAt = new Float64Array(moeLayers * experts).fill(-1)
    this.#lastRouting = new Float64Array(moeLayers)
    this.#experts = experts
  }

  /** A layer has routed: records [UseField.count], rising. */
  used(moeLayer: number, records: Int32Array, count: number, isSweep: boolean): void {
    this.#policy.used(moeLayer, records, count, isSweep)
    this.#sweep.used(moeLayer, records, count)
    const routing = (this.#lastRouting[moeLayer] ?? 0) + 1
    this.#lastRouting[moeLayer] = routing
    for (let at = 0; at < count * UseField.count; at += UseField.count) {
      this.#routedAt[records[at + UseField.expert] ?? 0] = routing
    }
    if (this.awaitedOf(moeLayer) > 0) this.#endAwaiting(moeLayer, routing)
  }

  /** Experts of the layer that are or were loading as guesses since it routed last. */
  awaitedOf(moeLayer: number): number {
    return this.#awaitedOf[moeLayer] ?? 0
  }

  isAwaited(expert: Expert): boolean {
    return this.#awaited[expert] === 1
  }

  /** What was wanted until now may leave again. */
  beginCall(): void {
    this.#call += 1
  }

  /** Until the next call the expert stays. */
  want(expert: Expert): void {
    this.#wantedAt[expert] = this.#call
  }

  /** Of a layer's experts that are so, the one that decode would give up first; -1: none is so. */
  least(moeLayer: number, isSo: (expert: Expert) => boolean): number {
    return this.#policy.victim(moeLayer, isSo)
  }

  /** Until the next call the expert gives way to no guess. */
  spare(expert: Expert): void {
    this.#sparedAt[expert] = this.#call
  }

  /** Gives the expert a slot, in which it is loading from now on. Returns it; -1: none can be had. */
  admit(expert: Expert, isSweep: boolean, isAhead: boolean): number {
    let slot = this.table.takeFree()
    if (slot < 0) slot = this.#emptySlot(this.table.layerOf(expert), isSweep, isAhead)
    if (slot >= 0) this.#enter(expert, slot, isAhead)
    return slot
  }

  /** The expert that would give way to a guess about the layer, or -1. */
  nextVictim(moeLayer: number): number {
    this.#sparesAwaited = true
    this.#sparesPinned = true
    this.#isGuessing = true
    return this.#victim(moeLayer, false, true)
  }

  /** Gives the expert a free slot, in which it loads and stays like any other. Returns it, or -1. */
  fill(expert: Expert): number {
    const slot = this.table.takeFree()
    if (slot < 0) return -1
    this.table.load(slot, expert, true)
    this.#policy.entered(expert)
    return slot
  }

  /** Gives the expert the slot of another that is ready, whoever wants that one. */
  replace(victim: Expert, expert: Expert): number {
    const slot = this.#giveUp(victim)
    this.#enter(expert, slot, false)
    return slot
  }

  /** The load came to nothing. */
  dropped(slot: number, expert: Expert): void {
    this.table.dropped(slot, expert)
    this.#policy.left(expert)
    this.#forgetAwaited(expert)
  }

  #endAwaiting(moeLayer: number, routing: number): void {
    const first = moeLayer * this.#experts
    for (let expert = first; expert < first + this.#experts; expert += 1) {
      if (this.#awaited[expert] !== 1) continue
      this.#awaited[expert] = 0
      if (this.#routedAt[expert] !== routing) this.wasted.push(expert as Expert)
    }
    this.#awaitedOf[moeLayer] = 0
  }

  #enter(expert: Expert, slot: number, isAhead: boolean): void {
    this.table.load(slot, expert, isAhead)
    this.#policy.entered(expert)
    if (!isAhead) return
    const layer = this.table.layerOf(expert)
    this.#awaited[expert] = 1
    this.#awaitedOf[layer] = (this.#awaitedOf[layer] ?? 0) + 1
  }

  #emptySlot(moeLayer: number, isSweep: boolean, isAhead: boolean): number {
    // While memory is still being touched, a slot is free sooner than what it displaced is read again.
    // A sweep goes on all the same: what it has computed it does not want again.
    if (this.table.cold > 0 && !isSweep) return -1
    this.#sparesAwaited = true
    this.#sparesPinned = isAhead
    this.#isGuessing = isAhead
    let victim = this.#victim(moeLayer, isSweep, isAhead)
    if (victim < 0 && !isAhead) {
      // Guesses that nobody has asked for yet stand behind what is wanted now.
      this.#sparesAwaited = false
      victim = this.#victim(moeLayer, isSweep, isAhead)
    }
    return victim < 0 ? -1 : this.#giveUp(victim as Expert)
  }

  /** A layer below its floor takes from those above theirs; at its floor it competes with itself. */
  #victim(moeLayer: number, isSweep: boolean, isAhead: boolean): number {
    const policy = isSweep ? this.#sweep : this.#policy
    const floors = isSweep ? this.#sweepFloors : this.#decodeFloors
    const isOwnFirst = !isSweep && (this.table.held[moeLayer] ?? 0) >= (floors[moeLayer] ?? 0)
    if (isOwnFirst) {
      const own = this.#ownVictim(moeLayer, isSweep)
      return own >= 0 ? own : this.#surplusVictim(moeLayer, policy, floors)
    }
    const surplus = this.#surplusVictim(moeLayer, policy, floors)
    // A sweep that looks ahead wants all of the next layer alike: nothing there gives way to a guess.
    if (surplus >= 0 || (isSweep && isAhead)) return surplus
    return this.#ownVictim(moeLayer, isSweep)
  }

  /**
   * When a layer wants more than it has slots, what it has computed gives way to what it computes next;
   * but only to a few at once, those that are used least, so that the best of it is there next time.
   */
  #ownVictim(moeLayer: number, isSweep: boolean): number {
    const victim = (isSweep ? this.#sweep : this.#policy).victim(moeLayer, this.#mayLeave)
    if (victim < 0) return -1
    const isOfThisVisit = this.#routedAt[victim] === this.#lastRouting[moeLayer]
    const stream = isSweep ? this.sweepStream : this.decodeStream
    return isOfThisVisit && this.table.loading >= stream ? -1 : victim
  }

  /** From the layer that is most above its floor and has something to give up. */
  #surplusVictim(moeLayer: number, policy: Policy, floors: Int32Array): number {
    this.#search += 1
    for (;;) {
      const layer = this.#mostSurplus(moeLayer, floors)
      if (layer < 0) return -1
      const victim = policy.victim(layer, this.#mayLeave)
      if (victim >= 0) return victim
      this.#exhaustedAt[layer] = this.#search
    }
  }

  #mostSurplus(except: number, floors: Int32Array): number {
    const { held } = this.table
    let most = 0
    let found = -1
    for (let layer = 0; layer < held.length; layer += 1) {
      const surplus = (held[layer] ?? 0) - (floors[layer] ?? 0)
      const isOpen = layer !== except && this.#exhaustedAt[layer] !== this.#search
      if (surplus > most && isOpen) {
        most = surplus
        found = layer
      }
    }
    return found
  }

  #giveUp(victim: Expert): number {
    const layer = this.table.layerOf(victim)
    this.#evictions[layer] = (this.#evictions[layer] ?? 0) + 1
    this.#policy.left(victim)
    this.#forgetAwaited(victim)
    return this.table.evict(victim)
  }

  #forgetAwaited(expert: Expert): void {
    if (this.#awaited[expert] !== 1) return
    this.#awaited[expert] = 0
    const layer = this.table.layerOf(expert)
    this.#awaitedOf[layer] = (this.#awaitedOf[layer] ?? 0) - 1
  }
}
