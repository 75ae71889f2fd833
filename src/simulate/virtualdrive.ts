// A drive in time that is computed: it takes the orders that a device would be given and serves them
// chunk by chunk. Reads that somebody waits for go first; of the others only so much is under way as
// the native reader allows, since a chunk under way is not called back. What has landed may have to
// pass a second link before it can be computed with; where it stays in a tier below it is copied from
// there (virtuallink.ts). Tells events as a device does, and the time of each. Must not know what a
// layer is.
import { nowhere, type Place, Tier, tierOf } from '../cache/place.js'
import { EventField, EventKind, OrderField, Urgency } from '../cache/records.js'
import type { MachineModel } from './machine.js'
import { VirtualLink } from './virtuallink.js'

/** Look-ahead bytes under way, as a share of an expert: the native reader has the same number. */
const aheadUnderWayMost = 0.08

interface Read {
  readonly expert: number
  readonly to: Place
  urgency: Urgency
  /** Not asked of the drive yet, and asked for but not here. */
  bytesLeft: number
  bytesUnderWay: number
}

interface Chunk {
  readonly read: Read
  readonly bytes: number
  readonly arrival: number
  readonly isAhead: boolean
}

export class VirtualDrive {
  readonly #machine: MachineModel
  readonly #aheadChunkBytes: number
  /** From a tier below. */
  readonly link: VirtualLink
  readonly #reads = new Map<number, Read>()
  readonly #demanded: Read[] = []
  readonly #guessed: Read[] = []
  /** In the order in which they were asked for, which is that in which they arrive. */
  readonly #underWay: Chunk[] = []
  readonly #passing: { readonly read: Read; readonly ready: number }[] = []
  #events: number[] = []
  #now = 0
  #lastArrival = 0
  #lastPassed = 0
  #aheadUnderWay = 0
  #waitedFor = 0
  /** Seconds with a chunk under way, and with a read under way that somebody waits for. */
  busySeconds = 0
  demandSeconds = 0
  bytesRead = 0
  /** Of that, while nobody waited for it, and of reads that were called back. */
  bytesAhead = 0
  bytesCancelled = 0

  constructor(machine: MachineModel) {
    this.#machine = machine
    this.link = new VirtualLink(machine.copyBytesPerSecond, machine.expertBytes)
    const most = aheadUnderWayMost * machine.expertBytes
    this.#aheadChunkBytes = Math.min(machine.chunkBytes, most)
  }

  get now(): number {
    return this.#now
  }

  /** Orders [n][OrderField.count] of this moment. */
  stage(orders: Int32Array): void {
    for (let at = 0; at < orders.length; at += OrderField.count) {
      const expert = orders[at + OrderField.expert] ?? -1
      const urgency = (orders[at + OrderField.urgency] ?? 0) as Urgency
      const to = (orders[at + OrderField.to] ?? 0) as Place
      const from = orders[at + OrderField.from] ?? nowhere
      const read = this.#reads.get(expert)
      if (from !== nowhere || (this.link.has(expert) && read?.to !== to)) {
        this.#copy(expert, to, urgency)
        continue
      }
      // What has landed, and has not been told yet, needs no other order.
      if (read === undefined && this.#isUntold(expert, to)) continue
      if (read === undefined) this.#begin(expert, to, urgency)
      else if (urgency === Urgency.cancel) this.#cancel(read)
      else if (urgency === Urgency.demand) this.#promote(read)
    }
  }

  /** Serves until then. */
  runUntil(time: number): void {
    while (this.#turn(time));
  }

  /** Serves until something can be told. */
  runToEvent(): void {
    while (this.#events.length === 0) {
      if (!this.#turn(Number.POSITIVE_INFINITY)) throw new Error('nothing is being read')
    }
  }

  /** Records [EventField.count] since the last call. */
  events(): Int32Array {
    const events = Int32Array.from(this.#events)
    this.#events = []
    return events
  }

  #isUntold(expert: number, to: Place): boolean {
    for (let at = 0; at < this.#events.length; at += EventField.count) {
      const isSame = this.#events[at + EventField.expert] === expert
      if (isSame && this.#events[at + EventField.to] === to) return true
    }
    return false
  }

  /** An order for what is filled from the tier below. */
  #copy(expert: number, to: Place, urgency: Urgency): void {
    if (!this.link.has(expert)) {
      if (!this.#isUntold(expert, to)) this.link.want(expert, to, urgency, !this.#reads.has(expert))
    } else if (urgency === Urgency.demand) {
      this.link.promote(expert)
    } else if (urgency === Urgency.cancel) {
      const dropped = this.link.drop(expert)
      if (dropped !== null) this.#record(EventKind.cancelled, expert, dropped)
    }
  }

  #begin(expert: number, to: Place, urgency: Urgency): void {
    const read = { expert, to, urgency, bytesLeft: this.#machine.expertBytes, bytesUnderWay: 0 }
    this.#reads.set(expert, read)
    if (urgency === Urgency.demand) this.#demand(read)
    else this.#guessed.push(read)
  }

  #demand(read: Read): void {
    this.#demanded.push(read)
    this.#waitedFor += 1
  }

  #promote(read: Read): void {
    if (read.urgency === Urgency.demand) return
    read.urgency = Urgency.demand
    this.#remove(read)
    this.#demand(read)
  }

  #cancel(read: Read): void {
    read.urgency = Urgency.cancel
    this.#remove(read)
    const { expertBytes } = this.#machine
    this.bytesCancelled += expertBytes - read.bytesLeft - read.bytesUnderWay
    read.bytesLeft = 0
    if (read.bytesUnderWay === 0) this.#tell(read)
  }

  #remove(read: Read): void {
    const at = this.#guessed.indexOf(read)
    if (at >= 0) this.#guessed.splice(at, 1)
  }

