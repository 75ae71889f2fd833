// Where settings lie that were found to be faster. Apart from what reads them, so that a command begins
// without that where nothing was ever found.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { Environment } from '../model/locate.js'
import { cacheFolder } from './manifest.js'

export function tunedFolder(environment: Environment): string {
  return join(cacheFolder(environment), 'tuned')
}

/** Whether anything was ever tuned here. */
export function isAnythingTuned(environment: Environment): boolean {
  return existsSync(tunedFolder(environment))
}
