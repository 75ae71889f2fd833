// Brings experts into the slots that are computed with: gives them slots, writes the orders that fill
// those, and keeps count. From the drive, or, where a tier lies below (below.ts), from there and through
// it. When which expert is brought is not decided here.
import { Below, type TierParts } from './below.js'
import { increase, type LayerCounts } from './counts.js'
import { type Expert, nowhere, type Place, placeOf, slotOf, type Tier, tierOf } from './place.js'
import type { CacheShape, Policy } from './policy.js'
import { EventField, EventKind, Orders, Urgency, urgencyOf } from './records.js'
import { Residents } from './residents.js'
import { SlotState, type SlotTable } from './slots.js'

export class Supply {
  readonly orders = new Orders()
  readonly residents: Residents
  readonly table: SlotTable
  readonly below: Below | null
  readonly policy: Policy
  /** Without a policy's opinion. */
  readonly #usualChance: number
  readonly #tier: Tier
  readonly #counts: LayerCounts
  #unusedGuesses = 0

  constructor(
    shape: CacheShape,
    policy: Policy,
    counts: LayerCounts,
    tier: Tier,
    below: TierParts | null,
  ) {
    this.policy = policy
    this.#usualChance = shape.topK / shape.experts
    this.#tier = tier
    this.#counts = counts
    this.residents = new Residents(shape, policy, counts.evictions)
    this.table = this.residents.table
    this.below = below === null ? null : new Below(below, this.table, shape, counts, this.orders)
  }

  /** Guesses that were read to the end and that their layers did not want. */
  get unusedGuesses(): number {
    return this.#unusedGuesses
  }

  /** A layer has routed, to records [UseField.count]; `scores`: its probabilities, where known. */
  used(
    moeLayer: number,
    records: Int32Array,
    count: number,
    isSweep: boolean,
    scores: Float32Array | undefined,
  ): void {
    if (scores !== undefined) {
      this.policy.scored?.(moeLayer, scores)
      this.below?.policy.scored?.(moeLayer, scores)
    }
    this.residents.used(moeLayer, records, count, isSweep)
    this.below?.residents.used(moeLayer, records, count, isSweep)
  }

  settle(events: Int32Array): void {
    for (let at = 0; at < events.length; at += EventField.count) {
      const kind = events[at + EventField.kind]
      const expert = (events[at + EventField.expert] ?? -1) as Expert
      const place = events[at + EventField.to] ?? 0
      const isBelow = this.below !== null && tierOf(place) !== this.#tier
      const residents = isBelow ? this.below.residents : this.residents
      if (kind === EventKind.touched) residents.table.touched(slotOf(place))
      else if (kind === EventKind.arrived) residents.table.arrived(slotOf(place), expert)
      else residents.dropped(slotOf(place), expert)
    }
  }

  /** What was wanted until now may leave again. */
  beginCall(): void {
    this.residents.beginCall()
    this.below?.residents.beginCall()
  }

  /** Until the next call the expert stays. */
  want(expert: Expert): void {
    this.residents.want(expert)
    this.below?.residents.want(expert)
  }

  /** Until the next call the expert gives way to no guess. */
  spare(expert: Expert): void {
    this.residents.spare(expert)
    this.below?.residents.spare(expert)
  }

  /** Whether the expert lies in a slot or is on its way into one. */
  isHeld(expert: Expert): boolean {
    return (this.table.slotOf[expert] ?? -1) >= 0
  }

  /** Whether it lies somewhere in memory or is on its way there. */
  isAnywhere(expert: Expert): boolean {
    return this.isHeld(expert) || this.below?.holds(expert) === true
  }

  /** Whether it has to be read before it can be computed with: it lies nowhere, whole. */
  isMissing(expert: Expert): boolean {
    const isReady = this.table.stateOf(expert) === SlotState.ready
    return !isReady && this.below?.table.stateOf(expert) !== SlotState.ready
  }

  /** Where the expert is computed with, now or when it has landed. */
  placeOf(expert: Expert): Place {
    const slot = this.table.slotOf[expert] ?? -1
    const isComputable = slot >= 0 && this.table.state[slot] !== SlotState.withdrawn
    return isComputable ? placeOf(this.#tier, slot) : nowhere
  }

  /** Where it lies in the tier below. */
  placeBelow(expert: Expert): Place {
    return this.below?.placeOf(expert) ?? nowhere
  }

  /** That the expert which would give way to what is read for the layer is wanted again soon; 1: none can. */
  victimChance(moeLayer: number): number {
    return this.#victimChance(this.below ?? this, moeLayer)
  }

  /** The same of what is copied from below. */
  copyVictimChance(moeLayer: number): number {
    return this.#victimChance(this, moeLayer)
  }

  #victimChance({ residents, policy }: Pick<Supply, 'residents' | 'policy'>, moeLayer: number) {
    if (residents.table.free > 0) return 0
    const victim = residents.nextVictim(moeLayer)
    if (victim < 0) return 1
    return policy.chance?.(victim as Expert) ?? this.#usualChance
  }

