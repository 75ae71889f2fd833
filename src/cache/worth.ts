// What an expert is worth in a slot, by one rule: a number for each expert, larger for what should
// stay. Experts of one layer compare; those of different layers only where a rule says so. A rule
// hears of routing and knows nothing of slots. It is asked about few experts of a layer, those that
// have a slot or want one, so it may work out their worth when it is asked.

export interface Worth {
  readonly name: string
  /** Of an expert of the model; the same until its layer routes again. */
  of(expert: number): number
  /** The router's probabilities [experts] of the layer in this step, right before `used`. */
  scored?(moeLayer: number, probabilities: Float32Array): void
  /** A layer has routed so many tokens: records [UseField.count], rising, `count` of them. */
  used(moeLayer: number, records: Int32Array, count: number, tokens: number, isSweep: boolean): void
}
