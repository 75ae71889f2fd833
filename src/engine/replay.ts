// A device made of a recorded trace: the same calls, the same refusals and the same stops as the
// native one, but the routing comes from the trace and nothing is computed. Policies and the engine
// are tried against it without weights. The sequence in slot n replays the trace's sequence n.
import {
  type Batch,
  Control,
  type Device,
  type Layout,
  Limit,
  OrderField,
  type Outcome,
  PartField,
  Reason,
  Rows,
  StopField,
  UseField,
} from '../../native/index.js'
import { type Expert, expertOf, nowhere, placeOf, Tier } from '../cache/place.js'
import { type Arrivals, atOnce, ReplaySlots, refusal } from './replayslots.js'
import type { Trace, TracedSequence } from './trace.js'

/** One part of an open step. */
interface ReplayedPart {
  readonly traced: TracedSequence
  readonly slot: number
  readonly position: number
  readonly tokens: number
  readonly rows: number
  readonly sampled: boolean
}

interface ReplayedStep {
  readonly parts: readonly ReplayedPart[]
  readonly tokens: number
  /** [MoE layer][token][topK] of the layers routed so far. */
  readonly experts: Uint16Array
  moeLayer: number
  /** Experts of the layer that are not mixed yet, rising. */
  wanted: number[]
  hasRouted: boolean
  ended: Reason | null
}

export class ReplayDevice implements Device {
  #state: 'unopened' | 'open' | 'closed' = 'unopened'
  #layout: Layout | null = null
  /** null: every expert is mapped. */
  #slots: ReplaySlots | null = null
  /** What layers routed to, records [UseField.count] of one layer each, that nobody has taken yet. */
  readonly #uses: number[][] = []
  readonly #steps = new Map<number, ReplayedStep>()
  #nextStep = 1

  /** `arrivals` matter when the layout gives it slots. */
  constructor(
    private readonly trace: Trace,
    private readonly arrivals: Arrivals = atOnce,
  ) {}

