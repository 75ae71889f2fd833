// The slots of one tier: what each holds, and where each expert lies. It mirrors what the device knows
// and changes only by orders given and events heard; which expert goes where is decided elsewhere. An
// event that contradicts the table means that cache and device have parted: that is a bug, and thrown.
import type { Expert } from './place.js'

/**
 * A slot is cold until its memory has been touched. It loads for somebody who waits, as a guess, or
 * as a guess that was withdrawn, of which only an event can tell what became of it.
 */
export const SlotState = {
  cold: 0,
  free: 1,
  demanded: 2,
  ahead: 3,
  withdrawn: 4,
  ready: 5,
} as const
export type SlotState = (typeof SlotState)[keyof typeof SlotState]

export class SlotTable {
  /** [slot] SlotState */
  readonly state: Uint8Array
  /** [slot] the expert that lies or is loading there, or -1 */
  readonly expertIn: Int32Array
  /** [expert of the model] its slot, or -1 */
  readonly slotOf: Int32Array
  /** [MoE layer] slots that hold or load an expert of the layer */
  readonly held: Int32Array
  readonly #experts: number
  readonly #free: Int32Array
  #freeCount = 0
  #loading = 0
  #ahead = 0
  #cold: number

  constructor(slots: number, moeLayers: number, expertsPerLayer: number) {
    this.#cold = slots
    this.state = new Uint8Array(slots)
    this.expertIn = new Int32Array(slots).fill(-1)
    this.slotOf = new Int32Array(moeLayers * expertsPerLayer).fill(-1)
    this.held = new Int32Array(moeLayers)
    this.#experts = expertsPerLayer
    this.#free = new Int32Array(slots)
  }

  /** Slots that are loading. */
  get loading(): number {
    return this.#loading
  }

  /** Of those, guesses. */
  get ahead(): number {
    return this.#ahead
  }

  /** Slots that hold nothing and load nothing, and may be used. */
  get free(): number {
    return this.#freeCount
  }

  /** Slots whose memory has not been touched yet. */
  get cold(): number {
    return this.#cold
  }

  layerOf(expert: Expert): number {
    return Math.floor(expert / this.#experts)
  }

  /** State of the slot that the expert lies in; `cold` when it lies in none. */
  stateOf(expert: Expert): SlotState {
    const slot = this.slotOf[expert] ?? -1
    return slot < 0 ? SlotState.cold : (this.state[slot] as SlotState)
  }

  /** Whether the expert is on its way into a slot. */
  fills(expert: Expert): boolean {
    const state = this.stateOf(expert)
    return state >= SlotState.demanded && state <= SlotState.withdrawn
  }

  touched(slot: number): void {
    if (this.state[slot] !== SlotState.cold) throw new Error(`slot ${slot} was touched twice`)
    this.#cold -= 1
    this.#release(slot)
  }

  /** A free slot, which is no longer in the list of free ones, or -1. */
  takeFree(): number {
    if (this.#freeCount === 0) return -1
    this.#freeCount -= 1
    return this.#free[this.#freeCount] ?? -1
  }

  /** Empties a ready slot; it is in the hands of the caller, who loads something into it. */
  evict(expert: Expert): number {
    const slot = this.slotOf[expert] ?? -1
    if (this.state[slot] !== SlotState.ready) throw new Error(`expert ${expert} may not leave`)
    this.#forget(slot)
    return slot
  }

  load(slot: number, expert: Expert, isAhead: boolean): void {
    this.state[slot] = isAhead ? SlotState.ahead : SlotState.demanded
    this.expertIn[slot] = expert
    this.slotOf[expert] = slot
    const layer = this.layerOf(expert)
    this.held[layer] = (this.held[layer] ?? 0) + 1
    this.#loading += 1
    if (isAhead) this.#ahead += 1
  }

  /** A look-ahead that is loading has become wanted. */
  promote(expert: Expert): void {
    this.#ahead -= 1
    this.state[this.slotOf[expert] ?? -1] = SlotState.demanded
  }

  withdraw(expert: Expert): void {
    this.#ahead -= 1
    this.state[this.slotOf[expert] ?? -1] = SlotState.withdrawn
  }

  arrived(slot: number, expert: Expert): void {
    this.#land(slot, expert)
    this.state[slot] = SlotState.ready
  }

  /** The load failed or was cancelled: the expert is nowhere, the slot is free. */
  dropped(slot: number, expert: Expert): void {
    this.#land(slot, expert)
    this.#forget(slot)
    this.#release(slot)
  }

  #forget(slot: number): void {
    const expert = (this.expertIn[slot] ?? -1) as Expert
    const layer = this.layerOf(expert)
    this.held[layer] = (this.held[layer] ?? 0) - 1
    this.slotOf[expert] = -1
    this.expertIn[slot] = -1
  }

  #release(slot: number): void {
    this.state[slot] = SlotState.free
    this.#free[this.#freeCount] = slot
    this.#freeCount += 1
  }

  #land(slot: number, expert: Expert): void {
    const state = this.state[slot] ?? SlotState.cold
    const isLoading = state >= SlotState.demanded && state <= SlotState.withdrawn
    if (!isLoading || this.expertIn[slot] !== expert) {
      throw new Error(`slot ${slot} is not loading expert ${expert}`)
    }
    this.#loading -= 1
    if (state === SlotState.ahead) this.#ahead -= 1
  }
}
