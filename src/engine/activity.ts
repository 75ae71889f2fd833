// What the engine's thread writes down as it works, for whoever watches: where each expert lies and when
// it was last used, brought and given up, and how far each request is. All of it is plain numbers in
// shared memory, a few stores for an event; nothing is sent and nobody is waited for. It knows events and
// uses, not the cache that acts on them.
import { EventField, EventKind, UseField } from '../../native/index.js'
import { slotOf, Tier, tierOf } from '../cache/place.js'
import type { Sequence } from './sequence.js'

/** Columns of a request's row; times are milliseconds since 1970, NaN where there is none yet. */
export const SequenceField = {
  state: 0,
  /** Counts requests from 1, so that a row that was taken over is noticed. */
  number: 1,
  promptTokens: 2,
  /** Tokens whose keys and values are kept. */
  read: 3,
  drawn: 4,
  drawnMost: 5,
  /** Prompt tokens that did not have to be computed; NaN before the first was read. */
  cached: 6,
  arrivedMs: 7,
  firstMs: 8,
  lastMs: 9,
  count: 10,
} as const

/** Values of SequenceField.state, by index. */
export const sequenceStates = [
  'none',
  'waiting',
  'reading',
  'drawing',
  'stop',
  'length',
  'cancelled',
  'failed',
] as const
export type SequenceState = (typeof sequenceStates)[number]

/** Index in `totals`, since open. */
export const Total = { read: 0, drawn: 1, begun: 2, ended: 3, failed: 4, count: 5 } as const

export interface Activity {
  /** [expert of the model] 1: in a slot, or where experts are mapped, seen in memory; 0: on disk. */
  readonly isResident: Uint8Array
  /** [expert of the model] 1: in a slot in RAM below those of a GPU, whether or not in one of those. */
  readonly isBelow: Uint8Array
  /** [expert of the model] steps done at that moment, plus 1; 0: never. */
  readonly usedAt: Uint32Array
  readonly loadedAt: Uint32Array
  readonly leftAt: Uint32Array
  /** [expert of the model] steps that wanted it. */
  readonly uses: Uint32Array
  /** [slot of a request][SequenceField.count] */
  readonly sequences: Float64Array
  /** [Total.count] */
  readonly totals: Float64Array
}

/** `experts`: of the whole model. */
export function newActivity(experts: number, sequences: number): Activity {
  const words = () => new Uint32Array(new SharedArrayBuffer(experts * 4))
  return {
    isResident: new Uint8Array(new SharedArrayBuffer(experts)),
    isBelow: new Uint8Array(new SharedArrayBuffer(experts)),
    usedAt: words(),
    loadedAt: words(),
    leftAt: words(),
    uses: words(),
    sequences: new Float64Array(new SharedArrayBuffer(sequences * SequenceField.count * 8)),
    totals: new Float64Array(new SharedArrayBuffer(Total.count * 8)),
  }
}

/** Writes where experts lie; hears what the cache hears. */
export class ExpertLog {
  /** [slot] the expert that arrived there last, or -1; of the slots below those of a GPU too */
  readonly #expertIn: Int32Array
  readonly #expertBelow: Int32Array
  /** Whether experts have no slots and only a probe tells which lie in memory. */
  readonly #isMapped: boolean

  constructor(
    private readonly activity: Activity,
    {
      loadMode,
      slots,
      slotsBelow,
    }: { readonly loadMode: string; readonly slots: number; readonly slotsBelow: number },
  ) {
    this.#isMapped = loadMode === 'mapped'
    this.#expertIn = new Int32Array(slots).fill(-1)
    this.#expertBelow = new Int32Array(slotsBelow).fill(-1)
  }

  /** What became of orders: records [EventField.count]. */
  settled(events: Int32Array, steps: number): void {
    for (let at = 0; at < events.length; at += EventField.count) {
      const kind = events[at + EventField.kind]
      if (kind === EventKind.touched) continue
      const place = events[at + EventField.to] ?? 0
      const slot = slotOf(place)
      if (this.#expertBelow.length > 0 && tierOf(place) === Tier.ram) {
        this.#settledBelow(slot, kind === EventKind.arrived, events[at + EventField.expert] ?? 0)
        continue
      }
      this.#leave(this.#expertIn[slot] ?? -1, steps)
      this.#expertIn[slot] = -1
      if (kind !== EventKind.arrived) continue
      const expert = events[at + EventField.expert] ?? 0
      this.#expertIn[slot] = expert
      this.activity.isResident[expert] = 1
      this.activity.loadedAt[expert] = steps + 1
    }
  }

