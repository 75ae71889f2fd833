// The slots that a policy is judged by. Hits are judged for all experts that a layer wants at once;
// the policy hears of all of them first, then those that are missing take slots in order. So it is
// stricter than an engine in nothing, and no device, no time and no failure is in it. Two kinds: slots
// and nothing else, per layer or in one pool; and the engine's own cache, where every read lands at once.
import { type LayerCounts, newLayerCounts } from '../cache/counts.js'
import { GhostCache } from '../cache/ghost.js'
import type { Expert } from '../cache/place.js'
import type { Policy } from '../cache/policy.js'
import { UseField } from '../cache/records.js'
import type { Contender } from './contender.js'
import { type Routing, type Visit, wantedAt } from './routing.js'

export interface Pool {
  /** A layer wants its experts. Returns how many of them lay in slots. */
  visit(visit: Visit): number
}

/** Equal numbers of slots for groups of experts: the layers, or all of them as one group. */
export class BarePool implements Pool {
  readonly #contender: Contender
  readonly #layersPerGroup: number
  readonly #slotsPerGroup: number
  /** [group] slots taken */
  readonly #held: Int32Array
  /** [expert of the model] */
  readonly #isIn: Uint8Array
  /** [expert of the model] the visit that wanted it last */
  readonly #wantedBy: Float64Array
  #now = 0
  readonly #isInSlot = (expert: Expert): boolean => this.#isIn[expert] === 1
  readonly #isUnwanted = (expert: Expert): boolean =>
    this.#isIn[expert] === 1 && this.#wantedBy[expert] !== this.#now

  constructor(routing: Routing, groups: number, slotsPerLayer: number, contender: Contender) {
    const layers = routing.layers.length
    this.#contender = contender
    this.#layersPerGroup = layers / groups
    this.#slotsPerGroup = slotsPerLayer * this.#layersPerGroup
    this.#held = new Int32Array(groups)
    this.#isIn = new Uint8Array(layers * routing.experts)
    this.#wantedBy = new Float64Array(layers * routing.experts)
    for (const expert of contender.preloaded ?? []) {
      this.#enter(Math.floor(expert / routing.experts / this.#layersPerGroup), expert)
    }
  }

  visit(visit: Visit): number {
    const group = Math.floor(visit.moeLayer / this.#layersPerGroup)
    const { count, uses, isSweep } = visit
    this.#now += 1
    let hits = 0
    for (let at = 0; at < count; at += 1) {
      const expert = wantedAt(visit, at)
      if (this.#isIn[expert] === 1) hits += 1
      this.#wantedBy[expert] = this.#now
    }
    this.#contender.used(group, uses, count, isSweep)
    for (let at = 0; hits < count && at < count; at += 1) {
      const expert = wantedAt(visit, at)
      if (this.#isIn[expert] === 0) this.#insert(group, expert)
    }
    return hits
  }

  #insert(group: number, expert: Expert): void {
    if ((this.#held[group] ?? 0) >= this.#slotsPerGroup && !this.#makeRoom(group, expert)) return
    this.#enter(group, expert)
  }

  #makeRoom(group: number, expert: Expert): boolean {
    const contender = this.#contender
    const passesBy = contender.admits !== undefined
    let victim = contender.victim(group, passesBy ? this.#isInSlot : this.#isUnwanted)
    // A layer that wants more than it has slots gives up what it has just used.
    if (victim < 0 && !passesBy) victim = contender.victim(group, this.#isInSlot)
    if (victim < 0) return false
    if (contender.admits?.(expert, victim as Expert) === false) return false
    this.#isIn[victim] = 0
    this.#held[group] = (this.#held[group] ?? 0) - 1
    contender.left(victim as Expert)
    return true
  }

  #enter(group: number, expert: Expert): void {
    this.#isIn[expert] = 1
    this.#held[group] = (this.#held[group] ?? 0) + 1
    this.#contender.entered(expert)
  }
}

/** One pool with the engine's floors, sweeps and waves. */
export class EnginePool implements Pool {
  readonly #ghost: GhostCache
  readonly #counts: LayerCounts
  readonly #experts: number

  constructor({ layers, experts, topK }: Routing, slotsPerLayer: number, policy: Policy) {
    const moeLayers = layers.length
    const slots = slotsPerLayer * moeLayers
    this.#counts = newLayerCounts(moeLayers)
    this.#ghost = new GhostCache({ moeLayers, experts, topK, slots }, policy, this.#counts)
    this.#experts = experts
  }

  visit({ moeLayer, uses, count, tokens }: Visit): number {
    const before = this.#hits(moeLayer)
    const records = uses.subarray(0, count * UseField.count)
    this.#ghost.used(records)
    const first = moeLayer * this.#experts
    const wanted = Int32Array.from(
      { length: count },
      (_, at) => (records[at * UseField.count] ?? 0) - first,
    )
    this.#ghost.place(moeLayer, wanted, tokens)
    return this.#hits(moeLayer) - before
  }

  /** Without those that a sweep's look-ahead brought: they were read for this visit. */
  #hits(moeLayer: number): number {
    const { hits, aheadHits } = this.#counts
    return (hits[moeLayer] ?? 0) - (aheadHits[moeLayer] ?? 0)
  }
}
