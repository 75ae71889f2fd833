// Where a job keeps the keys and values of answers that give way before they are done: a folder beside its
// output, unless a person names one or wants none. Nothing there is needed: what is gone is computed again.
import fs from 'node:fs'
import { dirname, join } from 'node:path'
import { defaultKvDiskBytes, type KvDiskWishes } from '../engine/kvstore.js'

/** Of what is free on the drive, at most: the output and the journal lie there too. */
const SHARE_OF_FREE = 0.5

function ownFolder(output: string): string {
  return `${output}.kv`
}

/** `bytes`: most that a person allows; 0: nothing is kept. */
export function kvPlaceOf(
  output: string,
  folder: string | undefined,
  bytes: number | undefined,
): KvDiskWishes {
  if (bytes === 0) return { kvDir: undefined }
  if (folder !== undefined) return { kvDir: folder, kvDiskBytes: bytes }
  return {
    kvDir: ownFolder(output),
    kvDiskBytes: bytes ?? Math.min(defaultKvDiskBytes, SHARE_OF_FREE * freeBytes(dirname(output))),
    kvDiskOf: 'parked',
  }
}

/** Removes what lies in the job's own folder, and the folder where nothing else is in it. */
export function clearOwnKv(output: string): void {
  const folder = ownFolder(output)
  try {
    for (const file of fs.readdirSync(folder))
      if (/\.(kv|partial)$/.test(file)) fs.rmSync(join(folder, file), { force: true })
    fs.rmdirSync(folder)
  } catch {
    // It was never made, or something else is in it.
  }
}

function freeBytes(folder: string): number {
  try {
    const { bavail, bsize } = fs.statfsSync(folder)
    return bavail * bsize
  } catch {
    return 0
  }
}