  open(layout: Layout): void {
    if (this.#state === 'closed') throw refusal('closed', 'the device is closed')
    if (this.#state === 'open') throw refusal('already_open', 'the device is open already')
    const { shape } = layout
    if (
      shape.experts !== this.trace.experts ||
      shape.topK !== this.trace.topK ||
      shape.layers - shape.firstMoeLayer !== this.trace.layers.length
    ) {
      throw refusal('bad_argument', 'the shape of the model is not that of the trace')
    }
    this.#layout = layout
    const experts = this.trace.layers.length * this.trace.experts
    if (layout.slots > 0) this.#slots = new ReplaySlots(layout.slots, experts, this.arrivals)
    this.#state = 'open'
  }

  begin(batch: Batch): number {
    const { limits } = this.#open()
    if (batch.parts < 1 || batch.parts > limits.parts) {
      throw refusal('bad_argument', `a batch has 1 to ${limits.parts} parts`)
    }
    const parts = Array.from({ length: batch.parts }, (_, index) => this.#partOf(batch, index))
    const tokens = parts.reduce((sum, part) => sum + part.tokens, 0)
    if (tokens > limits.stepTokens) {
      throw refusal('bad_argument', `a step takes 1 to ${limits.stepTokens} tokens`)
    }
    if (this.#steps.size >= Limit.steps_open) {
      throw refusal('busy', `${Limit.steps_open} steps are open already`)
    }
    const id = this.#nextStep
    this.#nextStep += 1
    this.#steps.set(id, {
      parts,
      tokens,
      experts: new Uint16Array(this.trace.layers.length * tokens * this.trace.topK),
      moeLayer: 0,
      wanted: [],
      hasRouted: false,
      ended: null,
    })
    return id
  }

  advance(id: number, stop: Int32Array): Reason {
    const { shape, lockstep } = this.#open()
    const step = this.#step(id)
    if (stop.length < StopField.experts + shape.experts) {
      throw refusal('bad_argument', 'the stop array is too short')
    }
    if (step.ended !== null) return step.ended
    while (step.moeLayer < this.trace.layers.length) {
      if (this.#isCancelled(step)) return this.#end(step, Reason.cancelled)
      if (!step.hasRouted) this.#route(step)
      if (!lockstep && this.#isResident(step)) step.wanted = []
      if (step.wanted.length > 0) {
        stop[StopField.layer] = shape.firstMoeLayer + step.moeLayer
        stop[StopField.wanted] = step.wanted.length
        stop[StopField.awaited] = 0
        stop.set(step.wanted, StopField.experts)
        return Reason.missing
      }
      step.moeLayer += 1
      step.hasRouted = false
    }
    return this.#end(step, Reason.done)
  }

  mix(id: number, places: Int32Array): void {
    this.#open()
    const step = this.#step(id)
    if (step.ended !== null || step.wanted.length === 0) {
      throw refusal('bad_step', `step ${id} is not waiting for experts`)
    }
    if (places.length !== step.wanted.length) {
      throw refusal('bad_argument', `the layer wants ${step.wanted.length} experts`)
    }
    const placed = step.wanted.filter((_, at) => places[at] !== nowhere)
    this.#checkPlaces(step, places, placed.length)
    for (const index of placed) {
      const isThere = this.#slots?.await(this.#expertOf(step, index)) ?? true
      if (!isThere) this.#end(step, Reason.failed)
    }
    step.wanted = step.wanted.filter((_, at) => places[at] === nowhere)
  }

  stage(orders: Int32Array): void {
    this.#open()
    if (orders.length % OrderField.count !== 0) {
      throw refusal('bad_argument', `orders come in records of ${OrderField.count} values`)
    }
    if (this.#slots !== null) this.#slots.stage(orders)
    else this.#takeAdvice(orders)
  }

  routed(uses: Int32Array): number {
    const { shape } = this.#open()
    if (uses.length < shape.experts * UseField.count) {
      throw refusal('bad_argument', 'the array of uses is too short for a layer')
    }
    let taken = 0
    for (let next = this.#uses[0]; next !== undefined; next = this.#uses[0]) {
      if (taken + next.length > uses.length) break
      uses.set(next, taken)
      taken += next.length
      this.#uses.shift()
    }
    return taken / UseField.count
  }

  /** A trace is replayed without its scores: nothing is known of later layers. */
  foresee(id: number, _attends: boolean, scores: Float32Array): void {
    this.#open()
    this.#step(id)
    scores.fill(0)
  }

  routerBiases(biases: Float32Array): void {
    this.#open()
    biases.fill(0)
  }

  /** It has no keys and values, so a copy of them is done at once, and none lie outside. */
  copyBlock(): void {
    this.#open()
  }

  readBlock(): void {
    throw refusal('bad_argument', 'a device that replays has no keys and values')
  }

  writeBlock(): void {
    throw refusal('bad_argument', 'a device that replays has no keys and values')
  }

  identify(): string {
    return 'replay'
  }

  poll(events: Int32Array, waitMs: number): number {
    this.#open()
    return this.#slots?.poll(events, waitMs > 0) ?? 0
  }

  sample(id: number, outcome: Outcome): Reason {
    this.#open()
    const step = this.#step(id)
    if (step.ended === null) throw refusal('bad_step', `step ${id} has not reached its end`)
    const rows = step.parts.reduce((sum, part) => sum + rowCount(part), 0)
    if (step.ended === Reason.done && rows > outcome.next.length) {
      throw refusal('bad_argument', `the step has ${rows} rows of logits`)
    }
    if (outcome.experts !== undefined && outcome.experts.length < step.experts.length) {
      throw refusal('bad_argument', 'the routing arrays are too short')
    }
    outcome.experts?.set(step.experts)
    if (step.ended === Reason.done) this.#draw(step, outcome)
    this.#steps.delete(id)
    return step.ended
  }

  close(): void {
    this.#steps.clear()
    this.#state = 'closed'
  }

  describe(): string {
    return this.#state === 'open' ? `replay of ${this.trace.model}` : ''
  }

  #open(): Layout {
    if (this.#state === 'closed') throw refusal('closed', 'the device is closed')
    if (this.#layout === null) throw refusal('not_open', 'the device has not been opened')
    return this.#layout
  }

  #step(id: number): ReplayedStep {
    const step = this.#steps.get(id)
    if (step === undefined) throw refusal('bad_step', `no open step has the number ${id}`)
    return step
  }

  #partOf(batch: Batch, index: number): ReplayedPart {
    const field = (name: keyof typeof PartField) =>
      batch.part[index * PartField.count + PartField[name]] ?? -1
    const [tokens, position, slot] = [field('tokens'), field('position'), field('sequence')]
    const traced = this.trace.sequences[slot]
    if (traced === undefined || position < 0 || tokens < 1 || position + tokens > traced.tokens) {
      throw refusal('bad_argument', `part ${index} is not in the trace`)
    }
    return { traced, slot, position, tokens, rows: field('rows'), sampled: field('sampled') !== 0 }
  }

  #isCancelled(step: ReplayedStep): boolean {
    const { control } = this.#open()
    return step.parts.every((part) => Atomics.load(control, Control.cancel + part.slot) !== 0)
  }

  #route(step: ReplayedStep): void {
    const { topK } = this.trace
    const first = step.moeLayer * step.tokens * topK
    let token = 0
    for (const part of step.parts) {
      for (let index = 0; index < part.tokens; index += 1) {
        const at = first + token * topK
        const out = step.experts.subarray(at, at + topK)
        this.trace.expertsOf(part.traced, part.position + index, step.moeLayer, out)
        token += 1
      }
    }
    const wanted = new Set(step.experts.subarray(first, first + step.tokens * topK))
    step.wanted = [...wanted].sort((a, b) => a - b)
    step.hasRouted = true
    this.#noteUses(step)
  }

  #noteUses(step: ReplayedStep): void {
    const { topK } = this.trace
    const first = step.moeLayer * step.tokens * topK
    const tokens = new Map<number, number>()
    for (const index of step.experts.subarray(first, first + step.tokens * topK)) {
      tokens.set(index, (tokens.get(index) ?? 0) + 1)
    }
    const uses = step.wanted.flatMap((index) => {
      const expert = this.#expertOf(step, index)
      const isReady = this.#slots?.isReady(expert)
      return [expert, tokens.get(index) ?? 0, isReady === undefined ? -1 : Number(isReady)]
    })
    this.#uses.push(uses)
  }

