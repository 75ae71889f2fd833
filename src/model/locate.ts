/**
 * From what a person writes for MODEL to the folder that holds it: a folder, or ORG/NAME with an
 * optional @revision in the local Hugging Face cache. It must not download anything and must not
 * look into the model. The first cache variable that is set is the cache, as in the public tools;
 * the others are then not searched.
 */
import fs from 'node:fs'
import os from 'node:os'
import { join, resolve } from 'node:path'
import { ModelError, shown } from './error.js'
import { readText } from './window.js'

export type Environment = Readonly<Record<string, string | undefined>>

/**
 * The folder of a model. An existing folder wins over a cached model of the same name. Throws
 * ModelError saying where it looked.
 */
export function locateModel(model: string, environment: Environment = process.env): string {
  const status = statusOf(model)
  if (status?.isDirectory()) return resolve(model)
  if (status !== undefined) {
    throw new ModelError(`MODEL: expected a folder or ORG/NAME, found the file ${shown(model)}`)
  }
  const named = hubName(model)
  if (named === null) {
    throw new ModelError(
      `MODEL: expected a folder or ORG/NAME, found ${shown(model)}, which is no folder in ${shown(process.cwd())}`,
    )
  }
  return snapshotFolder(cacheFolder(environment), named.model, named.revision)
}

/** What ORG/NAME or ORG/NAME@REVISION says; null where a text is neither. */
export function hubName(
  text: string,
): { readonly model: string; readonly revision: string } | null {
  const parts = CACHED_NAME.exec(text)
  if (parts === null) return null
  const [, organisation = '', name = '', revision = 'main'] = parts
  return { model: `${organisation}/${name}`, revision }
}

/** Each part begins with a letter, digit or underscore, so no part can be "." or "..". */
const CACHED_NAME = /^(\w[\w.-]*)\/(\w[\w.-]*)(?:@(\w[\w.-]*(?:\/\w[\w.-]*)*))?$/
const COMMIT = /^[0-9a-f]{7,64}$/

/** The folder of the Hugging Face cache, by the variables that the public tools read, in their order. */
export function cacheFolder(environment: Environment): string {
  const { HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME, XDG_CACHE_HOME, HOME } = environment
  if (HF_HUB_CACHE) return HF_HUB_CACHE
  if (HUGGINGFACE_HUB_CACHE) return HUGGINGFACE_HUB_CACHE
  if (HF_HOME) return join(HF_HOME, 'hub')
  const cache = XDG_CACHE_HOME ? XDG_CACHE_HOME : join(HOME ? HOME : os.homedir(), '.cache')
  return join(cache, 'huggingface', 'hub')
}

/** models--ORG--NAME/snapshots/COMMIT, where refs/REVISION holds the commit unless it is one. */
function snapshotFolder(cache: string, model: string, revision: string): string {
  const stored = join(cache, `models--${model.replace('/', '--')}`)
  if (!isFolder(stored)) {
    throw new ModelError(
      `MODEL: expected a folder or a cached model, found no folder ${shown(model)} and nothing in ${shown(stored)}`,
    )
  }
  const commit = readReference(join(stored, 'refs', revision)) ?? revision
  const folder = join(stored, 'snapshots', commit)
  if (!COMMIT.test(commit) || !isFolder(folder)) {
    throw new ModelError(
      `MODEL: expected revision ${shown(revision)} of ${model} in the cache, found no such snapshot in ${shown(join(stored, 'snapshots'))}`,
    )
  }
  return folder
}

function readReference(path: string): string | null {
  const status = statusOf(path)
  return status?.isFile() && status.size > 0 ? readText(path, 256).trim() : null
}

function isFolder(path: string): boolean {
  return statusOf(path)?.isDirectory() ?? false
}

/** Undefined for whatever cannot be looked at, be it absent, forbidden or no path at all. */
function statusOf(path: string): fs.Stats | undefined {
  try {
    return fs.statSync(path)
  } catch {
    return undefined
  }
}
