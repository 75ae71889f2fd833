// Settings that were found to be faster, kept from one run to the next: a file for each model on each
// machine and drive, an entry for each set of flags under which they were found. A file comes from the
// cache folder and may hold anything, so each value is checked, and what is damaged, of another machine or
// of another build is not used. It measures nothing.
import { createHash } from 'node:crypto'
import fs from 'node:fs'
import { join } from 'node:path'
import { addonPath, probe } from '../../native/index.js'
import { ModelError } from '../model/error.js'
import {
  among,
  atLeast,
  date,
  list,
  nullable,
  object,
  oneOf,
  optional,
  parseFields,
  type Read,
  text,
  whole,
} from '../model/fields.js'
import { parseObject } from '../model/json.js'
import type { Environment } from '../model/locate.js'
import { readText } from '../model/window.js'
import { driveOf } from './drives.js'
import { hostOf } from './host.js'
import type { Cores } from './knobs.js'
import { machineKey } from './machine.js'
import { reasonOf, replaceFile } from './manifest.js'
import { tunedFolder } from './tunedfolder.js'

const FILE_BYTES_MOST = 2 ** 20
/** Entries of a file; the oldest go first. */
const ENTRIES_MOST = 16
const TIB = 2 ** 40

const line = () => text(4096)

const settingsShape = object({
  threads: optional(whole(1, 1024)),
  prefetch: optional(among('auto', 'on', 'off')),
  policy: optional(among<string>('auto', 'lfu', 'lru', 'sweep')),
  readDepth: optional(whole(1, 1024)),
  readChunk: optional(whole(2 ** 16, 2 ** 30)),
  loadMode: optional(among('mapped', 'direct')),
  expertRamMost: optional(whole(1, 1024 * TIB)),
  maxBatch: optional(whole(1, 4096)),
})
const entryShape = object({
  /** The flags that a run must have been given too, as `--expert-ram 25%`; empty: none. */
  flags: line(),
  build: line(),
  tuned: date(),
  settings: settingsShape,
  /** Times as fast as without them, by the median of the last contest. */
  speed: nullable(atLeast(0, 1e6)),
})
const fileShape = object({
  version: oneOf(1),
  machine: line(),
  drive: line(),
  model: line(),
  entries: list(entryShape),
})

/** What was found under some flags; `tuned` is an ISO date. */
export type TunedEntry = Readonly<Read<typeof entryShape>>

/** What settings are found for. */
export interface TunedPlace {
  readonly machine: string
  readonly drive: string
  /** Text that two models do not share. */
  readonly model: string
}

/** Of this machine and the drive under a folder. */
export function tunedPlace(folder: string, model: string): TunedPlace {
  return { machine: machineKey(hostOf(probe())), drive: driveOf(folder).key, model }
}

/** The program by its version, its native part and the instruction set that it takes here. */
export function buildKey(version: string): string {
  return `${version} ${kernelsKey()}`
}

/** The native part, and the instruction set that it takes here. */
export function kernelsKey(): string {
  const native = createHash('sha256').update(fs.readFileSync(addonPath)).digest('hex').slice(0, 16)
  return `${native} ${probe().instructionSet}`
}

export function coresHere(): Cores {
  const { cores, machineCores } = hostOf(probe()).processor
  return { logical: cores, physical: machineCores }
}

/** Where settings for this place lie. */
export function tunedPath(environment: Environment, place: TunedPlace): string {
  const { machine, drive, model } = place
  const name = createHash('sha256').update([machine, drive, model].join('\n')).digest('hex')
  return join(tunedFolder(environment), `${name.slice(0, 32)}.json`)
}

/** The entries that stand, the latest last; none where there is no file. Throws ModelError for what is no such file. */
export function readTuned(environment: Environment, place: TunedPlace): readonly TunedEntry[] {
  const path = tunedPath(environment, place)
  if (!fs.existsSync(path)) return []
  const found = parseFields(fileShape, parseObject(readText(path, FILE_BYTES_MOST), path), path)
  const isOfHere =
    found.machine === place.machine && found.drive === place.drive && found.model === place.model
  if (!isOfHere) throw new ModelError(`${path}: is of another machine, drive or model`)
  return found.entries
}

/** Keeps an entry in the place of the one with the same flags. Throws ModelError where it cannot be written. */
export function keepTuned(environment: Environment, place: TunedPlace, entry: TunedEntry): void {
  const others = standing(environment, place).filter(({ flags }) => flags !== entry.flags)
  write(environment, place, [...others, entry].slice(-ENTRIES_MOST))
}

/** Takes away the entry with these flags. Throws ModelError where the rest cannot be written. */
export function dropTuned(environment: Environment, place: TunedPlace, flags: string): void {
  const entries = standing(environment, place)
  const others = entries.filter((entry) => entry.flags !== flags)
  if (others.length < entries.length) write(environment, place, others)
}

/** Takes away all settings for a place; returns whether there was a file. Throws ModelError where it stays. */
export function forgetTuned(environment: Environment, place: TunedPlace): boolean {
  const path = tunedPath(environment, place)
  if (!fs.existsSync(path)) return false
  try {
    fs.rmSync(path)
  } catch (error) {
    throw new ModelError(`${path}: cannot be removed: ${reasonOf(error)}`)
  }
  return true
}

/** Throws ModelError where settings could not be kept, before the work of minutes. */
export function checkKeepable(environment: Environment): void {
  const folder = tunedFolder(environment)
  try {
    fs.mkdirSync(folder, { recursive: true })
    fs.accessSync(folder, fs.constants.W_OK | fs.constants.X_OK)
  } catch (error) {
    throw new ModelError(`${folder}: settings cannot be kept there: ${reasonOf(error)}`)
  }
}

/** What can be read of what stands; a file that cannot be is made anew. */
function standing(environment: Environment, place: TunedPlace): readonly TunedEntry[] {
  try {
    return readTuned(environment, place)
  } catch (error) {
    if (error instanceof ModelError) return []
    throw error
  }
}

function write(environment: Environment, place: TunedPlace, entries: readonly TunedEntry[]): void {
  const text = `${JSON.stringify({ version: 1, ...place, entries }, null, 1)}\n`
  replaceFile(tunedPath(environment, place), Buffer.from(text), true)
}
