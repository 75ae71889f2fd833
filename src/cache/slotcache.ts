// The cache of slots over disk: hits where they lie, misses into free slots or those of victims, in
// waves when slots are fewer than a layer wants. One conversation with one device: it hears of uses and
// events, and answers `place` with places and orders. Where a tier lies below the slots that are computed
// with (below.ts), what lies there is copied, or computed where it lies (sharing.ts), and reads go through it.
import type { TierParts } from './below.js'
import type { Cache, Plan } from './cache.js'
import { Certain } from './certain.js'
import type { LayerCounts } from './counts.js'
import { type Expert, expertOf, nowhere, Tier } from './place.js'
import type { CacheShape, Policy } from './policy.js'
import { forEachLayer, tokensOf, UseField } from './records.js'
import type { Residents } from './residents.js'
import type { Sharing } from './sharing.js'
import { SlotState, type SlotTable } from './slots.js'
import { Supply } from './supply.js'

/** Steps of more tokens are sweeps, and take the experts of a layer in rising index. */
export const unorderedTokens = 128
/** In steps of more tokens no expert is computed where it lies below. The device has the same number. */
export const sharedTokens = 16
/** Steps of more tokens know of some experts of the next layer that they will be wanted. */
export const manyTokens = 16

const noScores = new Float32Array(0)
const none = new Int32Array(0)

export class SlotCache implements Cache {
  readonly #shape: CacheShape
  readonly #supply: Supply
  readonly #residents: Residents
  readonly #table: SlotTable
  readonly #certain: Certain
  readonly #places: Int32Array
  /** [wanted] whether it was ordered by this very call */
  readonly #isNew: Uint8Array
  /** [expert of the layer in hand] whether it lies in a slot and is computed by a later call */
  readonly #waits: Uint8Array
  readonly #sharing: Sharing | null
  #firstExpert = 0
  readonly #isWaiting = (expert: Expert): boolean => this.#waits[expert - this.#firstExpert] === 1
  /** The layer whose experts were kept or placed last. */
  #moeLayer = 0
  /** Of the step in hand and of the one before it. */
  #stepTokens = 0
  #lastStepTokens = 0
  /** [MoE layer][experts] router's probabilities of the last routing; none where nobody gives them. */
  readonly #scores: readonly Float32Array[]

