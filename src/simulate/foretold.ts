// Foresight that knows, and foresight that is always wrong, for tests of what reads by it. Both go by what
// was recorded of an earlier run of the same steps.
import type { Foresight } from '../prefetch/forecast.js'

/** Indices of the experts that the layer wants in that step, counted from 0 by calls of `begin`. */
export type Truth = (step: number, moeLayer: number) => readonly number[]

/** Everything that will be wanted is certain, and nothing else. */
export class Oracle implements Foresight {
  readonly #probabilities: Float32Array
  #step = -1

  constructor(
    experts: number,
    private readonly truth: Truth,
  ) {
    this.#probabilities = new Float32Array(experts)
  }

  begin(): void {
    this.#step += 1
  }

  early(moeLayer: number): Float32Array {
    return this.prior(moeLayer)
  }

  prior(moeLayer: number): Float32Array {
    this.#probabilities.fill(0)
    for (const index of this.truth(this.#step, moeLayer)) this.#probabilities[index] = 1
    return this.#probabilities
  }

  used(): void {}
}

/** As many experts as will be wanted are certain, and none of them is: where that many others are left. */
export class AlwaysWrong implements Foresight {
  readonly #probabilities: Float32Array
  #step = -1

  constructor(
    private readonly experts: number,
    private readonly truth: Truth,
  ) {
    this.#probabilities = new Float32Array(experts)
  }

  begin(): void {
    this.#step += 1
  }

  early(moeLayer: number): Float32Array {
    return this.prior(moeLayer)
  }

  /** Others in every step and layer, so that no read of one serves the next. */
  prior(moeLayer: number): Float32Array {
    const wanted = this.truth(this.#step, moeLayer)
    this.#probabilities.fill(0)
    let left = Math.min(wanted.length, this.experts - wanted.length)
    for (let turn = 0; left > 0; turn += 1) {
      const index = (turn + 7 * this.#step + 3 * moeLayer) % this.experts
      if (wanted.includes(index)) continue
      this.#probabilities[index] = 1
      left -= 1
    }
    return this.#probabilities
  }

  used(): void {}
}
