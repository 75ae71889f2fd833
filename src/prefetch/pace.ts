// How fast the machine is, as the last steps showed: the drive's rate, and for how long of each layer
// nobody waits for it. That is the time in which a guess can be read for nothing, and all that look-ahead
// can win. The same of the link that copies come over, where there is one. Knows no clock: it is told.

/** What one step took, in seconds of wall time, and what the drive did meanwhile. */
export interface StepTimes {
  readonly seconds: number
  /** With reads under way that the step waited for, computing beside them or not. */
  readonly demandSeconds: number
  readonly driveBusySeconds: number
  readonly bytesRead: number
  /** Of one layer's attention, and of one expert. */
  readonly attendSeconds: number
  readonly expertSeconds: number
  /** With copies between tiers under way, and their bytes; absent: there is one tier. */
  readonly copyBusySeconds?: number
  readonly bytesCopied?: number
}

/** What is kept of an average when a step passes. */
const kept = 0.9

export class Pace {
  readonly #moeLayers: number
  #busySeconds = 0
  #bytes = 0
  #idleSeconds = 0
  #attendSeconds = 0
  #expertSeconds = 0
  #copyBusySeconds = 0
  #bytesCopied = 0
  #linkIdleSeconds = 0
  #steps = 0

  constructor(moeLayers: number) {
    this.#moeLayers = moeLayers
  }

  took(times: StepTimes): void {
    const { seconds, demandSeconds, driveBusySeconds, bytesRead } = times
    this.#busySeconds = kept * this.#busySeconds + driveBusySeconds
    this.#bytes = kept * this.#bytes + bytesRead
    this.#idleSeconds = kept * this.#idleSeconds + Math.max(0, seconds - demandSeconds)
    this.#attendSeconds = kept * this.#attendSeconds + times.attendSeconds
    this.#expertSeconds = kept * this.#expertSeconds + times.expertSeconds
    const { copyBusySeconds = 0, bytesCopied = 0 } = times
    this.#copyBusySeconds = kept * this.#copyBusySeconds + copyBusySeconds
    this.#bytesCopied = kept * this.#bytesCopied + bytesCopied
    this.#linkIdleSeconds = kept * this.#linkIdleSeconds + Math.max(0, seconds - copyBusySeconds)
    this.#steps = kept * this.#steps + 1
  }

  /** Whether so many bytes are read before so many experts are computed. */
  isReadFirst(bytes: number, experts: number): boolean {
    if (this.#steps === 0 || this.bytesPerSecond === 0) return false
    return bytes / this.bytesPerSecond < (experts * this.#expertSeconds) / this.#steps
  }

  /** Whether the attention of a layer is computed before so many bytes are read. */
  isAttendedFirst(bytes: number): boolean {
    if (this.#steps === 0 || this.bytesPerSecond === 0) return false
    return bytes / this.bytesPerSecond > this.#attendSeconds / this.#steps
  }

  /** Of the drive while it reads; 0 as long as nothing was read. */
  get bytesPerSecond(): number {
    return this.#busySeconds > 0 ? this.#bytes / this.#busySeconds : 0
  }

  /** Bytes that could be copied between tiers in each layer while nothing is. */
  get idleCopyBytesPerLayer(): number {
    if (this.#steps === 0 || this.#copyBusySeconds === 0) return 0
    const bytesPerSecond = this.#bytesCopied / this.#copyBusySeconds
    return (this.#linkIdleSeconds / this.#steps / this.#moeLayers) * bytesPerSecond
  }

  /** Bytes that the drive could read between the demands of one layer and those of the next. */
  get idleBytesPerLayer(): number {
    if (this.#steps === 0) return 0
    return (this.#idleSeconds / this.#steps / this.#moeLayers) * this.bytesPerSecond
  }
}
