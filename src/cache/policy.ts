// What a policy is: it learns what layers route to and which experts have slots, and names the expert
// of a layer that is given up first. Which layer gives up one is not its business (see residents.ts),
// so that every policy has the same floors.
import type { Learnt } from './learnt.js'
import type { Expert } from './place.js'

/** The model and the budget, as numbers. */
export interface CacheShape {
  readonly moeLayers: number
  readonly experts: number
  readonly topK: number
  readonly slots: number
}

export interface Policy {
  readonly name: string
  /** The rule that chooses who leaves, where there are several and the choice is made live. */
  readonly ruling?: string
  /**
   * [MoE layer] slots that each layer keeps whatever the others want. May change at every `used`;
   * without it the shares are equal.
   */
  readonly floors?: Int32Array
  /** What is worth keeping for another run, as it is now; filled anew where an earlier run kept it. */
  readonly learnt?: Learnt
  /**
   * A layer has routed, in a step or a sweep: records [expert, tokens], rising, `count` of them.
   * Called before the layer's missing experts are given slots.
   */
  used(moeLayer: number, records: Int32Array, count: number, isSweep: boolean): void
  /**
   * The router's probabilities [experts] before its bias, the mean over the tokens of the step; called
   * before `used`, and only where somebody gives them.
   */
  scored?(moeLayer: number, probabilities: Float32Array): void
  /** The expert was given a slot. */
  entered(expert: Expert): void
  /** The expert has no slot any more. */
  left(expert: Expert): void
  /** Of the layer's experts that may leave, the one to give up first, or -1. */
  victim(moeLayer: number, mayLeave: (expert: Expert) => boolean): number
  /** Probability that the expert is wanted again soon, 0 to 1. */
  chance?(expert: Expert): number
  /** Whether the expert stays also in sweeps, as long as any other can leave. */
  isPinned?(expert: Expert): boolean
}
