// Steps of many tokens on a planned machine: a prompt, and a token each of a batch of sequences. An expert is
// read once a step however many tokens want it, so what counts is how many experts of a layer any token wants.
import { type Bottleneck, driveRate } from './decode.js'
import type { Fit } from './fit.js'
import { exposed, missesOf, type Range } from './fitted.js'
import type { Geometry } from './geometry.js'
import type { PlannedMachine } from './machine.js'
import { crowd } from './rehearse.js'
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
  const { seconds, bottleneck } = wideStep(placed, sequences, positions, false)
  const rate = (which: Case) => sequences / seconds[which]
  return {
    sequences,
    tokensPerSecond: { low: rate('low'), likely: rate('likely'), high: rate('high') },
    bottleneck,
  }
}

/** Steps of more tokens read the next layer's experts while this one's are computed; the engine has the same number. */
const narrowTokens = 128

interface WideStep {
  readonly seconds: Range
  readonly bottleneck: Bottleneck
}

function wideStep(
  { geometry, machine, fit, routing }: Placed,
  tokens: number,
  positions: number,
  isOneText: boolean,
): WideStep {
  const { moeLayers, topK, experts, sizes } = geometry
  const slotsPerLayer = (fit.slots.ram + fit.slots.gpu) / moeLayers
  const { wanted, loads } = crowd(routing, slotsPerLayer, tokens)
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
  const reading = (which: Case) => {
    // No more can be missed than there is.
    const factor = Math.min(missesOf[routing.kind][which], experts / Math.max(loads, 1))
    return (bytes * factor) / driveRate(machine, which)
  }
  const seconds = (which: Case) => {
    const { mix, rest } = computing(which)
    const read = reading(which)
    if (tokens <= narrowTokens) return rest + Math.max(mix, read)
    const compute = mix + rest
    return Math.max(compute, read) + exposed[which] * Math.min(compute, read)
  }
  const { mix, rest } = computing('likely')
  const isReading = reading('likely') > mix + rest
  return {
    seconds: { low: seconds('low'), likely: seconds('likely'), high: seconds('high') },
    bottleneck: isReading ? 'drive' : speedsOf(geometry, machine, fit, shape, 'likely').limit,
  }
}
