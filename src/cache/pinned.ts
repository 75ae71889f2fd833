// The policy `pinned`: what a saved profile says is used most stays once it is there, and recency rules
// the few slots that remain. Good for one narrow, steady kind of work; in a changing text recency or
// frequency alone miss less.
import { decodeFloors } from './floors.js'
import { LruPolicy } from './lru.js'
import type { Expert } from './place.js'
import type { CacheShape } from './policy.js'
import type { Profile } from './profile.js'

/** Of each layer's slots, what is left to recency, and at least one. */
const restShare = 1 / 8

export class PinnedPolicy extends LruPolicy {
  override readonly name = 'pinned'
  /** [expert of the model] */
  readonly #pins: Uint8Array

  constructor(shape: CacheShape, profile: Profile) {
    super(shape)
    this.#pins = pinsOf(shape, profile.counts)
  }

  override victim(moeLayer: number, mayLeave: (expert: Expert) => boolean): number {
    const unpinned = (expert: Expert) => mayLeave(expert) && !this.isPinned(expert)
    const victim = super.victim(moeLayer, unpinned)
    return victim >= 0 ? victim : super.victim(moeLayer, mayLeave)
  }

  isPinned(expert: Expert): boolean {
    return this.#pins[expert] === 1
  }
}

function pinsOf({ moeLayers, experts, topK, slots }: CacheShape, counts: Float64Array): Uint8Array {
  const pins = new Uint8Array(moeLayers * experts)
  for (const [layer, floor] of decodeFloors(slots, moeLayers, topK).entries()) {
    const pinned = floor - Math.max(1, Math.ceil(floor * restShare))
    const own = Array.from({ length: experts }, (_, index) => layer * experts + index)
    const byUse = own
      .filter((expert) => (counts[expert] ?? 0) > 0)
      .sort((a, b) => (counts[b] ?? 0) - (counts[a] ?? 0))
    for (const expert of byUse.slice(0, Math.max(0, pinned))) pins[expert] = 1
  }
  return pins
}
