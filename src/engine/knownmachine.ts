// What is known of this machine without measuring anything: what its system tells, and what `doctor` has kept
// of memory, of computing and of the drive under a folder.
import { probe } from '../../native/index.js'
import type { Environment } from '../model/locate.js'
import { driveOf } from './drives.js'
import { type Host, hostOf } from './host.js'
import {
  type ComputingMeasure,
  type DriveMeasure,
  type MemoryMeasure,
  machineKey,
  readMachine,
} from './machine.js'

export interface KnownMachine {
  readonly host: Host
  /** Null: never measured, here and below. */
  readonly memory: MemoryMeasure | null
  /** By the kernels of the build that doctor ran with. */
  readonly computing: ComputingMeasure | null
  readonly reads: DriveMeasure | null
}

/** `folder` must be there. */
export function knownMachine(environment: Environment, folder: string): KnownMachine {
  const host = hostOf(probe())
  const { memory, computing, drives } = readMachine(environment, machineKey(host))
  const key = driveKeyOf(folder)
  return { host, memory, computing, reads: drives.find(({ drive }) => drive === key) ?? null }
}

/** Null where the system does not tell. */
function driveKeyOf(folder: string): string | null {
  try {
    return driveOf(folder).key
  } catch {
    return null
  }
}
