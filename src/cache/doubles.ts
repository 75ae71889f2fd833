// Who leaves the tier below first: copies of what the tier above has kept for long and will go on keeping,
// which save no read as long as it does. An expert counts as kept when half of the slots of its layer above
// could have been given anew since it came. Where the tier above is small nothing lasts in it, and a double
// is as good as any other: the policy alone decides. (Reads over ring-tiny's recorded routing, slots for
// two tokens' experts over three: 2714, and 2739 or 2765 where a quarter or all of the slots make it kept;
// the three alone 3757. With slots for one token's above it would read 4051 and not 3624.)
import type { Expert } from './place.js'
import type { CacheShape, Policy } from './policy.js'
import { SlotState, type SlotTable } from './slots.js'

/** Of a tier that holds less than what so many tokens want, nothing counts as kept. */
const leastCycles = 2
/** Of the slots of a layer, how many are given anew before what stayed counts as kept. */
const givenAnew = 0.5

export class DoublesFirst implements Policy {
  readonly name: string
  readonly floors?: Int32Array
  readonly #policy: Policy
  readonly #above: SlotTable
  /** [MoE layer] slots above that were given to experts of the layer */
  readonly #rises: Float64Array
  /** [expert of the model] the rise in which it was the one */
  readonly #roseAt: Float64Array
  readonly #isLarge: boolean
  /** Where the policy has no opinion. */
  readonly #usualChance: number

  constructor(policy: Policy, above: SlotTable, { moeLayers, experts, topK, slots }: CacheShape) {
    this.name = policy.name
    if (policy.floors !== undefined) this.floors = policy.floors
    this.#policy = policy
    this.#above = above
    this.#rises = new Float64Array(moeLayers)
    this.#roseAt = new Float64Array(moeLayers * experts)
    this.#usualChance = topK / experts
    this.#isLarge = slots >= leastCycles * topK * moeLayers
  }

  /** The expert was given a slot above. */
  rose(expert: Expert): void {
    const layer = this.#above.layerOf(expert)
    const rises = (this.#rises[layer] ?? 0) + 1
    this.#rises[layer] = rises
    this.#roseAt[expert] = rises
  }

  used(moeLayer: number, records: Int32Array, count: number, isSweep: boolean): void {
    this.#policy.used(moeLayer, records, count, isSweep)
  }

  scored(moeLayer: number, probabilities: Float32Array): void {
    this.#policy.scored?.(moeLayer, probabilities)
  }

  entered(expert: Expert): void {
    this.#policy.entered(expert)
  }

  left(expert: Expert): void {
    this.#policy.left(expert)
  }

  victim(moeLayer: number, mayLeave: (expert: Expert) => boolean): number {
    if (this.#isLarge) {
      const isSpare = (expert: Expert) => this.#isKeptAbove(expert) && mayLeave(expert)
      const double = this.#policy.victim(moeLayer, isSpare)
      if (double >= 0) return double
    }
    return this.#policy.victim(moeLayer, mayLeave)
  }

  chance(expert: Expert): number {
    if (this.#isLarge && this.#isKeptAbove(expert)) return 0
    return this.#policy.chance?.(expert) ?? this.#usualChance
  }

  isPinned(expert: Expert): boolean {
    return this.#policy.isPinned?.(expert) === true
  }

  #isKeptAbove(expert: Expert): boolean {
    if (this.#above.stateOf(expert) !== SlotState.ready) return false
    const layer = this.#above.layerOf(expert)
    const since = (this.#rises[layer] ?? 0) - (this.#roseAt[expert] ?? 0)
    return since >= givenAnew * (this.#above.held[layer] ?? 0)
  }
}
