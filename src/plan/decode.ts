// Decode of one sequence on a planned machine: computing by speeds, waiting for the drive by rehearsal of the
// engine's own cache and look-ahead on routing of the nearest kind.
import type { MachineModel } from '../simulate/machine.js'
import { driveRange, driveRate, mindsOverlap, noOverlap, type Overlap, overlapOf } from './drive.js'
import type { Fit } from './fit.js'
import { missesOf, ofOracle, type Range } from './fitted.js'
import type { Geometry } from './geometry.js'
import type { PlannedMachine } from './machine.js'
import { type Rehearsed, rehearse } from './rehearse.js'
import type { PlannedRouting } from './routing.js'
import { type Case, type Limit, oneToken, type Speeds, speedsOf } from './speeds.js'

/** What a step waits for most. */
export type Bottleneck = 'drive' | 'link' | Limit

export interface DecodePlan {
  readonly tokensPerSecond: Range
  /** Of experts that are wanted, those that lie in slots. */
  readonly hitRate: Range
  /** Of one token: experts that must be read, and their bytes. */
  readonly misses: number
  readonly readBytes: number
  /** Of one token, what is copied to a GPU from RAM. */
  readonly copiedBytes: number
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
  const compute = (which: Case) =>
    moeLayers * (layerSeconds(speeds(which), topK) + stall.lost) + speeds(which).outer
  const rate = (which: Case) => 1 / (compute(which) + moeLayers * stall[which])
  const hits = (which: Case) =>
    Math.max(0, 1 - (missesOf[routing.kind][which] * stall.misses) / topK)
  const misses = moeLayers * stall.misses
  const [computing, waiting] = [compute('likely'), moeLayers * stall.likely]
  return {
    tokensPerSecond: { low: rate('low'), likely: rate('likely'), high: rate('high') },
    hitRate: { low: hits('low'), likely: hits('likely'), high: hits('high') },
    misses,
    readBytes: (misses * sizes.expertBytes) / sizes.experts,
    copiedBytes: (moeLayers * stall.copies * sizes.expertBytes) / sizes.experts,
    computeSeconds: computing,
    stallSeconds: waiting,
    bottleneck: waiting > computing ? stall.by : speeds('likely').limit,
  }
}

function layerSeconds({ attend, shared, expert }: Speeds, topK: number): number {
  return attend + shared + topK * expert
}

/** Each time what is read beside computing is known better. */
const overlapRounds = 3

interface Stall extends Range {
  readonly misses: number
  readonly copies: number
  readonly by: 'drive' | 'link'
  /** Seconds that computing takes longer because experts are read beside it. */
  readonly lost: number
}

/** Of one layer of one token: seconds of waiting, and misses. */
function stallOf(
  geometry: Geometry,
  machine: PlannedMachine,
  fit: Fit,
  routing: PlannedRouting,
  speeds: Speeds,
): Stall {
  const { moeLayers, sizes } = geometry
  const computed = fit.isOnGpu ? fit.slots.gpu : fit.slots.ram
  if (computed >= sizes.experts) {
    return { low: 0, likely: 0, high: 0, misses: 0, copies: 0, by: 'drive', lost: 0 }
  }
  const slotsPerLayer = computed / moeLayers
  const modelWith = (overlap: Overlap): MachineModel => ({
    ...machineModel(geometry, machine, speeds, overlap),
    ...waysToGpu(geometry, machine, fit),
  })
  const of = (lookAhead: 'off' | 'auto' | 'oracle', overlap: Overlap) =>
    rehearse(routing, slotsPerLayer, modelWith(overlap), lookAhead)
  let overlap = noOverlap
  const usual = hasEarlyScores(routing) ? 'auto' : 'off'
  // How much is read beside computing depends on how long both take, which depends on that.
  for (let round = 0; round < (mindsOverlap(machine) ? overlapRounds : 0); round += 1) {
    const model = modelWith(overlap)
    const { stallSeconds, misses } = rehearse(routing, slotsPerLayer, model, usual)
    overlap = overlapOf(machine, misses * model.expertBytes, model.bytesPerSecond, stallSeconds)
  }
  const [off, oracle] = [of('off', overlap), of('oracle', overlap)]
  const likely = usual === 'auto' ? of('auto', overlap).stallSeconds : blended(off, oracle)
  const drive = driveRange(machine)
  const misses = missesOf[routing.kind]
  const scaled = (seconds: number, which: Case) => (seconds * misses[which]) / drive[which]
  return {
    low: scaled(Math.max(off.stallSeconds, likely), 'low'),
    likely,
    high: scaled(Math.min(oracle.stallSeconds, likely), 'high'),
    misses: off.misses,
    copies: off.copies,
    by: off.isLinkBound ? 'link' : 'drive',
    lost: overlap.lostSeconds,
  }
}

/** Between a drive and a GPU that computes: the link, and the slots in RAM below its own. */
function waysToGpu(
  { sizes }: Geometry,
  machine: PlannedMachine,
  { isOnGpu, slots }: Fit,
): Partial<MachineModel> {
  if (!isOnGpu) return {}
  const below = slots.ram > 0 ? { belowShare: slots.ram / sizes.experts } : {}
  return { copyBytesPerSecond: machine.copy.value, ...below }
}

function blended(off: Rehearsed, oracle: Rehearsed): number {
  const gain = Math.max(0, off.stallSeconds - oracle.stallSeconds)
  return off.stallSeconds - ofOracle * gain
}

function hasEarlyScores({ routing: { scores } }: PlannedRouting): boolean {
  return scores?.kind === 'file' && scores.ahead.length > 0
}

/** A layer as rehearsals have it. The shared expert is computed while experts are read, as they are. */
export function machineModel(
  { sizes, topK }: Geometry,
  machine: PlannedMachine,
  speeds: Speeds,
  { share, lostSeconds }: Overlap = noOverlap,
): MachineModel {
  const alone = layerSeconds(speeds, topK)
  return {
    bytesPerSecond: driveRate(machine, 'likely', share),
    latencySeconds: machine.latency.value,
    chunkBytes: machine.chunk.value,
    depth: machine.depth.value * machine.drives.value,
    copyBytesPerSecond: Number.POSITIVE_INFINITY,
    expertBytes: sizes.expertBytes / sizes.experts,
    layerSeconds: alone + lostSeconds,
    expertShare: (speeds.shared + topK * speeds.expert) / alone,
  }
}
