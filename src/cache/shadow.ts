// How a rule of worth would fare: slots of numbers only, as many for each layer, of which the least
// worth gives way, and what is worth less than all of them passes by. Much cheaper than a whole cache
// (ghost.ts), so that many rules can be tried beside the one that rules. Knows neither orders nor time.
import { UseField } from './records.js'
import type { Worth } from './worth.js'

export class Shadow {
  readonly #worth: Worth
  readonly #slots: number
  /** [MoE layer][slot] its expert */
  readonly #expertIn: Int32Array
  /** [MoE layer] slots taken */
  readonly #taken: Int32Array
  /** [expert of the model] */
  readonly #isIn: Uint8Array

  constructor(worth: Worth, moeLayers: number, expertsPerLayer: number, slotsPerLayer: number) {
    this.#worth = worth
    this.#slots = slotsPerLayer
    this.#expertIn = new Int32Array(moeLayers * slotsPerLayer)
    this.#taken = new Int32Array(moeLayers)
    this.#isIn = new Uint8Array(moeLayers * expertsPerLayer)
  }

  /** A layer wants what `count` records say, which the rule has heard. Returns how many it lacked. */
  visit(moeLayer: number, records: Int32Array, count: number): number {
    let misses = 0
    for (let at = 0; at < count * UseField.count; at += UseField.count) {
      misses += 1 - (this.#isIn[records[at + UseField.expert] ?? 0] ?? 0)
    }
    for (let at = 0; misses > 0 && at < count * UseField.count; at += UseField.count) {
      const expert = records[at + UseField.expert] ?? 0
      if (this.#isIn[expert] === 0) this.#admit(moeLayer, expert)
    }
    return misses
  }

  #admit(moeLayer: number, expert: number): void {
    const slot = this.#slotFor(moeLayer, this.#worth.of(expert))
    if (slot < 0) return
    this.#expertIn[slot] = expert
    this.#isIn[expert] = 1
  }

  /** A free slot, or one emptied of something that is worth less; -1: there is none. */
  #slotFor(moeLayer: number, worth: number): number {
    const first = moeLayer * this.#slots
    const taken = this.#taken[moeLayer] ?? 0
    if (taken < this.#slots) {
      this.#taken[moeLayer] = taken + 1
      return first + taken
    }
    const slot = this.#least(first)
    const victim = this.#expertIn[slot] ?? 0
    if (this.#worth.of(victim) >= worth) return -1
    this.#isIn[victim] = 0
    return slot
  }

  #least(first: number): number {
    let found = first
    let least = Number.POSITIVE_INFINITY
    for (let slot = first; slot < first + this.#slots; slot += 1) {
      const worth = this.#worth.of(this.#expertIn[slot] ?? 0)
      if (worth >= least) continue
      least = worth
      found = slot
    }
    return found
  }
}
