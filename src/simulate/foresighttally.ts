// How much of what layers chose was among the first candidates of a guess: of its best topK, and of
// twice and four times as many. Knows nothing of where guesses come from.

/** Candidates, in units of topK. */
export const widths = [1, 2, 4] as const

/** Shares from 0 to 1, one for each of `widths`; null where nothing was counted. */
export interface Found {
  /** Of the chosen experts, and of the weight that they have in what the layer adds. */
  readonly recall: readonly (number | null)[]
  readonly weight: readonly (number | null)[]
}

export class Tally {
  readonly #topK: number
  /** [MoE layer][width] */
  readonly #found: Float64Array
  readonly #weightFound: Float64Array
  /** [MoE layer] */
  readonly #chosen: Float64Array
  readonly #weight: Float64Array

  constructor(moeLayers: number, topK: number) {
    this.#topK = topK
    this.#found = new Float64Array(moeLayers * widths.length)
    this.#weightFound = new Float64Array(moeLayers * widths.length)
    this.#chosen = new Float64Array(moeLayers)
    this.#weight = new Float64Array(moeLayers)
  }

  /** `ranked`: candidates, best first; `weights` [expert]: above 0 where the token chose it. */
  add(moeLayer: number, ranked: Int32Array, weights: Float32Array): void {
    for (const weight of weights) {
      if (weight === 0) continue
      this.#chosen[moeLayer] = (this.#chosen[moeLayer] ?? 0) + 1
      this.#weight[moeLayer] = (this.#weight[moeLayer] ?? 0) + weight
    }
    for (const [width, times] of widths.entries()) {
      const cell = moeLayer * widths.length + width
      const end = Math.min(ranked.length, times * this.#topK)
      for (let rank = 0; rank < end; rank += 1) {
        const weight = weights[ranked[rank] ?? 0] ?? 0
        if (weight === 0) continue
        this.#found[cell] = (this.#found[cell] ?? 0) + 1
        this.#weightFound[cell] = (this.#weightFound[cell] ?? 0) + weight
      }
    }
  }

  layer(moeLayer: number): Found {
    return this.#of([moeLayer])
  }

  total(): Found {
    return this.#of([...this.#chosen.keys()])
  }

  #of(layers: readonly number[]): Found {
    const sum = (values: Float64Array, at: (layer: number) => number) =>
      layers.reduce((total, layer) => total + (values[at(layer)] ?? 0), 0)
    const [chosen, weight] = [this.#chosen, this.#weight].map((all) => sum(all, (layer) => layer))
    const share = (part: Float64Array, whole = 0) =>
      widths.map((_, width) => {
        const found = sum(part, (layer) => layer * widths.length + width)
        return whole === 0 ? null : found / whole
      })
    return { recall: share(this.#found, chosen), weight: share(this.#weightFound, weight) }
  }
}
