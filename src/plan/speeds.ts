// How long a planned machine computes with the parts of a model: reading them from memory as for one token, and
// multiplying for each token more. No drive is in it.
import type { Fit } from './fit.js'
import { ofProducts, ofReading, ofReadingVram, type Range, stepSeconds } from './fitted.js'
import type { Geometry, Part } from './geometry.js'
import type { PlannedMachine } from './machine.js'

export type Case = keyof Range

/** What computing waits for most. */
export type Limit = 'memory' | 'processor' | 'gpu'

/** Seconds of a step: of a layer with experts before them, of its shared expert, of one routed expert; of all else. */
export interface Speeds {
  readonly attend: number
  readonly shared: number
  readonly expert: number
  readonly outer: number
  readonly limit: Limit
}

/** Who is in a step. */
export interface StepShape {
  readonly tokens: number
  /** That keys and values are read of, for each token; several tokens of one text read them once. */
  readonly positions: number
  readonly isOneText: boolean
  /** Tokens that one of the routed experts is computed for. */
  readonly tokensPerExpert: number
}

/** One token behind so many others. */
export function oneToken(positions: number): StepShape {
  return { tokens: 1, positions, isOneText: true, tokensPerExpert: 1 }
}

export function speedsOf(
  geometry: Geometry,
  machine: PlannedMachine,
  fit: Fit,
  { tokens, positions, isOneText, tokensPerExpert }: StepShape,
  which: Case,
): Speeds {
  const memory = machine.memory.value * machine.reading.value * ofReading[which]
  const vram = machine.vram.value * ofReadingVram[which]
  const products = machine.cores.value * machine.products.value * ofProducts[which]
  // What one token multiplies is in the rate of reading.
  const multiplying = (part: Part, of: number) => (part.products * Math.max(0, of - 1)) / products
  const onProcessor = (part: Part, of: number) => part.bytes / memory + multiplying(part, of)
  // What a card computes is bound by its memory as long as steps are of a few hundred tokens.
  const resident = (part: Part) => (fit.isOnGpu ? part.bytes / vram : onProcessor(part, tokens))
  const history: Part = {
    bytes: geometry.kvBytesPerLayer * positions * (isOneText ? 1 : tokens),
    products: geometry.productsPerPosition * positions,
  }
  const { attention, shared, expert, outer, layers, moeLayers } = geometry
  const attend = resident(attention) + resident(history)
  const isMultiplying = multiplying(expert, tokensPerExpert) > expert.bytes / memory
  return {
    attend,
    shared: resident(shared),
    expert: fit.isOnGpu ? expert.bytes / vram : onProcessor(expert, tokensPerExpert),
    outer: stepSeconds + resident(outer) + (layers - moeLayers) * resident(history),
    limit: fit.isOnGpu ? 'gpu' : isMultiplying ? 'processor' : 'memory',
  }
}