  #settledBelow(slot: number, hasArrived: boolean, expert: number): void {
    const { isBelow } = this.activity
    const before = this.#expertBelow[slot] ?? -1
    if (before >= 0) isBelow[before] = 0
    this.#expertBelow[slot] = hasArrived ? expert : -1
    if (hasArrived) isBelow[expert] = 1
  }

  /** What layers routed to: records [UseField.count]. */
  used(records: Int32Array, steps: number): void {
    const { usedAt, uses } = this.activity
    for (let at = 0; at < records.length; at += UseField.count) {
      const expert = records[at + UseField.expert] ?? 0
      usedAt[expert] = steps + 1
      uses[expert] = (uses[expert] ?? 0) + 1
      if (this.#isMapped) this.#probed(expert, records[at + UseField.resident] ?? -1, steps)
    }
  }

  #leave(expert: number, steps: number): void {
    if (expert < 0) return
    this.activity.isResident[expert] = 0
    this.activity.leftAt[expert] = steps + 1
  }

  /** A mapped expert that lay on disk lies in memory once it was used. */
  #probed(expert: number, resident: number, steps: number): void {
    if (resident < 0) return
    this.activity.isResident[expert] = 1
    if (resident === 0) this.activity.loadedAt[expert] = steps + 1
  }
}

/** Writes how far requests are. */
export class RequestLog {
  #number = 0

  constructor(private readonly activity: Activity) {}

  arrived({ slot, request }: Sequence): void {
    this.#number += 1
    this.#count(Total.begun, 1)
    this.#put(slot, SequenceField.number, this.#number)
    this.#put(slot, SequenceField.promptTokens, request.prompt.length)
    this.#put(slot, SequenceField.read, 0)
    this.#put(slot, SequenceField.drawn, 0)
    this.#put(slot, SequenceField.drawnMost, request.maxTokens)
    this.#put(slot, SequenceField.cached, Number.NaN)
    this.#put(slot, SequenceField.arrivedMs, Date.now())
    this.#put(slot, SequenceField.firstMs, Number.NaN)
    this.#put(slot, SequenceField.lastMs, Number.NaN)
    this.#enter(slot, 'waiting')
  }

  /** A step has read `tokens` of it. */
  read({ slot, computed, cached, promptLength }: Sequence, tokens: number): void {
    // What was drawn is read too, by the step after; of the prompt only the rest is news.
    this.#count(Total.read, Math.max(0, Math.min(tokens, promptLength - computed + tokens)))
    this.#put(slot, SequenceField.read, computed)
    this.#put(slot, SequenceField.cached, cached)
    this.#enter(slot, computed < promptLength ? 'reading' : 'drawing')
  }

  drew({ slot, drawn }: Sequence): void {
    this.#count(Total.drawn, 1)
    const now = Date.now()
    if (drawn === 1) this.#put(slot, SequenceField.firstMs, now)
    this.#put(slot, SequenceField.drawn, drawn)
    this.#put(slot, SequenceField.lastMs, now)
  }

  ended({ slot }: Sequence, reason: SequenceState): void {
    this.#count(Total.ended, 1)
    if (reason === 'failed') this.#count(Total.failed, 1)
    this.#enter(slot, reason)
  }

  #enter(slot: number, state: SequenceState): void {
    this.#put(slot, SequenceField.state, sequenceStates.indexOf(state))
  }

  #put(slot: number, field: number, value: number): void {
    const { sequences } = this.activity
    const at = slot * SequenceField.count + field
    if (at < sequences.length) sequences[at] = value
  }

  #count(total: number, by: number): void {
    const { totals } = this.activity
    totals[total] = (totals[total] ?? 0) + by
  }
}
