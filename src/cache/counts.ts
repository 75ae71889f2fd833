// What the cache counts for every MoE layer. The arrays are given, so that they may lie in shared
// memory and be read by others at any time.

export interface LayerCounts {
  /** Distinct experts that a step wanted in the layer. */
  readonly requests: Float64Array
  /** Of those, experts that lay in a slot or were on their way for somebody who waits. */
  readonly hits: Float64Array
  readonly misses: Float64Array
  /** Experts of the layer that had to leave a slot. */
  readonly evictions: Float64Array
}
