// How much of what layers used was among the likeliest of a forecast: as many candidates as a token
// chooses, twice and four times as many. Knows nothing of where probabilities come from.

/** Candidates, in units of those that a token chooses. */
export const recallWidths = [1, 2, 4] as const

export class Recall {
  readonly #topK: number
  /** [kind][width] experts found, and [kind] experts used */
  readonly #found: Float64Array
  readonly #used: Float64Array

  constructor(kinds: number, topK: number) {
    this.#topK = topK
    this.#found = new Float64Array(kinds * recallWidths.length)
    this.#used = new Float64Array(kinds)
  }

  /** A layer has used so many experts. */
  used(kind: number, count: number): void {
    this.#used[kind] = (this.#used[kind] ?? 0) + count
  }

  /** One of them was among the candidates, behind so many likelier ones. */
  found(kind: number, likelier: number): void {
    for (let width = 0; width < recallWidths.length; width += 1) {
      if (likelier >= (recallWidths[width] ?? 1) * this.#topK) continue
      const cell = kind * recallWidths.length + width
      this.#found[cell] = (this.#found[cell] ?? 0) + 1
    }
  }

  /** Share of the used experts, by the index in `recallWidths`; NaN before any was used. */
  of(kind: number, width: number): number {
    const found = this.#found[kind * recallWidths.length + width] ?? 0
    return found / (this.#used[kind] ?? 0)
  }
}