  #isResident(step: ReplayedStep): boolean {
    const slots = this.#slots
    if (slots === null) return true
    return step.wanted.every((index) => slots.isReady(this.#expertOf(step, index)))
  }

  #expertOf(step: ReplayedStep, index: number): Expert {
    return expertOf(step.moeLayer, index, this.trace.experts)
  }

  #checkPlaces(step: ReplayedStep, places: Int32Array, placed: number): void {
    for (const [at, index] of step.wanted.entries()) {
      const place = places[at] ?? nowhere
      if (place === nowhere) continue
      const expert = this.#expertOf(step, index)
      const isGood = this.#slots?.isPlaceOf(place, expert) ?? place === placeOf(Tier.map, expert)
      if (!isGood) throw refusal('bad_argument', `place ${place} does not hold expert ${index}`)
      if (at >= placed && step.tokens > Limit.unordered_tokens) {
        throw refusal(
          'bad_argument',
          'a large step takes its experts in rising index, without gaps',
        )
      }
    }
  }

  /** In the map an order is advice, and here there is nothing to advise. */
  #takeAdvice(orders: Int32Array): void {
    const experts = this.trace.layers.length * this.trace.experts
    for (let at = 0; at < orders.length; at += OrderField.count) {
      const [expert = -1, from = -1, to = -1] = orders.subarray(at)
      const isComing = from === nowhere && to === expert
      const isGoing = to === nowhere && from === expert
      if (expert < 0 || expert >= experts || !(isComing || isGoing)) {
        throw refusal('bad_order', `order ${at / OrderField.count} names no expert of the maps`)
      }
    }
  }

  #end(step: ReplayedStep, reason: Reason): Reason {
    step.ended = reason
    return reason
  }

  /** The "drawn" token is the one that follows in the trace, where the trace holds ids. */
  #draw(step: ReplayedStep, outcome: Outcome): void {
    let row = 0
    for (const part of step.parts) {
      const rows = rowCount(part)
      for (let index = 0; index < rows; index += 1) {
        const isLast = index === rows - 1
        const after = part.traced.ids?.[part.position + part.tokens]
        outcome.next[row] = isLast && part.sampled ? (after ?? 0) : -1
        outcome.logprobs[row] = Number.NaN
        row += 1
      }
    }
  }
}

function rowCount(part: ReplayedPart): number {
  return part.rows === Rows.all ? part.tokens : part.rows === Rows.last ? 1 : 0
}
