// Decode of one sequence on a planned machine: computing by speeds, waiting for the drive by rehearsal of the
// engine's own cache and look-ahead on routing of the nearest kind.
import type { MachineModel } from '../simulate/machine.js'
import type { Fit } from './fit.js'
import { driveBeside, missesOf, ofOracle, type Range } from './fitted.js'
import type { Geometry } from './geometry.js'
import type { Known, PlannedMachine } from './machine.js'
import { type Rehearsed, rehearse } from './rehearse.js'
import type { PlannedRouting } from './routing.js'
import { type Case, type Limit, oneToken, type Speeds, speedsOf } from './speeds.js'

/** What a step waits for most. */
export type Bottleneck = 'drive' | Limit

export interface DecodePlan {
  readonly tokensPerSecond: Range
  /** Of experts that are wanted, those that lie in slots. */
  readonly hitRate: Range
  /** Of one token: experts that must be read, and their bytes. */
  readonly misses: number
  readonly readBytes: number
  readonly computeSeconds: number
  readonly stallSeconds: number
  readonly bottleneck: Bottleneck
}

export function decodePlan(
  geometry: Geometry,
  machine: PlannedMachine,
  fit: Fit,
  routing: PlannedRouting,
  positions: number,
): DecodePlan {
  const speeds = (which: Case) => speedsOf(geometry, machine, fit, oneToken(positions), which)
  const { moeLayers, topK, sizes } = geometry
  const stall = stallOf(geometry, machine, fit, routing, speeds('likely'))
  const secondsOf = (which: Case) =>
    computeSeconds(geometry, speeds(which)) + moeLayers * stall[which]
  const rate = (which: Case) => 1 / secondsOf(which)
  const hits = (which: Case) =>
    Math.max(0, 1 - (missesOf[routing.kind][which] * stall.misses) / topK)
  const misses = moeLayers * stall.misses
  const [compute, waiting] = [computeSeconds(geometry, speeds('likely')), moeLayers * stall.likely]
  return {
    tokensPerSecond: { low: rate('low'), likely: rate('likely'), high: rate('high') },
    hitRate: { low: hits('low'), likely: hits('likely'), high: hits('high') },
    misses,
    readBytes: (misses * sizes.expertBytes) / sizes.experts,
    computeSeconds: compute,
    stallSeconds: waiting,
    bottleneck: waiting > compute ? 'drive' : speeds('likely').limit,
  }
}

function computeSeconds({ moeLayers, topK }: Geometry, speeds: Speeds): number {
  return moeLayers * layerSeconds(speeds, topK) + speeds.outer
}

function layerSeconds({ attend, shared, expert }: Speeds, topK: number): number {
  return attend + shared + topK * expert
}

interface Stall extends Range {
  readonly misses: number
}

/** Of one layer of one token: seconds of waiting, and misses. */
function stallOf(
  geometry: Geometry,
  machine: PlannedMachine,
  fit: Fit,
  routing: PlannedRouting,
  speeds: Speeds,
): Stall {
  if (fit.onDrive === 0) return { low: 0, likely: 0, high: 0, misses: 0 }
  const { moeLayers } = geometry
  const slotsPerLayer = (fit.slots.ram + fit.slots.gpu) / moeLayers
  const modelled = machineModel(geometry, machine, speeds)
  const of = (lookAhead: 'off' | 'auto' | 'oracle') =>
    rehearse(routing, slotsPerLayer, modelled, lookAhead)
  const [off, oracle] = [of('off'), of('oracle')]
  const likely = hasEarlyScores(routing) ? of('auto').stallSeconds : blended(off, oracle)
  const beside = driveOf(machine.drive)
  const misses = missesOf[routing.kind]
  const scaled = (seconds: number, which: Case) =>
    (seconds * misses[which] * beside.likely) / beside[which]
  return {
    low: scaled(Math.max(off.stallSeconds, likely), 'low'),
    likely,
    high: scaled(Math.min(oracle.stallSeconds, likely), 'high'),
    misses: off.misses,
  }
}

function blended(off: Rehearsed, oracle: Rehearsed): number {
  const gain = Math.max(0, off.stallSeconds - oracle.stallSeconds)
  return off.stallSeconds - ofOracle * gain
}

function hasEarlyScores({ routing: { scores } }: PlannedRouting): boolean {
  return scores?.kind === 'file' && scores.ahead.length > 0
}

function driveOf({ source }: Known): Range {
  if (source === 'assumed') return driveBeside.assumed
  return source === 'given' ? driveBeside.given : driveBeside.measured
}

/** All drives together, beside computing. */
export function driveRate(machine: PlannedMachine, which: Case): number {
  return machine.drive.value * machine.drives.value * driveOf(machine.drive)[which]
}

/** A layer as rehearsals have it. The shared expert is computed while experts are read, as they are. */
export function machineModel(
  { sizes, topK }: Geometry,
  machine: PlannedMachine,
  speeds: Speeds,
): MachineModel {
  const seconds = layerSeconds(speeds, topK)
  return {
    bytesPerSecond: driveRate(machine, 'likely'),
    latencySeconds: machine.latency.value,
    chunkBytes: machine.chunk.value,
    depth: machine.depth.value * machine.drives.value,
    copyBytesPerSecond: Number.POSITIVE_INFINITY,
    expertBytes: sizes.expertBytes / sizes.experts,
    layerSeconds: seconds,
    expertShare: (speeds.shared + topK * speeds.expert) / seconds,
  }
}
