// A device of numbers for tests of the cache: slots that obey the rules of the native ones and refuse
// everything else by throwing. Loads land when the test says so, and may fail. Slots of a GPU may have
// others below, in RAM, which are a device of their own.
import type { Cache } from '../src/cache/cache.js'
import { nowhere, placeOf, slotOf, Tier, tierOf } from '../src/cache/place.js'
import { EventKind, OrderField, Urgency } from '../src/cache/records.js'
import { unorderedTokens } from '../src/cache/slotcache.js'

type State = 'cold' | 'free' | 'loading' | 'ready'

interface Slot {
  state: State
  expert: number
  isAhead: boolean
  isCancelled: boolean
  /** The slot below that it is copied from; -1: it is read. */
  from: number
}

export class CacheDevice {
  readonly slots: Slot[]
  /** Loads that were ordered, in order; [expert, urgency]. */
  readonly ordered: [number, number][] = []
  /** Of those, experts that were copied from below. */
  readonly copied: number[] = []
  #above: CacheDevice | null = null
  #events: number[] = []
  readonly #slotOf = new Map<number, number>()

  constructor(
    readonly experts: number,
    slots: number,
    readonly tier: Tier = Tier.ram,
    readonly below: CacheDevice | null = null,
  ) {
    if (below !== null) below.#above = this
    this.slots = Array.from({ length: slots }, () => ({
      state: 'cold',
      expert: -1,
      isAhead: false,
      isCancelled: false,
      from: -1,
    }))
  }

  count(state: State): number {
    return this.slots.filter((slot) => slot.state === state).length
  }

  holds(expert: number): State | 'nowhere' {
    const at = this.#slotOf.get(expert)
    return at === undefined ? 'nowhere' : this.slot(at).state
  }

  loading(): number[] {
    return this.slots.filter(({ state }) => state === 'loading').map(({ expert }) => expert)
  }

  touch(slot: number): void {
    this.slot(slot).state = 'free'
    this.#tell(EventKind.touched, -1, slot)
  }

  touchAll(): this {
    this.below?.touchAll()
    for (const slot of this.slots.keys()) this.touch(slot)
    return this
  }

  land(expert: number, fails = false): void {
    const at = this.#slotOf.get(expert) ?? -1
    const slot = this.slot(at)
    if (slot.state !== 'loading') throw new Error(`expert ${expert} is not loading`)
    if (slot.from >= 0 && this.below?.holds(expert) === 'loading') {
      this.below.land(expert, fails)
      // What its read comes to, this has come to as well.
      if (this.holds(expert) === 'nowhere') return
    }
    slot.state = 'ready'
    if (slot.isCancelled) this.#drop(at, EventKind.cancelled)
    else if (fails) this.#drop(at, EventKind.failed)
    else this.#tell(EventKind.arrived, expert, at)
  }

  landAll(): void {
    this.below?.landAll()
    for (const expert of this.loading()) this.land(expert)
  }

