// What is known of this machine's speed without measuring: what doctor keeps of it, and where that is
// nothing, an assumption that says so. It measures nothing itself.
import type { Environment } from '../model/locate.js'
import { knownMachine } from './knownmachine.js'

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

/** `folder` must be there. */
export function knownRates(folder: string, environment: Environment): KnownRates {
  const { host, memory, reads } = knownMachine(environment, folder)
  const { cores } = host.processor
  return {
    drive: rateOf(reads?.bytesPerSecond, usualDrive),
    memory: rateOf(memory?.bytesPerSecond, usualMemoryPerCore * Math.min(cores, memoryCoresMost)),
    products: rateOf(undefined, usualProductsPerCore * cores),
  }
}

function rateOf(measured: number | undefined, usual: number): Rate {
  return { perSecond: measured ?? usual, isMeasured: measured !== undefined }
}
