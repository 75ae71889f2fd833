// What a person should know of memory while a GPU computes: how much of the RAM that it copies from is pinned,
// once that is known, and when others take what was to be left of its own. It knows figures only; whoever runs
// steps has it look between them.
import { Counter } from '../../native/index.js'
import { type ExpertPlan, headRoomBytes } from './budget.js'

/** Where less than this share of what was left at first is left, a person is told; once, until it is more again. */
const scarceShare = 0.5
const gibibyte = 2 ** 30

export class GpuWatch {
  readonly #counters: Float64Array
  readonly #slotsBytes: number
  /** Of RAM, what is to be pinned. */
  readonly #lentBytes: number
  readonly #log: (line: string) => void
  #hasToldPinning = false
  /** Of the GPU's memory, what was left when the model was open; NaN: not told yet. */
  #leftAtFirst = Number.NaN
  #isScarce = false

  /** `counters`: [Counter.count] */
  constructor(counters: Float64Array, experts: ExpertPlan, log: (line: string) => void) {
    this.#counters = counters
    this.#slotsBytes = experts.slots * experts.slotBytes
    this.#lentBytes = (experts.rooms + experts.slotsBelow) * experts.slotBytes
    this.#log = log
  }

  look(): void {
    this.#lookAtPinning()
    this.#lookAtMemory()
  }

  #lookAtPinning(): void {
    const lent = this.#of(Counter.bytes_lent)
    if (this.#hasToldPinning || this.#lentBytes === 0 || lent < this.#lentBytes) return
    this.#hasToldPinning = true
    const pinned = this.#of(Counter.bytes_pinned)
    const seconds = this.#of(Counter.pin_s)
    const rate = seconds > 0 ? ` at ${sizeText(pinned / seconds)}/s` : ''
    if (pinned > 0) this.#log(`memory that the GPU copies from: ${sizeText(pinned)} pinned${rate}`)
    if (pinned < lent) {
      this.#log(
        `memory that the GPU copies from: ${sizeText(lent - pinned)} could not be pinned; copies from there are slower`,
      )
    }
  }

  #lookAtMemory(): void {
    const left = this.#of(Counter.gpu_free_bytes)
    if (left === 0) return
    if (Number.isNaN(this.#leftAtFirst)) this.#leftAtFirst = left
    const usual = Math.min(this.#leftAtFirst, headRoomBytes)
    const isScarce = left < scarceShare * usual
    if (isScarce && !this.#isScarce) {
      const fitting = Math.max(0, this.#slotsBytes - (usual - left))
      this.#log(
        `GPU memory: others have taken some, ${sizeText(left)} are left; --expert-vram ${fitting} would leave room for them`,
      )
    }
    this.#isScarce = isScarce
  }

  #of(counter: number): number {
    return this.#counters[counter] ?? 0
  }
}

function sizeText(bytes: number): string {
  return bytes < gibibyte
    ? `${(bytes / 2 ** 20).toPrecision(3)} MiB`
    : `${(bytes / gibibyte).toPrecision(3)} GiB`
}
