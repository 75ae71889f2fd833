// Numbers, of which the largest is at hand.

export class Heap {
  #keys = new Float64Array(64)
  #size = 0

  get size(): number {
    return this.#size
  }

  get largest(): number {
    return this.#keys[0] ?? Number.NEGATIVE_INFINITY
  }

  push(key: number): void {
    if (this.#size === this.#keys.length) {
      const larger = new Float64Array(2 * this.#size)
      larger.set(this.#keys)
      this.#keys = larger
    }
    let at = this.#size
    this.#size += 1
    while (at > 0) {
      const parent = (at - 1) >> 1
      const above = this.#keys[parent] ?? 0
      if (above >= key) break
      this.#keys[at] = above
      at = parent
    }
    this.#keys[at] = key
  }

  /** Takes the largest out. */
  pop(): void {
    this.#size -= 1
    const key = this.#keys[this.#size] ?? 0
    let at = 0
    for (let child = 1; child < this.#size; child = 2 * at + 1) {
      const [left = 0, right = 0] = this.#keys.subarray(child, child + 2)
      const larger = child + 1 < this.#size && right > left ? child + 1 : child
      const below = larger === child ? left : right
      if (below <= key) break
      this.#keys[at] = below
      at = larger
    }
    this.#keys[at] = key
  }
}
