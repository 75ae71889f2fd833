// Slots in RAM below those of a GPU: an expert that lies here is not read again when it is wanted, only
// copied. What is read on its way up is read into a slot here, as far as it can have one, and stays behind
// its copy while it is worth that. What a slot above is being filled from does not leave. Who stays is
// decided as in any tier (residents.ts); what is a double of the tier above is told apart in doubles.ts.
import { increase, type LayerCounts } from './counts.js'
import { DoublesFirst } from './doubles.js'
import { type Expert, nowhere, type Place, placeOf, Tier } from './place.js'
import type { CacheShape, Policy } from './policy.js'
import { type Orders, Urgency, urgencyOf } from './records.js'
import { Residents } from './residents.js'
import { SlotState, type SlotTable } from './slots.js'

/** What a tier of slots is made of. */
export interface TierParts {
  readonly shape: CacheShape
  readonly policy: Policy
}

export class Below {
  readonly table: SlotTable
  readonly residents: Residents
  readonly policy: DoublesFirst
  readonly #orders: Orders
  readonly #counts: LayerCounts

  /** `above`: the tier that is filled from here. `orders`: the list that its orders are written into too. */
  constructor(
    { shape, policy }: TierParts,
    above: SlotTable,
    aboveShape: CacheShape,
    counts: LayerCounts,
    orders: Orders,
  ) {
    this.policy = new DoublesFirst(policy, above, aboveShape)
    const evictions = new Float64Array(shape.moeLayers)
    this.residents = new Residents(shape, this.policy, evictions, (expert) => above.fills(expert))
    this.table = this.residents.table
    this.#orders = orders
    this.#counts = counts
  }

  /** Whether the expert lies here whole, or is on its way for somebody who waits. */
  isComing(expert: Expert): boolean {
    const state = this.table.stateOf(expert)
    return state === SlotState.ready || state === SlotState.demanded
  }

  /** A slot above was given to the expert. */
  rose(expert: Expert): void {
    this.policy.rose(expert)
  }

  /** Whether it is a guess that was called back, of which only an event can tell what became of it. */
  isWithdrawn(expert: Expert): boolean {
    return this.table.stateOf(expert) === SlotState.withdrawn
  }

  /**
   * Where a slot above is filled from: the expert is ordered to be read into a slot here unless it is in
   * one. `nowhere`: it can have none, and is read on its way up.
   */
  bring(expert: Expert, isSweep: boolean, isAhead: boolean): Place {
    if (this.holds(expert)) {
      if (!isAhead) this.raise(expert)
    } else {
      if (this.residents.admit(expert, isSweep, isAhead) < 0) return nowhere
      this.#orders.load(expert, this.placeOf(expert), urgencyOf(isSweep, isAhead))
    }
    return this.placeOf(expert)
  }

  /** Fills a free slot with what nobody has asked for. Returns whether it did, or had done so before. */
  warm(expert: Expert): boolean {
    if (this.holds(expert)) return true
    if (this.residents.fill(expert) < 0) return false
    this.#orders.load(expert, this.placeOf(expert), Urgency.ahead)
    return true
  }

  /** Somebody waits for what is being read as a guess, if it is. */
  raise(expert: Expert): void {
    if (this.table.stateOf(expert) !== SlotState.ahead) return
    this.table.promote(expert)
    this.#orders.load(expert, this.placeOf(expert), Urgency.demand)
  }

  /** A guess that is still being read is called back. Returns whether there was one. */
  withdraw(expert: Expert): boolean {
    if (this.table.stateOf(expert) !== SlotState.ahead) return false
    this.#orders.load(expert, this.placeOf(expert), Urgency.cancel)
    this.table.withdraw(expert)
    return true
  }

  /** Guesses that their layers did not want are called back. Returns how many had been read whole. */
  withdrawWasted(): number {
    const { wasted } = this.residents
    let unused = 0
    for (const expert of wasted) {
      const layer = this.table.layerOf(expert)
      increase(this.#counts.aheadWasted, layer)
      if (this.withdraw(expert) || !this.holds(expert)) continue
      increase(this.#counts.aheadUnused, layer)
      unused += 1
    }
    wasted.length = 0
    return unused
  }

  holds(expert: Expert): boolean {
    return (this.table.slotOf[expert] ?? -1) >= 0
  }

  placeOf(expert: Expert): Place {
    return placeOf(Tier.ram, this.table.slotOf[expert] ?? -1)
  }
}