  /** Everything that has happened since, told to the cache. */
  tell(cache: Cache): void {
    this.below?.tell(cache)
    cache.settle(Int32Array.from(this.#events))
    this.#events = []
  }

  stage(orders: Int32Array): void {
    const taken = new Set<number>()
    for (let at = 0; at < orders.length; at += OrderField.count) {
      const order = orders.subarray(at, at + OrderField.count)
      const isBelow = this.below !== null && tierOf(order[OrderField.to] ?? -1) === this.below.tier
      const device = isBelow ? this.below : this
      device.#obey(order, taken)
    }
  }

  /**
   * Checks the places of a layer's wanted experts and computes them: those that are loading land, or
   * fail. Returns what is still wanted.
   */
  mix(
    moeLayer: number,
    wanted: Int32Array,
    places: Int32Array,
    stepTokens: number,
    fails = () => false,
  ): Int32Array {
    if (places.length !== wanted.length) throw new Error('a place for each wanted expert')
    const isPlaced = [...places].map((place) => place !== nowhere)
    const gap = isPlaced.indexOf(false)
    if (stepTokens > unorderedTokens && gap >= 0 && isPlaced.lastIndexOf(true) > gap) {
      throw new Error('a large step takes its experts in rising index, without gaps')
    }
    for (const [at, index] of wanted.entries()) {
      const place = places[at] ?? nowhere
      if (place === nowhere) continue
      const expert = moeLayer * this.experts + index
      const slot = this.slot(slotOf(place))
      const isHeld = slot.expert === expert && /^(loading|ready)$/.test(slot.state)
      if (!isHeld || place !== placeOf(this.tier, slotOf(place))) {
        throw new Error(`place ${place} does not hold expert ${expert}`)
      }
      if (slot.isCancelled) throw new Error(`expert ${expert} was cancelled and may never come`)
      if (slot.state === 'loading') this.land(expert, fails())
    }
    return wanted.filter((_, at) => !isPlaced[at])
  }

  slot(at: number): Slot {
    const slot = this.slots[at]
    if (slot === undefined) throw new Error(`there is no slot ${at}`)
    return slot
  }

  #obey(order: Int32Array, taken: Set<number>): void {
    const [expert = -1, from = -1, to = -1, urgency = -1] = order
    if (expert < 0 || to !== placeOf(this.tier, slotOf(to))) {
      throw new Error(`order ${order} names no expert or slot`)
    }
    const at = slotOf(to)
    const slot = this.slot(at)
    if (slot.state === 'loading' && slot.expert === expert) {
      // What was cancelled is told later, and until then nothing can raise it again.
      if (urgency === Urgency.cancel) slot.isCancelled = true
      else if (urgency === Urgency.demand) slot.isAhead = false
      return
    }
    if (urgency === Urgency.cancel) throw new Error(`expert ${expert} is not loading`)
    if (slot.state === 'cold') throw new Error(`slot ${at} has not been touched`)
    if (slot.state === 'loading' || taken.has(to)) throw new Error(`slot ${at} is loading`)
    if (this.#isLent(at)) throw new Error(`slot ${at} is being copied from`)
    if (slot.expert >= 0) this.#slotOf.delete(slot.expert)
    if (this.#slotOf.has(expert)) throw new Error(`expert ${expert} lies somewhere already`)
    this.#checkSource(expert, from)
    taken.add(to)
    slot.state = 'loading'
    slot.expert = expert
    slot.isAhead = urgency === Urgency.ahead
    slot.isCancelled = false
    slot.from = from < 0 ? -1 : slotOf(from)
    if (from >= 0) this.copied.push(expert)
    this.#slotOf.set(expert, at)
    this.ordered.push([expert, urgency])
  }

  #isLent(at: number): boolean {
    const above = this.#above?.slots ?? []
    return above.some(({ state, from }) => state === 'loading' && from === at)
  }

  /** Lies the expert where it shall be copied from, and does nobody read it twice at once? */
  #checkSource(expert: number, from: number): void {
    const other = this.below ?? this.#above
    if (from < 0) {
      const at = other?.slots.find((slot) => slot.expert === expert && slot.state === 'loading')
      if (at !== undefined && at.from < 0) throw new Error(`expert ${expert} is being read already`)
      return
    }
    if (this.below === null || from !== placeOf(this.below.tier, slotOf(from))) {
      throw new Error(`${from} is no place to copy from`)
    }
    const { state, expert: lies, isCancelled } = this.below.slot(slotOf(from))
    const isGood = lies === expert && /^(loading|ready)$/.test(state) && !isCancelled
    if (!isGood) throw new Error(`expert ${expert} does not lie in ${from}`)
  }

  #drop(at: number, kind: number): void {
    const slot = this.slot(at)
    const above = this.#above
    if (above !== null) {
      for (const [index, { state, from }] of above.slots.entries())
        if (state === 'loading' && from === at) above.#drop(index, kind)
    }
    this.#tell(kind, slot.expert, at)
    this.#slotOf.delete(slot.expert)
    slot.state = 'free'
    slot.expert = -1
    slot.isCancelled = false
  }

  #tell(kind: number, expert: number, slot: number): void {
    this.#events.push(kind, expert, placeOf(this.tier, slot), 0)
  }
}

/** Records of one layer, every expert for the same number of tokens, and nobody can tell where it lay. */
export function usesOf(
  moeLayer: number,
  experts: number,
  wanted: readonly number[],
  tokens = 1,
): Int32Array {
  return Int32Array.from(wanted.flatMap((index) => [moeLayer * experts + index, tokens, -1]))
}

/**
 * A layer's whole visit: uses, then waves until everything was computed. Returns the waves. Unless
 * `uses` says otherwise every expert is wanted by one token, in a sweep by all.
 */
export function visit(
  cache: Cache,
  device: CacheDevice,
  moeLayer: number,
  wanted: readonly number[],
  stepTokens = 1,
  uses = usesOf(moeLayer, device.experts, wanted, stepTokens > unorderedTokens ? stepTokens : 1),
): number {
  cache.used(uses)
  let left: Int32Array = Int32Array.from(wanted)
  let waves = 0
  for (; left.length > 0; waves += 1) {
    device.tell(cache)
    const plan = cache.place(moeLayer, left, stepTokens)
    device.stage(plan.orders)
    const rest = device.mix(moeLayer, left, plan.places, stepTokens)
    if (rest.length === left.length) device.landAll()
    left = rest
    if (waves > 10_000) throw new Error('the layer never ends')
  }
  device.tell(cache)
  return waves
}
