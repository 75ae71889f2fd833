// A profile of experts on the disk: read at open for the policy `pinned`, written when an engine ends.
// It appears whole or not at all. A place where it cannot be written is refused at the start, not after
// the work of hours.
import { createHash } from 'node:crypto'
import fs from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { Profile, type ProfiledModel, parseProfile } from '../cache/profile.js'
import type { Checkpoint } from '../model/checkpoint.js'
import { ModelError } from '../model/error.js'
import { readText } from '../model/window.js'
import { reasonOf } from './manifest.js'

/** Digits and a comma for every expert of the largest model. */
const profileBytesLimit = 64 * 2 ** 20

/** Models of one shape are told apart by what their config.json holds. */
export function profiledModel({ folder, config }: Checkpoint): ProfiledModel {
  const text = fs.readFileSync(join(folder, 'config.json'))
  const model = createHash('sha256').update(text).digest('hex').slice(0, 16)
  return { moeLayers: config.layers - config.firstMoeLayer, experts: config.experts, model }
}

/** Throws ModelError when there is none, or one of another model. */
export function readProfile(path: string, of: ProfiledModel): Profile {
  const found = parseProfile(readText(path, profileBytesLimit), basename(path), of)
  if ('problem' in found) throw new ModelError(`--profile: ${found.problem}`)
  return found
}

/** An empty profile that can be written there later. Throws ModelError when it could not. */
export function newProfile(path: string, of: ProfiledModel): Profile {
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
  return new Profile(of.moeLayers, of.experts, of.model)
}

/** Replaces what lay there. Throws ModelError when it cannot be written. */
export function writeProfile(path: string, profile: Profile): void {
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
