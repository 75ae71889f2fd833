// How a planned machine's drives read, alone and beside computing, and what computing loses meanwhile: on some
// machines both want the same cores and the same memory. No routing and no cache is in it.
import { ofDrive, type Range } from './fitted.js'
import type { PlannedMachine } from './machine.js'
import type { Case } from './speeds.js'

/** How far what is known of a drive may be off. */
export function driveRange({ drive }: PlannedMachine): Range {
  return ofDrive[drive.source === 'told' ? 'measured' : drive.source]
}

// What was measured beside computing holds for the drive that was measured; a slower one is less in the way.

/** Of a drive's rate, what is left beside computing. */
function keptOf({ drive, beside }: PlannedMachine): number {
  return drive.source === 'measured' || beside.source === 'given' ? beside.value : 1
}

/** Seconds of computing that are lost while so many bytes are read, a share of them beside it. */
export function lostSeconds({ drive, lost }: PlannedMachine, bytes: number, share: number): number {
  return drive.source === 'measured' || lost.source === 'given' ? share * bytes * lost.value : 0
}

/** Bytes a second of all drives together, a share of them beside computing. */
export function driveRate(machine: PlannedMachine, which: Case, besideComputing: number): number {
  const alone = machine.drive.value * machine.drives.value * driveRange(machine)[which]
  return alone / (1 - besideComputing + besideComputing / keptOf(machine))
}

/** What reading and computing at once take from each other, while experts of a layer are read. */
export interface Overlap {
  /** Of the bytes that are read, those that are read while something is computed. */
  readonly share: number
  /** That computing takes longer. */
  readonly lostSeconds: number
}

export const noOverlap: Overlap = { share: 0, lostSeconds: 0 }

export function mindsOverlap(machine: PlannedMachine): boolean {
  return lostSeconds(machine, 1, 1) > 0 || keptOf(machine) < 1
}

/** Bytes that were read at such a rate; `stallSeconds` of it nothing was computed. */
export function overlapOf(
  machine: PlannedMachine,
  bytes: number,
  bytesPerSecond: number,
  stallSeconds: number,
): Overlap {
  const busy = bytes / bytesPerSecond
  const share = busy === 0 ? 0 : Math.max(0, busy - stallSeconds) / busy
  return { share, lostSeconds: lostSeconds(machine, bytes, share) }
}
