// What the engine's own cache and look-ahead make of routing, on layers of a few numbers: seconds and misses
// of a token while it is decoded, and loads of a step of many tokens. The first part of the routing warms
// and is not counted.
import { newLayerCounts } from '../cache/counts.js'
import { GhostCache } from '../cache/ghost.js'
import { createPolicy, defaultPolicy } from '../cache/policies.js'
import type { CacheShape, Policy } from '../cache/policy.js'
import { UseField } from '../cache/records.js'
import type { MachineModel } from '../simulate/machine.js'
import { type LookAheadName, Rehearsal } from '../simulate/rehearsal.js'
import { type Routing, walk } from '../simulate/routing.js'
import { type PlannedRouting, stepsOf } from './routing.js'

/** Of one token, in one layer. */
export interface Rehearsed {
  readonly seconds: number
  /** Of those, while there was nothing to compute. */
  readonly stallSeconds: number
  readonly misses: number
  /** Experts that were copied to a GPU, and whether the link was longer at work than the drive. */
  readonly copies: number
  readonly isLinkBound: boolean
}

/** Of the sequences, those that only warm. */
const warming = 0.25
/** Tokens of all steps of many, and tokens of a step from which on texts are many and short. */
const tokensMost = 512
const manyTexts = 16

/** `slotsPerLayer` may be broken: slots are one pool with floors. */
export function rehearse(
  { routing, routers }: PlannedRouting,
  slotsPerLayer: number,
  machine: MachineModel,
  lookAhead: LookAheadName,
): Rehearsed {
  const { sequences, layers } = routing
  const shape = shapeOf(routing, slotsPerLayer)
  const rehearsal = new Rehearsal(routing, {
    policy: policyOf(shape),
    slotsPerLayer: shape.slots / shape.moeLayers,
    machine,
    lookAhead,
    routers,
  })
  const counted = sequences.slice(Math.floor(warming * sequences.length))
  const from = counted[0]?.first ?? 0
  const tokens = counted.reduce((sum, sequence) => sum + sequence.tokens - sequence.prompt, 0)
  let before: Past | null = null
  walk(routing, (visit) => {
    if (before === null && visit.firstToken >= from) before = pastOf(rehearsal, machine)
    rehearsal.visit(visit)
  })
  const after = pastOf(rehearsal, machine)
  rehearsal.close()
  const visits = Math.max(1, tokens * layers.length)
  const { seconds, loads, copies, linkSeconds, driveSeconds } = before ?? nothing
  const each = (after.seconds - seconds) / visits
  return {
    seconds: each,
    stallSeconds: Math.max(0, each - machine.layerSeconds),
    misses: (after.loads - loads) / visits,
    copies: (after.copies - copies) / visits,
    isLinkBound: after.linkSeconds - linkSeconds > after.driveSeconds - driveSeconds,
  }
}

interface Past {
  readonly seconds: number
  readonly loads: number
  readonly copies: number
  readonly linkSeconds: number
  readonly driveSeconds: number
}

const nothing: Past = { seconds: 0, loads: 0, copies: 0, linkSeconds: 0, driveSeconds: 0 }

function pastOf(rehearsal: Rehearsal, machine: MachineModel): Past {
  const { tokensPerSecond, shareOfBound } = rehearsal.figures(1)
  if (tokensPerSecond === 0) return nothing
  const seconds = 1 / tokensPerSecond
  const tiers = rehearsal.tiers()
  return {
    seconds,
    loads: (shareOfBound * seconds * machine.bytesPerSecond) / machine.expertBytes,
    copies: (tiers?.bytes.link ?? 0) / machine.expertBytes,
    linkSeconds: tiers?.busy.link ?? 0,
    driveSeconds: tiers?.busy.drive ?? 0,
  }
}

/** Of one step of many tokens, in one layer. */
export interface Crowded {
  /** Experts that any of the tokens wants, and those of them that have no slot. */
  readonly wanted: number
  readonly loads: number
  /** Those that have none on a GPU that computes; absent: none does. */
  readonly copies?: number
}

/** The first half of the steps warms. A step is at most as wide as the routing has tokens. */
export function crowd(planned: PlannedRouting, slotsPerLayer: number, tokens: number): Crowded {
  const of = tokens < manyTexts ? planned.routing : planned.many
  const routing = stepsOf(of, tokens, Math.max(2, Math.ceil(tokensMost / tokens)))
  const shape = shapeOf(routing, slotsPerLayer)
  const cache = new GhostCache(shape, policyOf(shape), newLayerCounts(shape.moeLayers))
  const warmingVisits = Math.floor(routing.sequences.length / 2) * shape.moeLayers
  let [visits, wanted, loads] = [0, 0, 0]
  walk(routing, ({ moeLayer, tokens: all, count, uses }) => {
    const isCounted = visits >= warmingVisits
    const records = uses.slice(0, count * UseField.count)
    cache.used(records)
    cache.place(moeLayer, indicesIn(records, moeLayer * routing.experts), all, () => {
      if (isCounted) loads += 1
    })
    if (isCounted) wanted += count
    visits += 1
  })
  const counted = Math.max(1, visits - warmingVisits)
  return { wanted: wanted / counted, loads: loads / counted }
}

/** Experts of records, within their layer. */
function indicesIn(records: Int32Array, first: number): Int32Array {
  return Int32Array.from(
    { length: records.length / UseField.count },
    (_, at) => (records[at * UseField.count + UseField.expert] ?? 0) - first,
  )
}

function shapeOf({ layers, experts, topK }: Routing, slotsPerLayer: number): CacheShape {
  const moeLayers = layers.length
  const slots = Math.min(moeLayers * experts, Math.round(slotsPerLayer * moeLayers))
  return { moeLayers, experts, topK, slots: Math.max(topK, slots) }
}

function policyOf(shape: CacheShape): Policy {
  const policy = createPolicy(defaultPolicy, shape)
  if ('problem' in policy) throw new Error(policy.problem)
  return policy
}