  /** Sees to it that the expert lies in a slot or is brought into one for somebody who waits. */
  demand(expert: Expert, isSweep: boolean): boolean {
    const state = this.table.stateOf(expert)
    if (state === SlotState.ready || state === SlotState.demanded) return true
    // It may come to nothing yet: what became of it is heard before the next call.
    if (state === SlotState.withdrawn || this.below?.isWithdrawn(expert)) return false
    if (state === SlotState.ahead) {
      this.below?.raise(expert)
      this.table.promote(expert)
      this.orders.load(expert, this.placeOf(expert), Urgency.demand)
      return true
    }
    if (this.residents.admit(expert, isSweep, false) < 0) return false
    this.#fill(expert, isSweep, false)
    return true
  }

  /** Gives the expert, which somebody waits for, the slot of one that is ready. */
  replace(victim: Expert, expert: Expert, isSweep: boolean): void {
    this.residents.replace(victim, expert)
    this.#fill(expert, isSweep, false)
  }

  /** Brings an expert that nobody has asked for, if it can have a slot. */
  guess(expert: Expert, isSweep: boolean): boolean {
    if (this.below?.isWithdrawn(expert)) return false
    const isRead = this.below?.holds(expert) !== true
    if (this.residents.admit(expert, isSweep, true) < 0) return false
    this.#fill(expert, isSweep, true)
    if (isRead) increase(this.#counts.ahead, this.table.layerOf(expert))
    return true
  }

  /** Reads an expert that nobody has asked for into the tier below, if it can have a slot there. */
  guessBelow(expert: Expert): boolean {
    if (this.below === null || this.below.bring(expert, false, true) === nowhere) return false
    increase(this.#counts.ahead, this.table.layerOf(expert))
    return true
  }

  /** Fills free slots, above and below, with an expert that nobody has asked for; false: there is none. */
  warm(expert: Expert): boolean {
    const isBelow = this.below?.warm(expert) === true
    if (this.residents.fill(expert) < 0) return isBelow
    this.orders.add(
      expert,
      isBelow ? (this.below?.placeOf(expert) ?? nowhere) : nowhere,
      this.placeOf(expert),
      Urgency.ahead,
    )
    return true
  }

  /** Calls a guess back that is still on its way. */
  withdraw(expert: Expert): void {
    this.below?.withdraw(expert)
    this.#withdrawOwn(expert)
  }

  /** Guesses whose layers have routed elsewhere: what is still loading need not go on. */
  withdrawWasted(): void {
    const { wasted } = this.residents
    for (const expert of wasted) {
      const isGuess = this.#withdrawOwn(expert)
      // What went through the tier below is told of there; what was copied only cost no read.
      if (this.below?.holds(expert)) continue
      const layer = this.table.layerOf(expert)
      increase(this.#counts.aheadWasted, layer)
      if (isGuess || !this.isHeld(expert)) continue
      increase(this.#counts.aheadUnused, layer)
      this.#unusedGuesses += 1
    }
    wasted.length = 0
    this.#unusedGuesses += this.below?.withdrawWasted() ?? 0
  }

  /** An expert that a layer wants, as it lies when the layer has routed. */
  count(expert: Expert): void {
    const { requests, hits, hitsBelow, misses, aheadHits } = this.#counts
    const layer = this.table.layerOf(expert)
    const state = this.table.stateOf(expert)
    const isHere = state === SlotState.ready || state === SlotState.demanded
    const isBelow = !isHere && this.below?.isComing(expert) === true
    increase(requests, layer)
    increase(isHere || isBelow ? hits : misses, layer)
    if (isBelow) increase(hitsBelow, layer)
    if ((isHere || isBelow) && this.#isReadAhead(expert)) increase(aheadHits, layer)
  }

  #isReadAhead(expert: Expert): boolean {
    const { below } = this
    return below?.holds(expert)
      ? below.residents.isAwaited(expert)
      : this.residents.isAwaited(expert)
  }

  #withdrawOwn(expert: Expert): boolean {
    if (this.table.stateOf(expert) !== SlotState.ahead) return false
    this.orders.load(expert, this.placeOf(expert), Urgency.cancel)
    this.table.withdraw(expert)
    return true
  }

  /** Orders what fills the slot that the expert was just given. */
  #fill(expert: Expert, isSweep: boolean, isAhead: boolean): void {
    const from = this.below?.bring(expert, isSweep, isAhead) ?? nowhere
    this.below?.rose(expert)
    this.orders.add(expert, from, this.placeOf(expert), urgencyOf(isSweep, isAhead))
  }
}
