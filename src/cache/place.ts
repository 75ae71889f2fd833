// Experts and places as integers, and how a place is packed. This file imports nothing of ours: the
// numbers are repeated from the native contract, and a test holds the two together.

/** An expert of the whole model: MoE layer x experts per layer + index. */
export type Expert = number & { readonly brand: 'Expert' }

/** A tier and a slot in it, in one integer. */
export type Place = number & { readonly brand: 'Place' }

/** Not in this tier: the expert is on disk only. */
export const nowhere = -1 as Place

/** Bits of a place that hold the slot. */
export const slotBits = 24

/**
 * The tiers there are: `map`, where every expert lies in its checkpoint file, and slots in RAM or in the
 * memory of a GPU.
 */
export const Tier = { map: 0, ram: 1, gpu: 2 } as const
export type Tier = (typeof Tier)[keyof typeof Tier]

export function expertOf(moeLayer: number, index: number, experts: number): Expert {
  return (moeLayer * experts + index) as Expert
}

export function placeOf(tier: Tier, slot: number): Place {
  return (tier * 2 ** slotBits + slot) as Place
}

export function tierOf(place: number): number {
  return Math.floor(place / 2 ** slotBits)
}

export function slotOf(place: number): number {
  return place % 2 ** slotBits
}
