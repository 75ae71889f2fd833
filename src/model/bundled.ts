// What comes with the program beside its code: the bundled model, recorded routing, published configs. It knows
// where they lie, not what they are.
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** A file or folder by its path in the package. */
export function bundled(path: string): string {
  return join(packageRoot(), path)
}

/** The folder of the model that comes with the program. */
export function bundledModel(): string {
  return bundled('models/ring-tiny')
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
