// How long decode would take on a machine given by a few numbers. A layer first computes what precedes
// its experts; then its missing experts are ordered together, and while the drive reads them one after
// the other the layer computes its hits, then each of the others as it lands. The drive takes experts
// in chunks: at most `depth` of them are under way, each takes `latency` until it begins to arrive, and
// they arrive at the drive's rate. Nothing is read ahead, so the drive rests from the last arrival of a
// layer to the orders of the next. What a prompt takes is not modelled.

export interface MachineModel {
  readonly bytesPerSecond: number
  readonly latencySeconds: number
  readonly chunkBytes: number
  /** Chunks under way. */
  readonly depth: number
  /** Of a link that what was read has to pass before it is computed with; infinite where there is none. */
  readonly copyBytesPerSecond: number
  /** Slots in RAM below those that are computed with, as a share of a layer's experts; absent: there are none. */
  readonly belowShare?: number
  readonly expertBytes: number
  /** A layer with all its experts in slots. */
  readonly layerSeconds: number
  /** Of that, the routed experts' share, which can be computed while others are read. */
  readonly expertShare: number
}

/** What a machine makes of hits and misses, layer by layer. */
export interface Course {
  layer(hits: number, misses: number): void
}

export interface Figures {
  readonly tokensPerSecond: number
  /** Bytes that had to be read / (the drive's rate x time). */
  readonly shareOfBound: number
}

export class Timeline implements Course {
  readonly #machine: MachineModel
  readonly #drive: Drive
  /** Of one routed expert. */
  readonly #expertSeconds: number
  #now = 0
  #loads = 0

  constructor(machine: MachineModel, topK: number) {
    this.#machine = machine
    this.#drive = new Drive(machine)
    this.#expertSeconds = (machine.layerSeconds * machine.expertShare) / topK
  }

  layer(hits: number, misses: number): void {
    const { layerSeconds, expertShare } = this.#machine
    const ordered = this.#now + layerSeconds * (1 - expertShare)
    this.#now = ordered + hits * this.#expertSeconds
    for (let load = 0; load < misses; load += 1) {
      const arrived = this.#drive.read(ordered)
      this.#now = Math.max(this.#now, arrived) + this.#expertSeconds
    }
    this.#loads += misses
  }

  figures(tokens: number): Figures {
    const { bytesPerSecond, expertBytes } = this.#machine
    const readSeconds = (this.#loads * expertBytes) / bytesPerSecond
    return {
      tokensPerSecond: this.#now === 0 ? 0 : tokens / this.#now,
      shareOfBound: this.#now === 0 ? 0 : readSeconds / this.#now,
    }
  }
}

/** Experts in the order in which they were asked for. */
class Drive {
  readonly #machine: MachineModel
  readonly #chunks: readonly number[]
  /** When the last `depth` chunks arrived, the oldest at `#oldest`. */
  readonly #arrivals: Float64Array
  #oldest = 0
  #last = 0

  constructor(machine: MachineModel) {
    const { expertBytes, chunkBytes, bytesPerSecond, depth } = machine
    const count = Math.ceil(expertBytes / chunkBytes)
    this.#machine = machine
    this.#chunks = Array.from({ length: count }, (_, chunk) => {
      return Math.min(chunkBytes, expertBytes - chunk * chunkBytes) / bytesPerSecond
    })
    this.#arrivals = new Float64Array(depth)
  }

  /** When an expert that is ordered at `ordered` has arrived. */
  read(ordered: number): number {
    for (const seconds of this.#chunks) {
      const begun = Math.max(ordered, this.#arrivals[this.#oldest] ?? 0)
      this.#last = Math.max(this.#last, begun + this.#machine.latencySeconds) + seconds
      this.#arrivals[this.#oldest] = this.#last
      this.#oldest = (this.#oldest + 1) % this.#arrivals.length
    }
    return this.#last
  }
}
