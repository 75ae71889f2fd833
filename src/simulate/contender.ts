// Who is judged: the policies that an engine can have, by their names and of the same classes, and
// some that only a simulation can have, because they know what comes.

import type { Expert } from '../cache/place.js'
import { createPolicy, policyNames } from '../cache/policies.js'
import type { CacheShape, Policy } from '../cache/policy.js'
import type { Problem } from '../cache/profile.js'
import { Belady, BeladyByToken } from './belady.js'
import type { Contest } from './contest.js'
import { FixedSet } from './fixedset.js'
import { Future } from './future.js'
import type { Routing } from './routing.js'

export interface Contender extends Policy {
  /**
   * Whether what was used shall take the place of the victim. Without it, it always does. With it,
   * what is wanted passes by the slots, so experts of the visit itself may be given up too.
   */
  admits?(expert: Expert, victim: Expert): boolean
  /** What lies in slots from the start, which no read has been counted for. */
  readonly preloaded?: readonly Expert[]
}

/** They know the future, and bound what can be had. */
export const boundNames = ['belady1', 'belady', 'static'] as const

const contenderNames: readonly string[] = [...policyNames, ...boundNames]

/** The contender of that name, or why there is none. */
export function contenderOf(routing: Routing, contest: Contest): Contender | Problem {
  const shape = shapeOf(routing, contest)
  const { policy, phase } = contest
  if (policy === 'belady') return new Belady(shape, new Future(routing))
  if (policy === 'belady1') return new BeladyByToken(shape, new Future(routing))
  if (policy === 'static') return new FixedSet(shape, routing, phase)
  const made = createPolicy(policy, shape)
  if ('problem' in made && policy !== 'pinned') {
    return { problem: `no policy is named ${policy}; there are ${contenderNames.join(', ')}` }
  }
  return made
}

/** Whether an engine can have the policy. */
export function isPolicy(name: string): boolean {
  return !boundNames.some((bound) => bound === name)
}

/** Whether the policy decides about all layers together, and so is judged in the engine's own cache only. */
export function isOfEngine(policy: string): boolean {
  return policy === 'auto'
}

/**
 * Whether one order over all layers makes sense of the policy. The others order the experts within a
 * layer, and leave to the engine's floors which layer gives one up.
 */
export function ordersAcrossLayers(policy: string): boolean {
  return /^(?:lru|random:.*|belady1?|static)$/.test(policy)
}

/** In one pool over all layers, the model has a single layer to a policy that orders across layers. */
function shapeOf({ layers, experts, topK }: Routing, contest: Contest): CacheShape {
  const moeLayers = layers.length
  const slots = contest.slotsPerLayer * moeLayers
  if (contest.scope === 'global' && ordersAcrossLayers(contest.policy)) {
    return { moeLayers: 1, experts: moeLayers * experts, topK, slots }
  }
  return { moeLayers, experts, topK, slots }
}
