// Which model a command is about: the folder that a person named, or the model that comes with the
// program. Reads nothing of the model itself.
import { existsSync, readFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
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
    const folder = bundled('models/ring-tiny')
    return { name: basename(folder), folder, isBundled: true }
  }
  const folder = locateModel(model)
  // A name in the cache stays whole; of a folder's path the last part is the name.
  const isCached = !existsSync(model)
  return { name: isCached ? model : basename(folder), folder, isBundled: false }
}

/** A file or folder that comes with the program, by its path in the package. */
export function bundled(path: string): string {
  return join(packageRoot(), path)
}

/** The program's version, as its package says. */
export function packageVersion(): string {
  const text = readFileSync(join(packageRoot(), 'package.json'), 'utf8')
  const { version }: { version?: string } = JSON.parse(text)
  return version ?? 'unknown'
}

/** The folder above this file that holds the package: sources and built files lie at different depths. */
function packageRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url))
  while (!existsSync(join(folder, 'package.json'))) {
    const parent = dirname(folder)
    if (parent === folder) throw new Error('package.json not found above the program')
    folder = parent
  }
  return folder
}
