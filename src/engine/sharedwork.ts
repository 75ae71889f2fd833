// Between the engine's steps and how experts are shared with the processor (src/cache/sharing.ts): tells what
// copies and the processor took, and lets a governor find out by the clock whether sharing pays at all: steps
// come with and without it, and where it loses it stays off but for a look now and then.
import { Counter } from '../../native/index.js'
import type { Sharing } from '../cache/sharing.js'
import { sharedTokens } from '../cache/slotcache.js'
import { Governor } from '../prefetch/governor.js'

/** Steps before the first window, so that it is not the same steps that go without this and without look-ahead. */
const stepsBefore = 8

export class SharedWork {
  readonly governor = new Governor('auto')
  readonly #sharing: Sharing
  /** [Counter.count] */
  readonly #counters: Float64Array
  readonly #expertBytes: number
  #steps = 0
  #isMeasured = false
  #beganMs = 0

  constructor(sharing: Sharing, counters: Float64Array, expertBytes: number) {
    this.#sharing = sharing
    this.#counters = counters
    this.#expertBytes = expertBytes
  }

  /** A step of so many tokens begins. */
  begin(tokens: number): void {
    this.#beganMs = performance.now()
    this.#isMeasured = tokens <= sharedTokens && this.#steps >= stepsBefore
    this.#sharing.isOn = !this.#isMeasured || this.governor.isOn
    if (tokens <= sharedTokens) this.#steps += 1
  }

  /** Before a layer's experts are placed. */
  tell(): void {
    this.#sharing.did(
      this.#of(Counter.bytes_copied) / this.#expertBytes,
      this.#of(Counter.copy_busy_s),
      this.#of(Counter.host_experts),
      this.#of(Counter.host_s),
    )
  }

  end(): void {
    if (this.#isMeasured) this.governor.took((performance.now() - this.#beganMs) / 1000)
  }

  #of(counter: number): number {
    return this.#counters[counter] ?? 0
  }
}
