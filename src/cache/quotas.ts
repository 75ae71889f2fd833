// How many slots each layer keeps, when the worth of experts compares between layers. Before a layer
// loads what it misses, each slot it needs is priced: where another layer holds something that is
// worth clearly less than the least of its own, that layer's floor sinks by one and its own rises. So
// slots go where one more saves most, and what was read for one token and is worth little makes room
// in the next layer already. With fewer slots than one token wants nothing is traded. Who in the layer
// leaves, and when, is not decided here.
import { decodeFloors } from './floors.js'
import type { CacheShape } from './policy.js'
import { UseField } from './records.js'
import type { Worth } from './worth.js'

/** Of worths, which are log-odds: slots do not move for less. */
const friction = 0.2
/** A layer keeps at most so many times its equal share, and at least what one token wants. */
const largestShare = 2

export class Quotas {
  /** [MoE layer] what it keeps whatever the others want; changes at every trade */
  readonly floors: Int32Array
  readonly #equal: Int32Array
  readonly #experts: number
  readonly #slots: number
  readonly #fewest: number
  readonly #most: number
  /** [MoE layer] experts in slots, loading ones too, and of all layers */
  readonly #held: Int32Array
  #heldOfAll = 0
  /** [expert of the model] */
  readonly #isIn: Uint8Array
  /** [MoE layer] what the one that would leave first is worth */
  readonly #least: Float64Array
  /** [expert of the model] the trade that wants it or has it leave */
  readonly #takenBy: Float64Array
  #trade = 0

  constructor({ moeLayers, experts, topK, slots }: CacheShape) {
    this.#equal = decodeFloors(slots, moeLayers, topK)
    this.floors = this.#equal.slice()
    this.#experts = experts
    this.#slots = slots
    this.#fewest = topK
    this.#most = Math.floor((largestShare * slots) / moeLayers)
    this.#held = new Int32Array(moeLayers)
    this.#isIn = new Uint8Array(moeLayers * experts)
    this.#least = new Float64Array(moeLayers)
    this.#takenBy = new Float64Array(moeLayers * experts)
  }

  entered(expert: number): void {
    this.#isIn[expert] = 1
    this.#hold(expert, 1)
  }

  left(expert: number): void {
    this.#isIn[expert] = 0
    this.#hold(expert, -1)
  }

  /** Equal shares again. */
  level(): void {
    this.floors.set(this.#equal)
  }

  /** The worths, or the rule that gives them, are others than at the last trade. */
  look(worth: Worth): void {
    this.#trade += 1
    for (let layer = 0; layer < this.#held.length; layer += 1) this.#price(layer, worth)
  }

  /** The layer wants what `count` records say. What of it is missing must find slots. */
  trade(moeLayer: number, records: Int32Array, count: number, worth: Worth): void {
    this.#trade += 1
    let missing = this.#heldOfAll - this.#slots
    let leastWanted = Number.POSITIVE_INFINITY
    for (let at = 0; at < count * UseField.count; at += UseField.count) {
      const expert = records[at + UseField.expert] ?? 0
      if (this.#isIn[expert] === 0) missing += 1
      this.#takenBy[expert] = this.#trade
      leastWanted = Math.min(leastWanted, worth.of(expert))
    }
    this.#price(moeLayer, worth)
    if (missing > 0 && this.#slots > this.#fewest * this.#held.length) {
      this.floors.set(this.#held)
      for (let slot = 0; slot < missing; slot += 1) this.#findSlot(moeLayer, leastWanted, worth)
    }
    // For the layers that come next, what this one has used is among the first to leave, too.
    this.#least[moeLayer] = Math.min(leastWanted, this.#least[moeLayer] ?? 0)
  }

  /** `leastWanted`: what a layer with no other to give up loses when it computes in waves. */
  #findSlot(moeLayer: number, leastWanted: number, worth: Worth): void {
    const floor = this.floors[moeLayer] ?? 0
    const least = this.#least[moeLayer] ?? 0
    const hasOther = least < Number.POSITIVE_INFINITY
    const own = hasOther || floor < this.#fewest ? least : leastWanted
    const seller = floor < this.#most ? this.#cheapest(moeLayer) : -1
    if (seller >= 0 && (this.#least[seller] ?? 0) + friction < own) {
      this.floors[moeLayer] = floor + 1
      this.floors[seller] = (this.floors[seller] ?? 0) - 1
      this.#give(seller, worth)
    } else if (hasOther) this.#give(moeLayer, worth)
  }

  /** Of the other layers that can spare a slot, the one whose least is worth least, or -1. */
  #cheapest(except: number): number {
    let found = -1
    let least = Number.POSITIVE_INFINITY
    for (let layer = 0; layer < this.#least.length; layer += 1) {
      const worth = this.#least[layer] ?? 0
      if (layer === except || worth >= least || (this.floors[layer] ?? 0) <= this.#fewest) continue
      least = worth
      found = layer
    }
    return found
  }

  /** The layer's least is as good as gone; the next one tells its price. */
  #give(layer: number, worth: Worth): void {
    const gone = this.#first(layer, worth)
    if (gone >= 0) this.#takenBy[gone] = this.#trade
    this.#price(layer, worth)
  }

  #price(layer: number, worth: Worth): void {
    const first = this.#first(layer, worth)
    this.#least[layer] = first < 0 ? Number.POSITIVE_INFINITY : worth.of(first)
  }

  /** Of what may leave the layer, the one that is worth least, or -1. */
  #first(layer: number, worth: Worth): number {
    let found = -1
    let least = Number.POSITIVE_INFINITY
    const begin = layer * this.#experts
    for (let expert = begin; expert < begin + this.#experts; expert += 1) {
      if (this.#isIn[expert] === 0 || this.#takenBy[expert] === this.#trade) continue
      const of = worth.of(expert)
      if (of >= least) continue
      least = of
      found = expert
    }
    return found
  }

  #hold(expert: number, change: number): void {
    const layer = Math.floor(expert / this.#experts)
    this.#held[layer] = (this.#held[layer] ?? 0) + change
    this.#heldOfAll += change
  }
}
