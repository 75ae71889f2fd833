// Plans of one machine with more or less of one thing: decode over memory, over drives, and throughput over
// sequences at once.

import { decodePlan } from './decode.js'
import { fitOf } from './fit.js'
import type { Range } from './fitted.js'
import { batchOf, type ForecastWishes, type Subject } from './forecast.js'
import { freeOf, type PlannedMachine } from './machine.js'

export interface CurvePoint {
  readonly at: number
  readonly tokensPerSecond: Range
}

const GIB = 2 ** 30
/** [bytes of a machine], as memory is sold: from too little to the first that holds all of the model. */
function memorySizes({ geometry: { sizes } }: Subject): number[] {
  const all = sizes.experts * sizes.slotBytes + sizes.denseBytes + sizes.scaleBytes
  const found: number[] = []
  for (let size = 2 * GIB; freeOf(found.at(-1) ?? 0) < all; size *= 2) found.push(size, 1.5 * size)
  return found
}

const driveCounts: readonly number[] = [1, 2, 4]
const sequenceCounts: readonly number[] = [1, 4, 16, 64]

/** Over all memory of a machine, of which the system keeps some. Where the model does not fit there is no point. */
export function overMemory(
  subject: Subject,
  machine: PlannedMachine,
  wishes: ForecastWishes,
): CurvePoint[] {
  return memorySizes(subject).flatMap((bytes) => {
    const ram = { value: freeOf(bytes), source: machine.ram.source }
    return pointOf(subject, { ...machine, ram }, wishes, bytes)
  })
}

export function overDrives(
  subject: Subject,
  machine: PlannedMachine,
  wishes: ForecastWishes,
): CurvePoint[] {
  return driveCounts.flatMap((count) => {
    const drives = { value: count, source: machine.drives.source }
    return pointOf(subject, { ...machine, drives }, wishes, count)
  })
}

export function overSequences(
  subject: Subject,
  machine: PlannedMachine,
  wishes: ForecastWishes,
): CurvePoint[] {
  return sequenceCounts.flatMap((sequences) => {
    const batch = batchOf(subject, machine, wishes, sequences)
    return 'problem' in batch ? [] : [{ at: sequences, tokensPerSecond: batch.tokensPerSecond }]
  })
}

function pointOf(
  { config, geometry, routing }: Subject,
  machine: PlannedMachine,
  { contextTokens, kvType, promptTokens, answerTokens }: ForecastWishes,
  at: number,
): CurvePoint[] {
  const fit = fitOf(config, geometry, machine, { contextTokens, kvType })
  if ('problem' in fit) return []
  const positions = promptTokens + answerTokens / 2
  const { tokensPerSecond } = decodePlan(geometry, machine, fit, routing, positions)
  return [{ at, tokensPerSecond }]
}
