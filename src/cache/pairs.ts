// What follows what: for every expert of a layer, how much more or less likely it is wanted soon when
// another has just been used: by the layer itself, now or one token before, or last by the layers next
// to it. A number for each pair, moved with each lesson. Knows single tokens only: of many at once
// nobody can say which followed which.
import { UseField } from './records.js'

/** Of which layer, and when. */
const Cue = { own: 0, ownEarlier: 1, layerBefore: 2, layerAfter: 3, count: 4 } as const

/** How far one lesson moves a pair. */
const pace = 0.02
const nobody = -1
/** Rows that are added at a time; Cue.count is a multiple. */
const together = 4

export class Pairs {
  readonly #layers: number
  readonly #experts: number
  readonly #topK: number
  /**
   * A row of zeros for nobody, then [row][expert that may follow] in the order of first lessons: so rows lie
   * side by side, and memory is taken, page by page, for what has been taught only.
   */
  readonly #weights: Float32Array
  /** [MoE layer][cue][expert used] which row; 0: there has been no lesson, all of its pairs are 0 */
  readonly #rowOf: Uint32Array
  #taught = 0
  /** [Cue.count * topK] where the rows begin that a sum is made of; the row of zeros behind them */
  readonly #rows: Int32Array
  /** [MoE layer][topK] indices in the layer, or nobody: of its last token, and of the one before */
  readonly #latest: Int32Array
  readonly #earlier: Int32Array
  /** [MoE layer][cue][topK] now, and when the lesson was noted */
  readonly #cues: Int32Array
  readonly #noted: Int32Array

  constructor(moeLayers: number, experts: number, topK: number) {
    this.#layers = moeLayers
    this.#experts = experts
    this.#topK = topK
    this.#weights = new Float32Array((moeLayers * Cue.count * experts + 1) * experts)
    this.#rowOf = new Uint32Array(moeLayers * Cue.count * experts)
    this.#rows = new Int32Array(Cue.count * topK)
    this.#latest = new Int32Array(moeLayers * topK).fill(nobody)
    this.#earlier = new Int32Array(moeLayers * topK).fill(nobody)
    this.#cues = new Int32Array(moeLayers * Cue.count * topK).fill(nobody)
    this.#noted = new Int32Array(moeLayers * Cue.count * topK).fill(nobody)
  }

  /** A layer has routed so many tokens: records [UseField.count], `count` of them. */
  used(moeLayer: number, records: Int32Array, count: number, tokens: number): void {
    const start = moeLayer * this.#topK
    const first = moeLayer * this.#experts
    for (let at = 0; at < this.#topK; at += 1) {
      const isThere = tokens === 1 && at < count
      this.#earlier[start + at] = this.#latest[start + at] ?? nobody
      this.#latest[start + at] = isThere
        ? (records[at * UseField.count + UseField.expert] ?? 0) - first
        : nobody
    }
    const before = (moeLayer + this.#layers - 1) % this.#layers
    const after = (moeLayer + 1) % this.#layers
    this.#copy(moeLayer, Cue.own, this.#latest, moeLayer)
    this.#copy(moeLayer, Cue.ownEarlier, this.#earlier, moeLayer)
    this.#copy(moeLayer, Cue.layerBefore, this.#latest, before)
    this.#copy(moeLayer, Cue.layerAfter, this.#latest, after)
  }

  /** For each expert of the layer the sum of its pairs with what was used, into `out` [expert of the model]. */
  sum(moeLayer: number, out: Float64Array): void {
    const start = moeLayer * this.#experts
    out.fill(0, start, start + this.#experts)
    const count = this.#listTaught(moeLayer)
    for (let at = 0; at < count; at += together) this.#add(at, out, start)
  }

  /** What was used now is what the layer's next lesson is about. */
  note(moeLayer: number): void {
    const width = Cue.count * this.#topK
    for (let at = moeLayer * width; at < (moeLayer + 1) * width; at += 1) {
      this.#noted[at] = this.#cues[at] ?? nobody
    }
  }

  /** `errors` [experts]: what came, less what had been expected when the lesson was noted. */
  learn(moeLayer: number, errors: Float64Array): void {
    const width = Cue.count * this.#topK
    for (let at = 0; at < width; at += 1) {
      const cue = this.#cue(moeLayer, at, this.#noted)
      if (cue < 0) continue
      const row = this.#teach(cue) * this.#experts
      for (let index = 0; index < this.#experts; index += 1) {
        const moved = (this.#weights[row + index] ?? 0) + pace * (errors[index] ?? 0)
        this.#weights[row + index] = moved
      }
    }
  }

  /** The row of a cue, from its first lesson on. */
  #teach(cue: number): number {
    const row = this.#rowOf[cue] ?? 0
    if (row > 0) return row
    this.#taught += 1
    this.#rowOf[cue] = this.#taught
    return this.#taught
  }

  /** Index in `rowOf`, or nobody. */
  #cue(moeLayer: number, at: number, cues: Int32Array): number {
    const used = cues[moeLayer * Cue.count * this.#topK + at] ?? nobody
    if (used < 0) return nobody
    const cue = Math.floor(at / this.#topK)
    return (moeLayer * Cue.count + cue) * this.#experts + used
  }

  /** The rows that a sum is made of, in the order of cues. Most of many experts have had no lesson for long. */
  #listTaught(moeLayer: number): number {
    const width = Cue.count * this.#topK
    let count = 0
    for (let at = 0; at < width; at += 1) {
      const cue = this.#cue(moeLayer, at, this.#cues)
      const row = cue < 0 ? 0 : (this.#rowOf[cue] ?? 0)
      if (row === 0) continue
      this.#rows[count] = row * this.#experts
      count += 1
    }
    this.#rows.fill(0, count)
    return count
  }

  /** Rows from `at` on. One after the other, so that a sum is the same whatever is added at a time. */
  #add(at: number, out: Float64Array, start: number): void {
    const pairs = this.#weights
    const first = this.#rows[at] ?? 0
    const second = this.#rows[at + 1] ?? 0
    const third = this.#rows[at + 2] ?? 0
    const fourth = this.#rows[at + 3] ?? 0
    for (let index = 0; index < this.#experts; index += 1) {
      out[start + index] =
        (out[start + index] ?? 0) +
        (pairs[first + index] ?? 0) +
        (pairs[second + index] ?? 0) +
        (pairs[third + index] ?? 0) +
        (pairs[fourth + index] ?? 0)
    }
  }

  #copy(moeLayer: number, cue: number, from: Int32Array, layer: number): void {
    const start = (moeLayer * Cue.count + cue) * this.#topK
    for (let at = 0; at < this.#topK; at += 1) {
      this.#cues[start + at] = from[layer * this.#topK + at] ?? nobody
    }
  }
}
