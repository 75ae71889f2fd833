// Routing to rehearse a plan on: a trace of a model of the same shape where there is one, else routing that a
// seed makes for layers of so many experts. Layers of made-up routing are all alike, so a few stand for all.
import type { ModelConfig } from '../model/config.js'
import { ModelError } from '../model/error.js'
import type { Routers } from '../simulate/foresightrouter.js'
import { plainRouters } from '../simulate/foresightrouter.js'
import { generate } from '../simulate/generate.js'
import { nobody, type Routing } from '../simulate/routing.js'

export interface PlannedRouting {
  readonly kind: 'generated' | 'recorded'
  readonly routing: Routing
  readonly routers: Routers
  /** Tokens of many texts, for steps of many. */
  readonly many: Routing
}

/** Not the ones that policies were fitted on. */
const seed = 11
const made = { layers: 6, sequences: 8, tokens: 80, prompt: 24 }
const madeOfMany = { layers: 4, sequences: 128, tokens: 9, prompt: 1 }

export function madeRouting({ experts, topK, groups, groupsKept }: ModelConfig): PlannedRouting {
  return {
    kind: 'generated',
    routing: generate(seed, { ...made, experts, topK }),
    routers: { ...plainRouters, groups, groupsKept },
    many: generate(seed + 1, { ...madeOfMany, experts, topK }),
  }
}

/** Whether a trace is of a model of this shape. */
export function isAlike(routing: Routing, { experts, topK, layers, firstMoeLayer }: ModelConfig) {
  const isSame = routing.experts === experts && routing.topK === topK
  return isSame && routing.layers.length === layers - firstMoeLayer
}

/** Throws ModelError where the trace is of other layers. */
export function recordedRouting(
  routing: Routing,
  routers: Routers,
  { experts, topK }: ModelConfig,
): PlannedRouting {
  if (routing.experts !== experts || routing.topK !== topK) {
    throw new ModelError(
      `--routing: ${routing.name} has ${routing.experts} experts in a layer, top ${routing.topK}; the model has ${experts}, top ${topK}`,
    )
  }
  return { kind: 'recorded', routing, routers, many: routing }
}

/**
 * Steps of `tokens` tokens, each of another place among those that were decoded: as a batch draws them, and
 * nearly as a prompt has them. Each step is one prompt of the routing that is made; a single one comes twice.
 */
export function stepsOf(routing: Routing, tokens: number, stepsMost: number): Routing {
  const { layers, topK, ids, sequences } = routing
  const decoded = sequences.flatMap(({ first, tokens: all, prompt }) =>
    Array.from({ length: all - prompt }, (_, at) => first + prompt + at),
  )
  const width = Math.min(tokens, decoded.length)
  const apart = Math.floor(decoded.length / width)
  const steps = Math.min(stepsMost, apart)
  const record = layers.length * topK
  const mixed = new Uint16Array(steps * width * record).fill(nobody)
  for (let step = 0; step < steps; step += 1) {
    for (let stream = 0; stream < width; stream += 1) {
      const from = (decoded[stream * apart + step] ?? 0) * record
      mixed.set(ids.subarray(from, from + record), (step * width + stream) * record)
    }
  }
  return {
    ...routing,
    sequences: Array.from({ length: Math.max(2, steps) }, (_, step) => ({
      first: (step % steps) * width,
      tokens: width,
      prompt: width,
    })),
    isPromptJoint: true,
    ids: mixed,
    scores: null,
  }
}
