// What the drive under a checkpoint and the memory can do right now, so that shares are taken against
// this machine in these minutes and not against a data sheet.
import { measureDrive, measureMemory } from '../../native/index.js'
import type { Checkpoint } from '../model/checkpoint.js'
import type { ReadWishes } from './layout.js'
import { readerOf } from './layout.js'

const bytesPerProbe = 2 * 2 ** 30
const secondsPerProbe = 5
const depth = 16

/** The larger of random reads of 4 MiB and of 1 MiB at depth 16, bytes per second. Takes seconds. */
export function driveCeiling(checkpoint: Checkpoint, reads: ReadWishes, seed: number): number {
  const files = checkpoint.files.map(({ path, sizeBytes }) => ({ path, sizeBytes }))
  const rates = [4, 1].map((mebibytes) =>
    measureDrive({
      files,
      io: readerOf({ ...reads, faults: [] }),
      chunkBytes: mebibytes * 2 ** 20,
      depth,
      bytes: bytesPerProbe,
      seconds: secondsPerProbe,
      seed,
    }),
  )
  return Math.max(...rates)
}

/** Bytes per second that the compute threads read from memory. Takes about two seconds. */
export function memoryCeiling(threads: number | undefined): number {
  return measureMemory(threads ?? 0)
}
