// Steps of many tokens on a planned machine: a prompt, and a token each of a batch of sequences. An expert is
// read once a step however many tokens want it, so what counts is how many experts of a layer any token wants.
import { manyTokens, unorderedTokens } from '../cache/slotcache.js'
import { type Bottleneck, decodePlan } from './decode.js'
import { driveRate, lostSeconds } from './drive.js'
import type { Fit } from './fit.js'
import { exposed, missesOf, type Range } from './fitted.js'
import type { Geometry } from './geometry.js'
import type { PlannedMachine } from './machine.js'
import { type Crowded, crowd } from './rehearse.js'
import type { PlannedRouting } from './routing.js'
import { type Case, type StepShape, speedsOf } from './speeds.js'

export interface PromptPlan {
  readonly tokens: number
  /** Until the first token is drawn. */
  readonly seconds: Range
  readonly bottleneck: Bottleneck
}

export interface BatchPlan {
  readonly sequences: number
  /** Of all together. */
  readonly tokensPerSecond: Range
  readonly bottleneck: Bottleneck
}

/** A model on a machine, with what lies where. */
export interface Placed {
  readonly geometry: Geometry
  readonly machine: PlannedMachine
  readonly fit: Fit
  readonly routing: PlannedRouting
}

/** Cut into steps as the engine cuts it; the experts that a step brings serve the next. */
export function promptPlan(placed: Placed, tokens: number): PromptPlan {
  const { stepTokens } = placed.fit.memory
  const full = Math.floor(tokens / stepTokens)
  const rest = tokens - full * stepTokens
  const whole = full > 0 ? wideStep(placed, stepTokens, tokens / 2, true) : null
  const last = rest > 0 ? wideStep(placed, rest, tokens, true) : null
  const of = (which: Case) => full * (whole?.seconds[which] ?? 0) + (last?.seconds[which] ?? 0)
  return {
    tokens,
    seconds: { low: of('low'), likely: of('likely'), high: of('high') },
    bottleneck: (whole ?? last)?.bottleneck ?? 'drive',
  }
}

/** Each of the sequences draws a token a step, behind so many positions of its own. */
export function batchPlan(placed: Placed, sequences: number, positions: number): BatchPlan {
  if (sequences === 1) {
    const { geometry, machine, fit, routing } = placed
    const { tokensPerSecond, bottleneck } = decodePlan(geometry, machine, fit, routing, positions)
    return { sequences, tokensPerSecond, bottleneck }
  }
  const { seconds, bottleneck } = wideStep(placed, sequences, positions, false)
  const rate = (which: Case) => sequences / seconds[which]
  return {
    sequences,
    tokensPerSecond: { low: rate('low'), likely: rate('likely'), high: rate('high') },
    bottleneck,
  }
}

export interface WideStep {
  readonly seconds: Range
  readonly bottleneck: Bottleneck
}

/** Of more than one token; `crowded`: the experts that its tokens want, by rehearsal where nobody knows better. */
export function wideStep(
  placed: Placed,
  tokens: number,
  positions: number,
  isOneText: boolean,
  { wanted, loads, copies = 0 } = crowdOf(placed, tokens),
): WideStep {
  const { geometry, machine, fit, routing } = placed
  const { moeLayers, topK, experts, sizes } = geometry
  const shape: StepShape = {
    ...{ tokens, positions, isOneText },
    tokensPerExpert: (tokens * topK) / Math.max(topK, wanted),
  }
  const computing = (which: Case) => {
    const { attend, shared, expert, outer } = speedsOf(geometry, machine, fit, shape, which)
    // What can be computed while experts are read, and what cannot.
    return { mix: moeLayers * (shared + wanted * expert), rest: moeLayers * attend + outer }
  }
  const bytes = fit.onDrive === 0 ? 0 : (moeLayers * loads * sizes.expertBytes) / sizes.experts
  const bytesRead = (which: Case) =>
    // No more can be missed than there is.
    bytes * Math.min(missesOf[routing.kind][which], experts / Math.max(loads, 1))
  const copying = (moeLayers * copies * sizes.expertBytes) / sizes.experts / machine.copy.value
  const seconds = (which: Case) => {
    const { mix, rest } = computing(which)
    const compute = mix + rest
    const alone = bytesRead(which) / driveRate(machine, which, 0)
    // Experts are read while others are computed, and in steps of more than a few tokens also while layers route.
    const beside = tokens <= manyTokens ? mix : compute
    const share = alone === 0 ? 0 : Math.min(1, beside / alone)
    const read = Math.max(copying, bytesRead(which) / driveRate(machine, which, share))
    const lost = lostSeconds(machine, bytesRead(which), share)
    if (tokens <= manyTokens) return rest + Math.max(mix + lost, read)
    // Only experts that are certain to be wanted are read ahead.
    if (tokens <= unorderedTokens) return Math.max(compute + lost, read + exposed[which] * rest)
    return Math.max(compute + lost, read) + exposed[which] * Math.min(compute + lost, read)
  }
  const { mix, rest } = computing('likely')
  const reading = bytes / driveRate(machine, 'likely', 0)
  const isWaiting = Math.max(reading, copying) > mix + rest
  const waited = copying > reading ? 'link' : 'drive'
  return {
    seconds: { low: seconds('low'), likely: seconds('likely'), high: seconds('high') },
    bottleneck: isWaiting ? waited : speedsOf(geometry, machine, fit, shape, 'likely').limit,
  }
}

function crowdOf({ geometry, fit, routing }: Placed, tokens: number): Crowded {
  const { gpu, ram } = fit.slots
  const all = crowd(routing, (gpu + ram) / geometry.moeLayers, tokens)
  if (!fit.isOnGpu || gpu === geometry.sizes.experts) return all
  return { ...all, copies: crowd(routing, gpu / geometry.moeLayers, tokens).loads }
}
