// The slots of a device that computes nothing: the same states, the same refusals and the same events
// as the native ones, while loads land after as many polls as a seed says. So policies and the engine
// meet late and early arrivals in the same order every time.
import {
  type Code,
  type DeviceError,
  EventField,
  EventKind,
  OrderField,
  Urgency,
} from '../../native/index.js'
import { placeOf, slotOf, Tier } from '../cache/place.js'

export function refusal(code: keyof typeof Code, message: string): DeviceError {
  return Object.assign(new Error(message), { code, tensor: -1 })
}

/** When loads land: each after 1 to `mostPolls` polls, drawn by the seed; 0: with the next poll. */
export interface Arrivals {
  readonly seed: number
  readonly mostPolls: number
}

export const atOnce: Arrivals = { seed: 0, mostPolls: 0 }

interface Slot {
  state: 'cold' | 'free' | 'loading' | 'ready'
  expert: number
  isCancelled: boolean
  /** Polls that are left until it lands. */
  polls: number
}

/** What earlier orders of a batch have named. */
interface Taken {
  readonly slots: Set<number>
  readonly experts: Set<number>
}

export class ReplaySlots {
  readonly #slots: readonly Slot[]
  /** [expert of the model] its slot, or -1 */
  readonly #slotOf: Int32Array
  readonly #mostPolls: number
  /** Records [EventField.count] that nobody has taken yet. */
  #events: number[] = []
  #random: number

  constructor(slots: number, experts: number, arrivals: Arrivals) {
    this.#slots = Array.from({ length: slots }, () => ({
      state: 'cold',
      expert: -1,
      isCancelled: false,
      polls: 0,
    }))
    this.#slotOf = new Int32Array(experts).fill(-1)
    this.#mostPolls = arrivals.mostPolls
    this.#random = arrivals.seed >>> 0
  }

  isReady(expert: number): boolean {
    return this.#slots[this.#slotOf[expert] ?? -1]?.state === 'ready'
  }

  /** Whether the place is a slot that holds the expert or is loading it. */
  isPlaceOf(place: number, expert: number): boolean {
    const slot = this.#slotOf[expert] ?? -1
    return slot >= 0 && place === placeOf(Tier.ram, slot)
  }

  /** What is waited for lands; false when it had been cancelled and came to nothing. */
  await(expert: number): boolean {
    const at = this.#slotOf[expert] ?? -1
    if (this.#slots[at]?.state === 'loading') this.#land(at)
    return this.isReady(expert)
  }

  /** Orders [n][OrderField.count]; all are checked before any is obeyed. */
  stage(orders: Int32Array): void {
    const taken = { slots: new Set<number>(), experts: new Set<number>() }
    for (let at = 0; at < orders.length; at += OrderField.count) {
      this.#check(orders.subarray(at, at + OrderField.count), at / OrderField.count, taken)
    }
    for (let at = 0; at < orders.length; at += OrderField.count) {
      this.#obey(orders.subarray(at, at + OrderField.count))
    }
  }

  /** Events since the last call, as many as there is room for; `isPatient` waits for one. */
  poll(events: Int32Array, isPatient: boolean): number {
    this.#pass()
    while (isPatient && this.#events.length === 0 && this.#isAnythingUnderWay()) this.#pass()
    const room = Math.floor(events.length / EventField.count) * EventField.count
    const taken = this.#events.splice(0, room)
    events.set(taken)
    return taken.length / EventField.count
  }

  /** Cold slots are touched and loads come nearer. */
  #pass(): void {
    let touches = this.#mostPolls === 0 ? this.#slots.length : 1 + this.#draw(this.#slots.length)
    for (const [at, slot] of this.#slots.entries()) {
      if (slot.state === 'cold' && touches > 0) {
        slot.state = 'free'
        this.#tell(EventKind.touched, -1, at)
        touches -= 1
      } else if (slot.state === 'loading') {
        slot.polls -= 1
        if (slot.polls <= 0) this.#land(at)
      }
    }
  }

  #isAnythingUnderWay(): boolean {
    return this.#slots.some(({ state }) => state === 'cold' || state === 'loading')
  }

  #check(order: Int32Array, index: number, taken: Taken): void {
    const { expert, at, urgency } = fieldsOf(order)
    const slot = this.#slots[at]
    const lies = this.#slotOf[expert]
    const isNamed = order[OrderField.from] === -1 && order[OrderField.to] === placeOf(Tier.ram, at)
    if (!isNamed || slot === undefined || lies === undefined || !isUrgency(urgency)) {
      throw refusal('bad_order', `order ${index} names no expert, slot or urgency of this device`)
    }
    if (slot.state === 'loading' && slot.expert === expert) return
    if (urgency === Urgency.cancel) {
      throw refusal('bad_order', `order ${index} cancels expert ${expert}, which is not loading`)
    }
    if (slot.state === 'cold') {
      throw refusal('bad_order', `order ${index}: slot ${at} has not been touched yet`)
    }
    if (slot.state === 'loading' || taken.slots.has(at) || taken.experts.has(expert)) {
      throw refusal('bad_order', `order ${index}: slot ${at} is loading another expert`)
    }
    if (lies >= 0 && !taken.slots.has(lies)) {
      throw refusal('bad_order', `order ${index}: expert ${expert} lies in slot ${lies} already`)
    }
    taken.slots.add(at)
    taken.experts.add(expert)
  }

  #obey(order: Int32Array): void {
    const { expert, at, urgency } = fieldsOf(order)
    const slot = this.#slots[at]
    if (slot === undefined) return
    if (slot.state === 'loading' && slot.expert === expert) {
      if (urgency === Urgency.cancel) slot.isCancelled = true
      return
    }
    if (slot.expert >= 0) this.#slotOf[slot.expert] = -1
    slot.state = 'loading'
    slot.expert = expert
    slot.isCancelled = false
    slot.polls = this.#mostPolls === 0 ? 0 : 1 + this.#draw(this.#mostPolls)
    this.#slotOf[expert] = at
  }

  #land(at: number): void {
    const slot = this.#slots[at]
    if (slot === undefined) return
    this.#tell(slot.isCancelled ? EventKind.cancelled : EventKind.arrived, slot.expert, at)
    slot.state = slot.isCancelled ? 'free' : 'ready'
    if (!slot.isCancelled) return
    this.#slotOf[slot.expert] = -1
    slot.expert = -1
  }

  #tell(kind: number, expert: number, slot: number): void {
    this.#events.push(kind, expert, placeOf(Tier.ram, slot), 0)
  }

  /** From 0 to limit - 1, by a linear congruence; only its high bits are good enough. */
  #draw(limit: number): number {
    this.#random = (Math.imul(this.#random, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((this.#random / 2 ** 32) * limit)
  }
}

function fieldsOf(order: Int32Array): { expert: number; at: number; urgency: number } {
  return {
    expert: order[OrderField.expert] ?? -1,
    at: slotOf(order[OrderField.to] ?? -1),
    urgency: order[OrderField.urgency] ?? -1,
  }
}

function isUrgency(value: number): boolean {
  return value >= Urgency.demand && value <= Urgency.cancel
}
