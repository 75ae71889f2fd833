// The largest of many numbers, in order. Knows nothing of what they are, and allocates nothing once it is
// made.

export class Shortlist {
  /** Indices of the largest, largest first; of equal ones the lower index first. As many as `pick` returned. */
  readonly indices: Int32Array
  readonly #values: Float32Array

  /** `most`: how many are picked. */
  constructor(most: number) {
    this.indices = new Int32Array(most)
    this.#values = new Float32Array(most)
  }

  /** What is not a number is left out. Returns how many there are. */
  pick(values: Float32Array): number {
    const most = this.indices.length
    let count = 0
    for (let index = 0; index < values.length; index += 1) {
      const value = values[index] ?? 0
      const isIn = count < most || value > (this.#values[most - 1] ?? 0)
      if (!isIn || Number.isNaN(value)) continue
      if (count < most) count += 1
      this.#enter(index, value, count - 1)
    }
    return count
  }

  /** In place of the last, and then up to where it belongs. */
  #enter(index: number, value: number, last: number): void {
    let at = last
    for (; at > 0 && (this.#values[at - 1] ?? 0) < value; at -= 1) {
      this.#values[at] = this.#values[at - 1] ?? 0
      this.indices[at] = this.indices[at - 1] ?? 0
    }
    this.#values[at] = value
    this.indices[at] = index
  }
}
