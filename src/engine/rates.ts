// What is known of this machine's speed without measuring: what doctor keeps of it, and where that is
// nothing, an assumption that says so. It measures nothing itself.
import { probe } from '../../native/index.js'
import type { Environment } from '../model/locate.js'
import { driveOf } from './drives.js'
import { hostOf } from './host.js'
import { machineKey, readMachine } from './machine.js'

export interface Rate {
  /** Bytes, or multiply-adds. */
  readonly perSecond: number
  readonly isMeasured: boolean
}

export interface KnownRates {
  /** Of the drive that the folder is on. */
  readonly drive: Rate
  readonly memory: Rate
  readonly products: Rate
}

/** One NVMe drive, and what a core adds: usual ones, so that a guess is wrong by a factor of two or so. */
const usualDrive = 3e9
const usualMemoryPerCore = 2e10
const memoryCoresMost = 8
const usualProductsPerCore = 3e10

export function knownRates(folder: string, environment: Environment): KnownRates {
  const machine = probe()
  const { memory, drives } = readMachine(environment, machineKey(hostOf(machine)))
  const key = driveKeyOf(folder)
  const drive = drives.find((one) => one.drive === key)
  const { cores } = machine
  return {
    drive: rateOf(drive?.bytesPerSecond, usualDrive),
    memory: rateOf(memory?.bytesPerSecond, usualMemoryPerCore * Math.min(cores, memoryCoresMost)),
    products: rateOf(undefined, usualProductsPerCore * cores),
  }
}

function rateOf(measured: number | undefined, usual: number): Rate {
  return { perSecond: measured ?? usual, isMeasured: measured !== undefined }
}

/** Null where the system does not tell. */
function driveKeyOf(folder: string): string | null {
  try {
    return driveOf(folder).key
  } catch {
    return null
  }
}
