// How many experts each layer keeps whatever the others want. Layers take turns, so one order over all
// of them gives up first exactly what the next layer needs, and a budget below one token's experts
// would never hit. With floors each layer competes with itself; a few slots belong to nobody and go
// where a layer has nothing of its own to give up.

/** Slots that stream: enough that some load while others are computed, few beside what stays. */
const streamShare = 1 / 8
export const streamLeast = 4
const streamMost = 64
/** Slots that decode leaves to no layer. */
const looseShare = 1 / 16

/** [MoE layer] floors of steps that want a few experts of each layer. */
export function decodeFloors(slots: number, moeLayers: number, topK: number): Int32Array {
  const loose = Math.max(1, Math.min(topK, Math.floor(slots * looseShare)))
  return spread(slots - loose, moeLayers)
}

/** [MoE layer] floors of sweeps, which want most experts of each layer, one layer after the other. */
export function sweepFloors(slots: number, moeLayers: number): Int32Array {
  const streaming = Math.min(streamMost, Math.floor(slots * streamShare))
  return spread(slots - Math.max(streamLeast, streaming), moeLayers)
}

/** Shares of a sum that differ by at most one, the larger ones evenly among the others. */
function spread(sum: number, shares: number): Int32Array {
  const upTo = (share: number) => Math.floor((Math.max(0, sum) * share) / shares)
  return Int32Array.from({ length: shares }, (_, share) => upTo(share + 1) - upTo(share))
}
