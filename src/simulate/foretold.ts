// Foresight that knows, and foresight that is always wrong: what look-ahead could gain at best, and what it
// may cost at worst. Both go by what was recorded of the same steps.
import type { Foresight } from '../prefetch/forecast.js'

/** Indices of the experts that the layer wants in that step, counted from 0 by calls of `begin`. */
export type Truth = (step: number, moeLayer: number) => readonly number[]

/** Certain of the experts that are named, whatever the scores say. */
abstract class Certain implements Foresight {
  readonly #probabilities: Float32Array
  #step = -1

  constructor(
    protected readonly experts: number,
    protected readonly truth: Truth,
  ) {
    this.#probabilities = new Float32Array(experts)
  }

  protected abstract named(step: number, moeLayer: number): Iterable<number>

  begin(): void {
    this.#step += 1
  }

  early(moeLayer: number): Float32Array {
    return this.prior(moeLayer)
  }

  prior(moeLayer: number): Float32Array {
    this.#probabilities.fill(0)
    for (const index of this.named(this.#step, moeLayer)) this.#probabilities[index] = 1
    return this.#probabilities
  }

  used(): void {}
}

/** Everything that will be wanted is certain, and nothing else. */
export class Oracle extends Certain {
  protected named(step: number, moeLayer: number): Iterable<number> {
    return this.truth(step, moeLayer)
  }
}

/** As many experts as will be wanted are certain, and none of them is: where that many others are left. */
export class AlwaysWrong extends Certain {
  /** Others in every step and layer, so that no read of one serves the next. */
  protected named(step: number, moeLayer: number): Iterable<number> {
    const wanted = this.truth(step, moeLayer)
    const first = 7 * step + 3 * moeLayer
    const others = Array.from({ length: this.experts }, (_, turn) => (first + turn) % this.experts)
    return others.filter((index) => !wanted.includes(index)).slice(0, wanted.length)
  }
}