  /**
   * `scores`: [MoE layer][experts], as every layer's router had them when it last routed. `tier`: where the
   * slots lie, which makes no difference but to the places. `below`: slots in RAM that those are filled from.
   * `sharing`: how many of a layer's experts are computed there; null: none.
   */
  constructor(
    shape: CacheShape,
    readonly policy: Policy,
    counts: LayerCounts,
    scores: Float32Array | null = null,
    tier: Tier = Tier.ram,
    below: TierParts | null = null,
    sharing: Sharing | null = null,
  ) {
    this.#shape = shape
    this.#sharing = sharing
    this.#supply = new Supply(shape, policy, counts, tier, below)
    this.#residents = this.#supply.residents
    this.#table = this.#supply.table
    this.#certain = new Certain(shape.moeLayers, shape.experts)
    this.#places = new Int32Array(shape.experts)
    this.#isNew = new Uint8Array(shape.experts)
    this.#waits = new Uint8Array(shape.experts)
    const rows = scores === null ? 0 : shape.moeLayers
    this.#scores = Array.from({ length: rows }, (_, layer) =>
      (scores ?? noScores).subarray(layer * shape.experts, (layer + 1) * shape.experts),
    )
  }

  used(records: Int32Array): void {
    forEachLayer(records, this.#shape.experts, (moeLayer, of, count) => {
      for (let at = 0; at < of.length; at += UseField.count)
        this.#supply.count((of[at + UseField.expert] ?? 0) as Expert)
      const tokens = tokensOf(of, this.#shape.topK)
      if (tokens > manyTokens) this.#certain.add(moeLayer, of, tokens)
      if (moeLayer === 0) {
        this.#lastStepTokens = this.#stepTokens
        this.#stepTokens = tokens
      }
      const isSweep = tokens > unorderedTokens
      this.#supply.used(moeLayer, of, count, isSweep, this.#scores[moeLayer])
    })
  }

  settle(events: Int32Array): void {
    this.#supply.settle(events)
  }

  place(moeLayer: number, wanted: Int32Array, stepTokens: number): Plan {
    this.#supply.orders.clear()
    this.#supply.withdrawWasted()
    this.keep(moeLayer, wanted)
    if (stepTokens > unorderedTokens) this.#placeInOrder(moeLayer, wanted)
    else this.#placeAny(moeLayer, wanted, stepTokens)
    return { places: this.#places.subarray(0, wanted.length), orders: this.#supply.orders.records }
  }

  /** Nothing is placed, but until the next call these experts of a layer stay where they are. */
  keep(moeLayer: number, wanted: Int32Array): void {
    this.#moeLayer = moeLayer
    this.#supply.beginCall()
    for (const index of wanted) this.#supply.want(this.#expert(moeLayer, index))
  }

  /** Until the next call the expert gives way to no guess: it is probably wanted itself. */
  spare(expert: Expert): void {
    this.#supply.spare(expert)
  }

  /** Whether the expert lies in memory or is on its way there. */
  holds(expert: Expert): boolean {
    return this.#supply.isAnywhere(expert)
  }

  /** Whether the expert lies in a slot, whole. */
  isReady(expert: Expert): boolean {
    return this.#table.stateOf(expert) === SlotState.ready
  }

  /** How many of a layer's experts have to be read, or are being read. */
  missing(moeLayer: number, wanted: Int32Array): number {
    let count = 0
    for (const index of wanted)
      if (this.#supply.isMissing(this.#expert(moeLayer, index))) count += 1
    return count
  }

  /** Slots that hold nothing, and slots that may not be used yet. */
  get freeSlots(): number {
    return this.#table.free + (this.#supply.below?.table.free ?? 0)
  }

  get coldSlots(): number {
    return this.#table.cold + (this.#supply.below?.table.cold ?? 0)
  }

  /** Guesses that are being read. */
  get guesses(): number {
    return this.#supply.below?.table.ahead ?? this.#table.ahead
  }

  /** Guesses that were read to the end and that their layers did not want. */
  get unusedGuesses(): number {
    return this.#supply.unusedGuesses
  }

  /** That the expert which would give way to what is read for the layer is wanted again soon; 1: none can. */
  victimChance(moeLayer: number): number {
    return this.#supply.victimChance(moeLayer)
  }

  /** The same of what is copied for the layer from the tier below. */
  copyVictimChance(moeLayer: number): number {
    return this.#supply.copyVictimChance(moeLayer)
  }

  /** Whether the expert lies whole in the tier below, and is not on its way up. */
  isBelow(expert: Expert): boolean {
    const isReady = this.#supply.below?.table.stateOf(expert) === SlotState.ready
    return isReady && !this.#supply.isHeld(expert)
  }

  /** Experts that are on their way up from there, and nobody waits for them. */
  get copiesAhead(): number {
    return this.#supply.below === null ? 0 : this.#table.ahead
  }

  /** Whether the expert is being read as a guess, and nobody waits for it. */
  isGuess(expert: Expert): boolean {
    const table = this.#supply.below?.table ?? this.#table
    return table.stateOf(expert) === SlotState.ahead
  }

  /**
   * Orders that load experts before their layers have routed to them, as far as slots can be had
   * without giving up earlier guesses or what the last layer still wants. What lies somewhere is left
   * alone. Experts in `unlikely` that are still loading as guesses are cancelled first, and so is what
   * turned out to be wasted.
   */
  ahead(experts: Int32Array, unlikely: Int32Array = none): Int32Array {
    this.#supply.orders.clear()
    this.#supply.withdrawWasted()
    for (const guess of unlikely) this.#supply.withdraw(guess as Expert)
    for (const guess of experts)
      if (!this.#bringAhead(guess as Expert) && this.#supply.below === null) break
    return this.#supply.orders.records
  }

  /** Orders that fill free slots with experts that nobody has asked for, the first of them first. */
  warm(experts: Int32Array): Int32Array {
    this.#supply.orders.clear()
    for (const expert of experts as Iterable<Expert>)
      if (!this.#supply.isHeld(expert) && !this.#supply.warm(expert)) break
    return this.#supply.orders.records
  }

  /** What a later layer than the next wants needs no slot to be computed with yet. */
  #bringAhead(expert: Expert): boolean {
    if (this.#supply.isHeld(expert)) return true
    const isNear = this.#table.layerOf(expert) <= this.#moeLayer + 1
    if ((this.#supply.below === null || isNear) && this.#supply.guess(expert, false)) return true
    return this.holds(expert) || this.#supply.guessBelow(expert)
  }

  /** Steps of no sweep: everything that has a slot is placed, and computed as it lands. */
  #placeAny(moeLayer: number, wanted: Int32Array, stepTokens: number): void {
    // Hits first, so that no miss is given a slot that is needed for a hit.
    for (let at = 0; at < wanted.length; at += 1) {
      const expert = this.#expert(moeLayer, wanted[at])
      if (this.#supply.isHeld(expert)) this.#supply.demand(expert, false)
      this.#places[at] = this.#supply.placeOf(expert)
      this.#isNew[at] = 0
    }
    if (stepTokens <= sharedTokens) this.#placeBelow(moeLayer, wanted)
    for (let at = 0; at < wanted.length; at += 1) {
      const expert = this.#expert(moeLayer, wanted[at])
      if (this.#supply.isHeld(expert) || this.#places[at] !== nowhere) continue
      if (!this.#supply.demand(expert, false)) {
        this.#holdBack(moeLayer, wanted)
        return
      }
      this.#places[at] = this.#supply.placeOf(expert)
      this.#isNew[at] = 1
    }
    if (this.#loadCertain(moeLayer, stepTokens)) this.#holdBack(moeLayer, wanted)
  }

  /** Some of what lies ready below is computed there, while the rest is copied. */
  #placeBelow(moeLayer: number, wanted: Int32Array): void {
    const sharing = this.#sharing
    if (sharing === null) return
    let queued = 0
    for (let at = 0; at < wanted.length; at += 1) {
      const expert = this.#expert(moeLayer, wanted[at])
      if (this.isReady(expert)) continue
      if (this.isBelow(expert)) sharing.offer(at, this.policy.chance?.(expert) ?? 0)
      else queued += 1
    }
    for (const at of sharing.chosen(queued))
      this.#places[at] = this.#supply.placeBelow(this.#expert(moeLayer, wanted[at]))
  }

  /**
   * All that the layer misses is on its way: what the next one will want whatever it routes to follows
   * into the slots that stream. Behind the last layer comes the first of the next step, which is as large
   * as this one where steps are alike. Returns whether more would follow if there were slots.
   */
  #loadCertain(moeLayer: number, stepTokens: number): boolean {
    const isLast = moeLayer + 1 === this.#shape.moeLayers
    const next = isLast ? 0 : moeLayer + 1
    const tokens = isLast ? Math.min(stepTokens, this.#lastStepTokens) : stepTokens
    if (tokens <= manyTokens) return false
    for (let index = 0; index < this.#shape.experts; index += 1) {
      if (this.#residents.awaitedOf(next) >= this.#residents.sweepStream) return false
      const expert = this.#expert(next, index)
      if (this.#supply.isHeld(expert) || !this.#certain.isWanted(expert, tokens)) continue
      if (!this.#supply.guess(expert, true)) return true
    }
    return false
  }

  /**
   * Slots are short. Half of what is on its way is placed now, older orders first, and the rest by the
   * next call: it goes on loading while this half gives up its slots, so the drive never waits. Nor does
   * it wait for all hits: a few are computed first, those that are worth least, and give up theirs.
   */
  #holdBack(moeLayer: number, wanted: Int32Array): void {
    const hits = this.#holdBackHits(moeLayer, wanted)
    let loads = 0
    for (let at = 0; at < wanted.length; at += 1) {
      if (this.#isComing(this.#expert(moeLayer, wanted[at]))) loads += 1
    }
    // The device would wait for them before it asks for more.
    let placed = hits > 0 ? 0 : Math.ceil(loads / 2)
    for (let isNew = 0; isNew <= 1; isNew += 1) {
      for (let at = 0; at < wanted.length; at += 1) {
        if (this.#isNew[at] !== isNew) continue
        if (!this.#isComing(this.#expert(moeLayer, wanted[at]))) continue
        if (placed > 0) placed -= 1
        else this.#places[at] = nowhere
      }
    }
  }

  /** Returns how many hits are left for later calls. */
  #holdBackHits(moeLayer: number, wanted: Int32Array): number {
    this.#waits.fill(0)
    this.#firstExpert = this.#expert(moeLayer, 0)
    let hits = 0
    for (const index of wanted) {
      const isHit = this.isReady(this.#expert(moeLayer, index))
      this.#waits[index] = isHit ? 1 : 0
      if (isHit) hits += 1
    }
    // While the drive has enough to do, slots are in no hurry.
    const stream = this.#residents.decodeStream
    const few = Math.ceil(stream / 2)
    const many = Math.max(few, Math.ceil(hits / 2))
    let placed = Math.min(hits, this.#table.loading < stream ? few : many)
    for (; placed > 0; placed -= 1) {
      const least = this.#residents.least(moeLayer, this.#isWaiting)
      this.#waits[least - this.#firstExpert] = 0
      hits -= 1
    }
    for (let at = 0; at < wanted.length; at += 1)
      if (this.#waits[wanted[at] ?? 0] === 1) this.#places[at] = nowhere
    return hits
  }

  /** Sweeps: loads and places follow the index, and what is placed has no gaps. */
  #placeInOrder(moeLayer: number, wanted: Int32Array): void {
    this.#places.fill(nowhere, 0, wanted.length)
    let reached = 0
    while (reached < wanted.length) {
      if (!this.#supply.demand(this.#expert(moeLayer, wanted[reached]), true)) break
      reached += 1
    }
    if (reached === 0 && !this.#supply.isHeld(this.#expert(moeLayer, wanted[0])))
      reached = this.#displaceLatest(moeLayer, wanted)
    const goesOn = reached < wanted.length || this.#loadNext(moeLayer + 1)
    let loads = this.#loadsToPlace(moeLayer, wanted, reached, goesOn)
    for (let at = 0; at < reached; at += 1) {
      const expert = this.#expert(moeLayer, wanted[at])
      if (this.#isComing(expert)) {
        if (loads === 0) return
        loads -= 1
      }
      this.#places[at] = this.#supply.placeOf(expert)
    }
  }

  /**
   * All is on its way, and nearly all of the next layer will be wanted too: its first experts follow
   * into the slots that stream, so that the drive works while this layer ends and the next attends.
   * Returns whether more would follow if there were slots.
   */
  #loadNext(moeLayer: number): boolean {
    if (moeLayer >= this.#shape.moeLayers) return false
    for (let index = 0; index < this.#shape.experts; index += 1) {
      if (this.#residents.awaitedOf(moeLayer) >= this.#residents.sweepStream) return false
      const expert = this.#expert(moeLayer, index)
      if (!this.#supply.isHeld(expert) && !this.#supply.guess(expert, true)) return true
    }
    return false
  }

  /** As in holdBack: half of what is on its way while more is to follow, else all. */
  #loadsToPlace(moeLayer: number, wanted: Int32Array, reached: number, goesOn: boolean): number {
    let loads = 0
    for (let at = 0; at < reached; at += 1) {
      if (this.#isComing(this.#expert(moeLayer, wanted[at]))) loads += 1
    }
    return goesOn ? Math.ceil(loads / 2) : loads
  }

  /** All slots hold experts that come later in this sweep: the one that comes last gives way. */
  #displaceLatest(moeLayer: number, wanted: Int32Array): number {
    for (let at = wanted.length - 1; at > 0; at -= 1) {
      const latest = this.#expert(moeLayer, wanted[at])
      if (this.#table.stateOf(latest) !== SlotState.ready) continue
      this.#supply.replace(latest, this.#expert(moeLayer, wanted[0]), true)
      return 1
    }
    return 0
  }

  #expert(moeLayer: number, index: number | undefined): Expert {
    return expertOf(moeLayer, index ?? 0, this.#shape.experts)
  }

  #isComing(expert: Expert): boolean {
    return this.#table.stateOf(expert) === SlotState.demanded
  }
}
