// Decode of a trace as the engine would go through it, in time that is computed: the engine's own cache,
// policy and look-ahead, given the trace's routing and early scores, over a drive that serves what they
// order. A layer first computes what precedes its experts, then its hits while the drive reads, then each
// of the others as it lands. Prompts only warm: their reads land at once. With slots in RAM below, those
// above are a GPU's, and what they miss is copied from there.
import type { TierParts } from '../cache/below.js'
import { type LayerCounts, newLayerCounts } from '../cache/counts.js'
import { expertOf, nowhere, type Place, placeOf, Tier } from '../cache/place.js'
import { createPolicy, defaultPolicy } from '../cache/policies.js'
import type { CacheShape, Policy } from '../cache/policy.js'
import { EventField, EventKind, OrderField, UseField } from '../cache/records.js'
import { SlotCache } from '../cache/slotcache.js'
import { Forecast, type ForecastShape, type Foresight } from '../prefetch/forecast.js'
import type { PrefetchMode } from '../prefetch/governor.js'
import { Prefetch } from '../prefetch/prefetch.js'
import type { Routers } from './foresightrouter.js'
import { AlwaysWrong, Oracle, type Truth } from './foretold.js'
import type { Figures, MachineModel } from './machine.js'
import { nobody, type Routing, type Visit } from './routing.js'
import { ScoreReader } from './scores.js'
import { tokenIdsOf } from './tracefile.js'
import { VirtualDrive } from './virtualdrive.js'

/** How experts are foreseen: as the engine does, by one who knows, or by one who is always wrong. */
export type LookAheadName = 'off' | 'auto' | 'on' | 'oracle' | 'wrong'

/** What became of what was read ahead. */
export interface AheadFigures {
  /** Experts read ahead, and those of them that were wanted and had begun to be read. */
  readonly issued: number
  readonly used: number
  /** Bytes read for nothing for each that was of use; null where none was. */
  readonly wastedPerUseful: number | null
}

/** What a step waits for most: an end of the way of experts, or computing. */
export type Waits = 'drive' | 'link' | 'compute'

/** Where experts lay that decode wanted, and what that asked of the ways to the GPU. */
export interface TierFigures {
  readonly hits: { readonly gpu: number; readonly ram: number }
  readonly misses: number
  readonly bytes: { readonly drive: number; readonly link: number }
  /** Seconds in which each was at work. */
  readonly busy: Readonly<Record<Waits, number>>
  readonly bottleneck: Waits
}

export interface RehearsalParts {
  readonly policy: Policy
  readonly slotsPerLayer: number
  readonly machine: MachineModel
  readonly lookAhead: LookAheadName
  readonly routers: Routers
}

const tokensPerFit = 32
const none = new Int32Array(0)

export class Rehearsal {
  readonly #routing: Routing
  readonly #machine: MachineModel
  readonly #cache: SlotCache
  readonly #counts: LayerCounts
  readonly #drive: VirtualDrive
  readonly #prefetch: Prefetch | null
  readonly #reader: ScoreReader | null
  readonly #distances: readonly number[]
  /** [MoE layer][experts], as the cache sees them */
  readonly #scores: Float32Array
  readonly #early: Float32Array
  /** Of what precedes a layer's experts, and of one expert. */
  readonly #attendSeconds: number
  readonly #expertSeconds: number
  readonly #tokenIds: Int32Array
  #now = 0
  #needed = 0
  #isOn = false
  #hasLooked = false
  #began = 0
  #before = { demandSeconds: 0, busySeconds: 0, bytesRead: 0, bytesAhead: 0, bytesCancelled: 0 }
  #unusedBefore = 0
  #copiesBefore = { copies: 0, busySeconds: 0 }
  /** Seconds of computing. */
  #computed = 0
  readonly #tally = { hits: 0, hitsBelow: 0, misses: 0 }

