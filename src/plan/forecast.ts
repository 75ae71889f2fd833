// A plan: what of a model fits where on a machine, and how fast it will be there. Pure: the same model, machine,
// routing and wishes give the same plan.
import type { ModelConfig } from '../model/config.js'
import { type DecodePlan, decodePlan } from './decode.js'
import { type Fit, type FitWishes, fitOf, type Misfit } from './fit.js'
import type { Geometry } from './geometry.js'
import type { PlannedMachine } from './machine.js'
import { type BatchPlan, batchPlan, type PromptPlan, promptPlan } from './manytokens.js'
import type { PlannedRouting } from './routing.js'

export interface ForecastWishes extends Pick<FitWishes, 'contextTokens' | 'kvType' | 'expertRam'> {
  readonly promptTokens: number
  readonly answerTokens: number
  /** Sequences at once, for each of which a throughput is planned. */
  readonly batches: readonly number[]
}

export interface Forecast {
  readonly fit: Fit
  readonly decode: DecodePlan
  readonly prompt: PromptPlan
  /** Where so many sequences do not fit, why. */
  readonly batches: readonly (BatchPlan | (Misfit & { readonly sequences: number }))[]
  /** To read what every token needs, before anything can be answered. */
  readonly startSeconds: number
}

/** What a plan is made of beside the machine. */
export interface Subject {
  readonly config: ModelConfig
  readonly geometry: Geometry
  readonly routing: PlannedRouting
}

export function forecast(
  subject: Subject,
  machine: PlannedMachine,
  wishes: ForecastWishes,
): Forecast | Misfit {
  const { config, geometry, routing } = subject
  const fit = fitOf(config, geometry, machine, wishesOf(wishes))
  if ('problem' in fit) return fit
  const placed = { geometry, machine, fit, routing }
  const { promptTokens, answerTokens, batches } = wishes
  const { denseBytes, scaleBytes } = geometry.sizes
  return {
    fit,
    decode: decodePlan(geometry, machine, fit, routing, promptTokens + answerTokens / 2),
    prompt: promptPlan(placed, promptTokens),
    batches: batches.map((sequences) => batchOf(subject, machine, wishes, sequences)),
    startSeconds: (denseBytes + scaleBytes) / (machine.drive.value * machine.drives.value),
  }
}

/** So many sequences need room for their keys and values, which is taken from the experts. */
export function batchOf(
  { config, geometry, routing }: Subject,
  machine: PlannedMachine,
  wishes: ForecastWishes,
  sequences: number,
): BatchPlan | (Misfit & { readonly sequences: number }) {
  const { promptTokens, answerTokens } = wishes
  const kvTokens = sequences * (promptTokens + answerTokens)
  const fit = fitOf(config, geometry, machine, { ...wishesOf(wishes), sequences, kvTokens })
  if ('problem' in fit) return { sequences, problem: fit.problem }
  return batchPlan({ geometry, machine, fit, routing }, sequences, promptTokens + answerTokens / 2)
}

function wishesOf({ contextTokens, kvType, expertRam }: ForecastWishes): FitWishes {
  return { contextTokens, kvType, expertRam }
}
