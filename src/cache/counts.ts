// What the cache counts for every MoE layer. The arrays are given, so that they may lie in shared
// memory and be read by others at any time.

export interface LayerCounts {
  /** Distinct experts that a step wanted in the layer. */
  readonly requests: Float64Array
  /** Of those, experts that lay in memory or were on their way for somebody who waits. */
  readonly hits: Float64Array
  /** Of the hits, those that had to be copied from a tier below. */
  readonly hitsBelow: Float64Array
  /** Experts that had to be read. */
  readonly misses: Float64Array
  /** Experts of the layer that had to leave a slot. */
  readonly evictions: Float64Array
  /** Loads ordered before the layer had routed. */
  readonly ahead: Float64Array
  /** Of the hits, those that such a load brought in time. */
  readonly aheadHits: Float64Array
  /** Such loads of experts that the layer then did not want. */
  readonly aheadWasted: Float64Array
  /** Of those, loads that were complete: whole experts read for nothing. */
  readonly aheadUnused: Float64Array
}

/** Zeros for so many layers; `doubles` makes the arrays. */
export function newLayerCounts(
  moeLayers: number,
  doubles: (count: number) => Float64Array = (count) => new Float64Array(count),
): LayerCounts {
  return {
    requests: doubles(moeLayers),
    hits: doubles(moeLayers),
    hitsBelow: doubles(moeLayers),
    misses: doubles(moeLayers),
    evictions: doubles(moeLayers),
    ahead: doubles(moeLayers),
    aheadHits: doubles(moeLayers),
    aheadWasted: doubles(moeLayers),
    aheadUnused: doubles(moeLayers),
  }
}

export function increase(counts: Float64Array, moeLayer: number): void {
  counts[moeLayer] = (counts[moeLayer] ?? 0) + 1
}
