// Profiles of experts on the disk: what earlier runs left is read at open, what is learnt is written when
// an engine ends. A profile appears whole or not at all. One that a person names must be there, fit and be
// writable, and a place where it cannot be written is refused at the start, not after the work of hours;
// one that is kept without anybody's asking is left alone when anything is wrong with it.
import { createHash } from 'node:crypto'
import fs from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { Profile, type ProfiledModel, parseProfile, profileBytesMost } from '../cache/profile.js'
import type { Checkpoint } from '../model/checkpoint.js'
import { ModelError } from '../model/error.js'
import { readText } from '../model/window.js'
import { reasonOf } from './manifest.js'

export interface ProfileWishes {
  /** The file of the profile that is gone by. */
  readonly profile?: string | undefined
  /** Where a profile shall be written in the end: it is kept from the start, and whoever closes writes it. */
  readonly saveProfile?: string | undefined
  /** A folder for both, in which each model has a file; it may be missing, and need not be good. */
  readonly remember?: string | undefined
}

export interface OpenProfile {
  /** What earlier runs left; null: nothing. */
  readonly known: Profile | null
  /** What this run adds to, and what is written in the end; null: nothing is kept. */
  readonly kept: Profile | null
  /** Why something that lies there is not used; null where there is nothing to say. */
  readonly note: string | null
}

/** Of what was counted before, what still counts when another run begins. */
const olderShare = 0.5

const ofMaps = '--profile has no effect while all experts are mapped and there is no budget'

/**
 * Throws ModelError where a profile that was named cannot be had or kept. `hasSlots`: where no expert has
 * to leave, nothing is to be known of them.
 */
export function openProfile(
  checkpoint: Checkpoint,
  wishes: ProfileWishes,
  hasSlots: boolean,
): OpenProfile {
  const { profile, saveProfile, remember } = wishes
  const of = profiledModel(checkpoint)
  if (saveProfile !== undefined) checkWritable(saveProfile)
  if (!hasSlots) {
    const kept = saveProfile === undefined ? null : continued(null, of)
    return { known: null, kept, note: profile === undefined ? null : ofMaps }
  }
  const found = profile === undefined ? null : readProfile(profile, of, '--profile')
  const { known, note } =
    found === null && remember !== undefined
      ? recalled(fileIn(remember, of), of)
      : { known: found, note: null }
  const isKept = saveProfile !== undefined || remember !== undefined
  return { known, kept: isKept ? continued(known, of) : null, note }
}

/** Models of one shape are told apart by what their config.json holds. */
export function profiledModel({ folder, config }: Checkpoint): ProfiledModel {
  const text = fs.readFileSync(join(folder, 'config.json'))
  const model = createHash('sha256').update(text).digest('hex').slice(0, 16)
  return { moeLayers: config.layers - config.firstMoeLayer, experts: config.experts, model }
}

/** Replaces what lay there. Throws ModelError when what a person named cannot be written. */
export function writeProfile({ saveProfile, remember }: ProfileWishes, profile: Profile): void {
  if (saveProfile !== undefined) replace(saveProfile, profile)
  if (remember === undefined) return
  try {
    fs.mkdirSync(remember, { recursive: true })
    replace(fileIn(remember, profile), profile)
  } catch {
    // On a full disk, or in a home that is read-only: the next run learns again.
  }
}

function fileIn(folder: string, { model }: ProfiledModel): string {
  return join(folder, `${model}.profile.json`)
}

/** What this run begins with: what was known, which counts less than what it will see itself. */
function continued(known: Profile | null, of: ProfiledModel): Profile {
  const kept = new Profile(of.moeLayers, of.experts, of.model)
  if (known !== null) kept.counts.set(known.counts.map((tokens) => olderShare * tokens))
  return kept
}

function readProfile(path: string, of: ProfiledModel, name: string): Profile {
  const found = parseProfile(readText(path, profileBytesMost), basename(path), of)
  if ('problem' in found) throw new ModelError(`${name}: ${found.problem}`)
  return found
}

function recalled(path: string, of: ProfiledModel): Omit<OpenProfile, 'kept'> {
  if (!fs.existsSync(path)) return { known: null, note: null }
  try {
    return { known: readProfile(path, of, path), note: null }
  } catch (error) {
    if (!(error instanceof ModelError)) throw error
    return { known: null, note: `what earlier runs learnt is not used: ${error.message}` }
  }
}

function checkWritable(path: string): void {
  let isSpecial = false
  try {
    // A pipe or a device would be replaced, not written to.
    isSpecial = fs.statSync(path, { throwIfNoEntry: false })?.isFile() === false
    if (!isSpecial) fs.accessSync(dirname(path), fs.constants.W_OK | fs.constants.X_OK)
  } catch (error) {
    throw unwritable(path, error)
  }
  if (isSpecial) {
    throw new ModelError(`--save-profile ${path}: expected a file, found a folder, pipe or device`)
  }
}

function replace(path: string, profile: Profile): void {
  const partial = `${path}.${process.pid}.partial`
  try {
    fs.writeFileSync(partial, profile.print(), { flush: true })
    fs.renameSync(partial, path)
  } catch (error) {
    fs.rmSync(partial, { force: true })
    throw unwritable(path, error)
  }
}

function unwritable(path: string, error: unknown): ModelError {
  return new ModelError(`--save-profile ${path}: cannot be written: ${reasonOf(error)}`)
}