  constructor(
    routing: Routing,
    { policy, slotsPerLayer, machine, lookAhead, routers }: RehearsalParts,
  ) {
    const { layers, experts, topK, scores } = routing
    const moeLayers = layers.length
    this.#routing = routing
    this.#tokenIds = tokenIdsOf(routing)
    this.#machine = machine
    this.#drive = new VirtualDrive(machine)
    this.#counts = newLayerCounts(moeLayers)
    this.#scores = new Float32Array(moeLayers * experts)
    this.#early = new Float32Array(experts)
    this.#attendSeconds = machine.layerSeconds * (1 - machine.expertShare)
    this.#expertSeconds = (machine.layerSeconds * machine.expertShare) / topK
    this.#reader = scores === null ? null : new ScoreReader(scores, moeLayers, experts)
    // Of slots that no layer count divides, layers have a broken number each.
    const slots = Math.round(slotsPerLayer * moeLayers)
    const shape = { moeLayers, experts, topK, slots }
    const given = this.#reader === null ? null : this.#scores
    const below = tierBelow(shape, machine)
    const tier = below === null ? Tier.ram : Tier.gpu
    this.#cache = new SlotCache(shape, policy, this.#counts, given, tier, below)
    for (let slot = 0; slot < shape.slots; slot += 1)
      this.#settleOne(EventKind.touched, -1, placeOf(tier, slot))
    for (let slot = 0; slot < (below?.shape.slots ?? 0); slot += 1)
      this.#settleOne(EventKind.touched, -1, placeOf(Tier.ram, slot))
    const distances = (this.#reader?.ahead ?? []).filter((distance) => distance < moeLayers)
    // Who knows what comes sees as far as the engine's routers do.
    this.#distances =
      distances.length === 0 && (lookAhead === 'oracle' || lookAhead === 'wrong')
        ? farSight
        : distances
    const seen = { moeLayers, experts, topK, distances: this.#distances, ...routers }
    this.#prefetch =
      lookAhead === 'off'
        ? null
        : new Prefetch(
            seen,
            foresightOf(lookAhead, routing, seen, routers),
            this.#cache,
            modeOf(lookAhead),
            machine.expertBytes,
          )
  }

  /** A layer wants its experts. Returns how many of them lay in slots, not counting what was just read ahead. */
  visit(visit: Visit): number {
    const { hits, aheadHits } = this.#counts
    const { moeLayer } = visit
    const before = (hits[moeLayer] ?? 0) - (aheadHits[moeLayer] ?? 0)
    this.#tellScores(visit)
    if (visit.isPrompt) this.#warm(visit)
    else this.#decode(visit)
    return (hits[moeLayer] ?? 0) - (aheadHits[moeLayer] ?? 0) - before
  }

  figures(tokens: number): Figures {
    const readSeconds = (this.#needed * this.#machine.expertBytes) / this.#machine.bytesPerSecond
    return {
      tokensPerSecond: this.#now === 0 ? 0 : tokens / this.#now,
      shareOfBound: this.#now === 0 ? 0 : readSeconds / this.#now,
    }
  }

  /** Of the decode part; null where there is one tier. */
  tiers(): TierFigures | null {
    const { belowShare, expertBytes } = this.#machine
    if (belowShare === undefined) return null
    const { link, busySeconds, bytesRead } = this.#drive
    const busy = { drive: busySeconds, link: link.busySeconds, compute: this.#computed }
    const waits = ['drive', 'link', 'compute'] as const
    return {
      hits: { gpu: this.#tally.hits - this.#tally.hitsBelow, ram: this.#tally.hitsBelow },
      misses: this.#tally.misses,
      bytes: { drive: bytesRead, link: link.copies * expertBytes },
      busy,
      bottleneck: waits.reduce((most, one) => (busy[one] > busy[most] ? one : most)),
    }
  }

  ahead(): AheadFigures | null {
    if (this.#prefetch === null) return null
    const { expertBytes } = this.#machine
    const wasted = this.#drive.bytesCancelled + this.#cache.unusedGuesses * expertBytes
    const useful = this.#drive.bytesAhead - wasted
    return {
      issued: sum(this.#counts.ahead),
      used: sum(this.#counts.ahead) - sum(this.#counts.aheadWasted),
      wastedPerUseful: useful > 0 ? wasted / useful : null,
    }
  }

  close(): void {
    this.#reader?.close()
  }

  #decode(visit: Visit): void {
    const { hits, hitsBelow, misses } = this.#counts
    const { moeLayer } = visit
    const of = (counts: Float64Array) => counts[moeLayer] ?? 0
    const before = { hits: of(hits), hitsBelow: of(hitsBelow), misses: of(misses) }
    this.#layer(visit)
    this.#tally.hits += of(hits) - before.hits
    this.#tally.hitsBelow += of(hitsBelow) - before.hitsBelow
    this.#tally.misses += of(misses) - before.misses
  }

  #layer(visit: Visit): void {
    const { moeLayer, firstToken } = visit
    if (moeLayer === 0) this.#beginStep(firstToken)
    this.#compute(this.#attendSeconds)
    this.#settle()
    this.#hear(visit)
    let left = this.#wantedOf(visit)
    this.#hasLooked = false
    this.#needed += this.#cache.missing(moeLayer, left)
    while (left.length > 0) {
      const places = this.#place(moeLayer, left)
      this.#lookAtOnce(moeLayer, firstToken, left)
      const placed = left.filter((_, at) => places[at] !== nowhere)
      left = left.filter((_, at) => places[at] === nowhere)
      // No slot can be had before something lands.
      if (placed.length === 0) this.#awaitEvent()
      else this.#mix(moeLayer, firstToken, placed)
    }
    this.#look(moeLayer, firstToken, none, false)
    if (moeLayer === this.#routing.layers.length - 1) this.#endStep()
  }

  #place(moeLayer: number, wanted: Int32Array): Int32Array {
    // A device does not stop where nothing is missing.
    if (wanted.every((index) => this.#isReady(moeLayer, index)))
      return new Int32Array(wanted.length)
    const { places, orders } = this.#cache.place(moeLayer, wanted, 1)
    const placed = places.slice()
    this.#drive.stage(orders)
    return placed
  }

  /** Hits first, then each of the others as it lands. */
  #mix(moeLayer: number, token: number, placed: Int32Array): void {
    for (let left = placed; left.length > 0; ) {
      const ready = left.filter((index) => this.#isReady(moeLayer, index))
      left = left.filter((index) => !ready.includes(index))
      this.#compute(ready.length * this.#expertSeconds)
      this.#settle()
      if (ready.length > 0) continue
      this.#lookWaiting(moeLayer, token, left)
      if (!left.some((index) => this.#isReady(moeLayer, index))) this.#awaitEvent()
    }
  }

  /** Before anything is computed, as LookAhead.ordered; where all lies ready, always. */
  #lookAtOnce(moeLayer: number, token: number, wanted: Int32Array): void {
    if (this.#prefetch === null) return
    const loads = this.#cache.missing(moeLayer, wanted)
    const bytes = loads * this.#machine.expertBytes
    const isReadFirst = this.#prefetch.pace.isReadFirst(bytes, wanted.length - loads)
    if (loads === 0 || isReadFirst) this.#look(moeLayer, token, wanted, false)
  }

  /** With nothing to compute, as LookAhead.at: the next layer's attention is run early, if there is time. */
  #lookWaiting(moeLayer: number, token: number, awaited: Int32Array): void {
    if (this.#prefetch === null) return
    const bytes = (awaited.length - 0.5) * this.#machine.expertBytes
    const attends =
      (this.#reader?.isAttended ?? false) && this.#prefetch.pace.isAttendedFirst(bytes)
    this.#look(moeLayer, token, awaited, attends)
  }

  #look(moeLayer: number, token: number, wanted: Int32Array, attends: boolean): void {
    const prefetch = this.#prefetch
    if (prefetch === null || !this.#isOn || this.#hasLooked) return
    this.#hasLooked = true
    const { experts, layers } = this.#routing
    const nearest = this.#distances[0] ?? layers.length
    if (moeLayer + nearest >= layers.length) return
    if (attends) {
      this.#compute(this.#attendSeconds)
      this.#settle()
    }
    for (const [at, distance] of this.#distances.entries()) {
      const scores = prefetch.scores.subarray(at * experts, (at + 1) * experts)
      if (this.#reader === null || moeLayer + distance >= layers.length) scores.fill(0)
      else if (attends) this.#reader.readAttended(token, moeLayer, at, scores)
      else this.#reader.readAhead(token, moeLayer, at, scores)
    }
    this.#cache.keep(moeLayer, wanted)
    this.#drive.stage(prefetch.ahead(moeLayer, attends))
  }

  #beginStep(token: number): void {
    const { demandSeconds, busySeconds, bytesRead, bytesAhead, bytesCancelled } = this.#drive
    this.#before = { demandSeconds, busySeconds, bytesRead, bytesAhead, bytesCancelled }
    this.#unusedBefore = this.#cache.unusedGuesses
    this.#began = this.#now
    const { copies, busySeconds: linkSeconds } = this.#drive.link
    this.#copiesBefore = { copies, busySeconds: linkSeconds }
    if (this.#prefetch === null) return
    this.#isOn = this.#prefetch.begin(this.#tokenIds.subarray(token, token + 1))
    if (!this.#isOn) return
    this.#cache.keep(0, none)
    this.#drive.stage(this.#prefetch.first())
  }

  #endStep(): void {
    this.#settle()
    const { demandSeconds, busySeconds, bytesRead, bytesAhead, bytesCancelled } = this.#drive
    const before = this.#before
    const unused = this.#cache.unusedGuesses - this.#unusedBefore
    const wasted = bytesCancelled - before.bytesCancelled + unused * this.#machine.expertBytes
    this.#prefetch?.end(
      {
        seconds: this.#now - this.#began,
        demandSeconds: demandSeconds - before.demandSeconds,
        driveBusySeconds: busySeconds - before.busySeconds,
        bytesRead: bytesRead - before.bytesRead,
        attendSeconds: this.#attendSeconds,
        expertSeconds: this.#expertSeconds,
        ...this.#copyTimes(),
      },
      Math.max(0, bytesAhead - before.bytesAhead - wasted),
      wasted,
    )
  }

  #copyTimes() {
    if (this.#machine.belowShare === undefined) return {}
    const { copies, busySeconds } = this.#drive.link
    return {
      copyBusySeconds: busySeconds - this.#copiesBefore.busySeconds,
      bytesCopied: (copies - this.#copiesBefore.copies) * this.#machine.expertBytes,
    }
  }

  /** A prompt: wave after wave, and everything lands at once. */
  #warm(visit: Visit): void {
    this.#hear(visit)
    for (let left = this.#wantedOf(visit); left.length > 0; ) {
      const { places, orders } = this.#cache.place(visit.moeLayer, left, visit.tokens)
      const isWaiting = places.map((place) => (place === nowhere ? 1 : 0))
      for (let at = 0; at < orders.length; at += OrderField.count) {
        this.#settleOne(
          EventKind.arrived,
          orders[at + OrderField.expert] ?? -1,
          (orders[at + OrderField.to] ?? 0) as Place,
        )
      }
      left = left.filter((_, at) => isWaiting[at] === 1)
    }
  }

  #hear({ uses, count }: Visit): void {
    const records = uses.slice(0, count * UseField.count)
    this.#cache.used(records)
    this.#prefetch?.used(records)
  }

  /** Mean probabilities over the visit's tokens, where the trace has any. */
  #tellScores({ moeLayer, firstToken, tokens }: Visit): void {
    if (this.#reader === null) return
    const { experts } = this.#routing
    const row = this.#scores.subarray(moeLayer * experts, (moeLayer + 1) * experts).fill(0)
    for (let token = firstToken; token < firstToken + tokens; token += 1) {
      this.#reader.read(token, moeLayer, this.#early)
      for (let index = 0; index < experts; index += 1)
        row[index] = (row[index] ?? 0) + (this.#early[index] ?? 0) / tokens
    }
  }

  #wantedOf({ moeLayer, uses, count }: Visit): Int32Array {
    const first = moeLayer * this.#routing.experts
    return Int32Array.from(
      { length: count },
      (_, at) => (uses[at * UseField.count + UseField.expert] ?? 0) - first,
    )
  }

  #isReady(moeLayer: number, index: number): boolean {
    return this.#cache.isReady(expertOf(moeLayer, index, this.#routing.experts))
  }

  #compute(seconds: number): void {
    this.#now += seconds
    this.#computed += seconds
    this.#drive.runUntil(this.#now)
  }

  #settle(): void {
    const events = this.#drive.events()
    if (events.length > 0) this.#cache.settle(events)
  }

  #awaitEvent(): void {
    this.#drive.runToEvent()
    this.#now = Math.max(this.#now, this.#drive.now)
    this.#settle()
  }

  #settleOne(kind: number, expert: number, place: Place): void {
    const event = new Int32Array(EventField.count)
    event[EventField.kind] = kind
    event[EventField.expert] = expert
    event[EventField.to] = place
    this.#cache.settle(event)
  }
}

/** Slots in RAM, where the machine has some below those of a GPU. */
function tierBelow(shape: CacheShape, { belowShare }: MachineModel): TierParts | null {
  if (belowShare === undefined) return null
  const slots = Math.round(belowShare * shape.experts * shape.moeLayers)
  const of = { ...shape, slots: Math.min(slots, shape.experts * shape.moeLayers) }
  const policy = createPolicy(defaultPolicy, of)
  if ('problem' in policy) throw new Error(policy.problem)
  return { shape: of, policy }
}

/** Distances at which one who knows is asked where a trace has no early scores. */
const farSight: readonly number[] = [1, 2, 4]

function modeOf(name: LookAheadName): PrefetchMode {
  return name === 'off' || name === 'auto' ? name : 'on'
}

function foresightOf(
  name: LookAheadName,
  routing: Routing,
  shape: ForecastShape,
  { bias }: Routers,
): Foresight {
  if (name === 'oracle') return new Oracle(routing.experts, truthOf(routing))
  if (name === 'wrong') return new AlwaysWrong(routing.experts, truthOf(routing))
  return new Forecast(shape, { bias, tokensPerFit })
}

/** What is wanted in the steps of decode, in their order. */
function truthOf({ sequences, layers, topK, ids }: Routing): Truth {
  const tokens = sequences.flatMap(({ first, tokens, prompt }) =>
    Array.from({ length: tokens - prompt }, (_, at) => first + prompt + at),
  )
  return (step, moeLayer) => {
    const start = ((tokens[step] ?? 0) * layers.length + moeLayer) * topK
    return [...ids.subarray(start, start + topK)].filter((id) => id !== nobody)
  }
}

function sum(values: Float64Array): number {
  return values.reduce((total, value) => total + value, 0)
}