  /** What happens next, if it does until then; else time passes. Returns whether it did. */
  #turn(time: number): boolean {
    if (this.#ask()) return true
    this.link.begin(this.#now)
    const arrival = this.#underWay[0]?.arrival ?? Number.POSITIVE_INFINITY
    const passed = this.#passing[0]?.ready ?? Number.POSITIVE_INFINITY
    const next = Math.min(arrival, passed, this.link.end)
    if (next > time || next === Number.POSITIVE_INFINITY) {
      if (time < Number.POSITIVE_INFINITY) this.#pass(Math.max(time, this.#now))
      return false
    }
    const isCopied = this.link.end === next
    this.#pass(next)
    if (isCopied) this.#copied()
    else if (passed <= arrival) this.#ready()
    else this.#arrive()
    return true
  }

  #pass(time: number): void {
    const seconds = time - this.#now
    if (this.#underWay.length > 0) this.busySeconds += seconds
    if (this.#waitedFor > 0) this.demandSeconds += seconds
    this.#now = time
  }

  /** Asks the drive for one more chunk, if it may. */
  #ask(): boolean {
    if (this.#underWay.length >= this.#machine.depth) return false
    const demanded = this.#nextOf(this.#demanded)
    const read = demanded ?? this.#nextOf(this.#guessed)
    if (read === null) return false
    const isAhead = demanded === null
    const bytes = Math.min(
      read.bytesLeft,
      isAhead ? this.#aheadChunkBytes : this.#machine.chunkBytes,
    )
    const most = aheadUnderWayMost * this.#machine.expertBytes
    if (isAhead && this.#aheadUnderWay > 0 && this.#aheadUnderWay + bytes > most) return false
    const { latencySeconds, bytesPerSecond } = this.#machine
    this.#lastArrival =
      Math.max(this.#lastArrival, this.#now + latencySeconds) + bytes / bytesPerSecond
    read.bytesLeft -= bytes
    read.bytesUnderWay += bytes
    if (isAhead) this.#aheadUnderWay += bytes
    this.#underWay.push({ read, bytes, arrival: this.#lastArrival, isAhead })
    return true
  }

  /** The oldest with something left to ask for; those before it are forgotten. */
  #nextOf(reads: Read[]): Read | null {
    for (let first = reads[0]; first !== undefined; first = reads[0]) {
      if (first.bytesLeft > 0) return first
      reads.shift()
    }
    return null
  }

  #arrive(): void {
    const chunk = this.#underWay.shift()
    if (chunk === undefined) return
    const { read, bytes, isAhead } = chunk
    read.bytesUnderWay -= bytes
    this.bytesRead += bytes
    if (isAhead) {
      this.#aheadUnderWay -= bytes
      this.bytesAhead += bytes
    }
    if (read.urgency === Urgency.cancel) this.bytesCancelled += bytes
    if (read.bytesLeft + read.bytesUnderWay > 0) return
    const { copyBytesPerSecond, expertBytes, chunkBytes } = this.#machine
    const staysBelow = this.#machine.belowShare !== undefined && tierOf(read.to) === Tier.ram
    if (
      staysBelow ||
      copyBytesPerSecond === Number.POSITIVE_INFINITY ||
      read.urgency === Urgency.cancel
    ) {
      this.#tell(read)
      return
    }
    // Chunks pass as they land: the last one remains, unless the link is behind.
    this.#lastPassed = Math.max(
      this.#now + Math.min(chunkBytes, expertBytes) / copyBytesPerSecond,
      this.#lastPassed + expertBytes / copyBytesPerSecond,
    )
    this.#passing.push({ read, ready: this.#lastPassed })
  }

  #ready(): void {
    const passed = this.#passing.shift()
    if (passed !== undefined) this.#tell(passed.read)
  }

  #copied(): void {
    const done = this.link.finish()
    if (done !== null) this.#record(EventKind.arrived, done.expert, done.to)
  }

  #tell({ expert, to, urgency }: Read): void {
    this.#reads.delete(expert)
    if (urgency === Urgency.demand) this.#waitedFor -= 1
    const isCancelled = urgency === Urgency.cancel
    this.#record(isCancelled ? EventKind.cancelled : EventKind.arrived, expert, to)
    if (!isCancelled) {
      this.link.landed(expert)
      return
    }
    // What waits for the read follows it.
    const dropped = this.link.drop(expert)
    if (dropped !== null) this.#record(EventKind.cancelled, expert, dropped)
  }

  #record(kind: number, expert: number, to: Place): void {
    const record = new Array<number>(EventField.count).fill(0)
    record[EventField.kind] = kind
    record[EventField.expert] = expert
    record[EventField.to] = to
    this.#events.push(...record)
  }
}
