// Which model a command is about: the folder that a person named, or the model that comes with the
// program. Reads nothing of the model itself.
import { existsSync, readFileSync } from 'node:fs'
import { basename } from 'node:path'
import { bundled, bundledModel } from '../model/bundled.js'
import { locateModel } from '../model/locate.js'

export interface ModelSource {
  /** For people and for reports: never a path. */
  readonly name: string
  readonly folder: string
  readonly isBundled: boolean
}

/** Throws ModelError when there is no such model. */
export function findModel(model: string | undefined): ModelSource {
  if (model === undefined) {
    const folder = bundledModel()
    return { name: basename(folder), folder, isBundled: true }
  }
  const folder = locateModel(model)
  // A name in the cache stays whole; of a folder's path the last part is the name.
  const isCached = !existsSync(model)
  return { name: isCached ? model : basename(folder), folder, isBundled: false }
}

/** The program's version, as its package says. */
export function packageVersion(): string {
  const text = readFileSync(bundled('package.json'), 'utf8')
  const { version }: { version?: string } = JSON.parse(text)
  return version ?? 'unknown'
}
