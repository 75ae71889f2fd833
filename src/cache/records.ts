// The records that cross between the cache and a device, field by field, and the list that orders are
// written into. The numbers are repeated from the native contract, and a test holds the two together.
import { type Expert, nowhere, type Place } from './place.js'

/**
 * What layers routed to: an expert, for how many tokens of the step, and whether it lay in memory then:
 * 1 yes, 0 no, -1 nobody can tell.
 */
export const UseField = { expert: 0, tokens: 1, resident: 2, count: 3 } as const

/** Calls `visit` with every layer that the records speak of, in their order; layers are in them whole. */
export function forEachLayer(
  records: Int32Array,
  expertsPerLayer: number,
  visit: (moeLayer: number, records: Int32Array, count: number) => void,
): void {
  const { count: width } = UseField
  let first = 0
  for (let at = width; at <= records.length; at += width) {
    const before = records[at - width] ?? 0
    const expert = records[at] ?? -1
    const layer = Math.floor(before / expertsPerLayer)
    if (expert > before && Math.floor(expert / expertsPerLayer) === layer) continue
    visit(layer, records.subarray(first, at), (at - first) / width)
    first = at
  }
}

/** Of how many tokens a layer's records are, each of which chose topK; `count` of them, or all. */
export function tokensOf(
  records: Int32Array,
  topK: number,
  count = records.length / UseField.count,
): number {
  let uses = 0
  for (let at = 0; at < count * UseField.count; at += UseField.count) {
    uses += records[at + UseField.tokens] ?? 0
  }
  return Math.max(1, Math.round(uses / topK))
}

export const EventField = { kind: 0, expert: 1, to: 2, code: 3, count: 4 } as const
/** After `failed` and `cancelled` the slot is free; `touched`: it may be used from now on. */
export const EventKind = { arrived: 0, failed: 1, cancelled: 2, touched: 3 } as const

export const OrderField = { expert: 0, from: 1, to: 2, urgency: 3, count: 4 } as const
export const Urgency = { demand: 0, ahead: 1, cancel: 2 } as const
export type Urgency = (typeof Urgency)[keyof typeof Urgency]

/** Of a sweep's next layer nearly everything will be wanted: that is no guess to the drive. */
export function urgencyOf(isSweep: boolean, isAhead: boolean): Urgency {
  return isAhead && !isSweep ? Urgency.ahead : Urgency.demand
}

/** Orders of one call; the array is filled again by the next, and grows only when it must. */
export class Orders {
  #records = new Int32Array(64 * OrderField.count)
  #length = 0

  clear(): void {
    this.#length = 0
  }

  add(expert: Expert, from: Place, to: Place, urgency: Urgency): void {
    if (this.#length === this.#records.length) {
      const larger = new Int32Array(2 * this.#records.length)
      larger.set(this.#records)
      this.#records = larger
    }
    const record = this.#length
    this.#records[record + OrderField.expert] = expert
    this.#records[record + OrderField.from] = from
    this.#records[record + OrderField.to] = to
    this.#records[record + OrderField.urgency] = urgency
    this.#length += OrderField.count
  }

  /** Reads the expert from disk. */
  load(expert: Expert, to: Place, urgency: Urgency): void {
    this.add(expert, nowhere, to, urgency)
  }

  /** [n][OrderField.count], valid until the next call. */
  get records(): Int32Array {
    return this.#records.subarray(0, this.#length)
  }
}
