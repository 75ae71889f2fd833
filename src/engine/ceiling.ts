// What the drive under a checkpoint and the memory can do right now, so that shares are taken against
// this machine in these minutes and not against a data sheet.
import { measureDrive, measureMemory } from '../../native/index.js'
import type { Checkpoint } from '../model/checkpoint.js'
import type { ReadWishes } from './layout.js'
import { readerOf } from './layout.js'

// Taken many times in a pass: several GiB in all.
const bytesPerProbe = 2 ** 30
const secondsPerProbe = 5
const depth = 16

/** The larger of random reads of 4 MiB and of 1 MiB at depth 16, bytes per second. Takes seconds. */
function driveCeiling(checkpoint: Checkpoint, reads: ReadWishes, seed: number): number {
  const files = checkpoint.files.map(({ path, sizeBytes }) => ({ path, sizeBytes }))
  const rates = [4, 1].map((mebibytes) => {
    const { bytesPerSecond } = measureDrive({
      files,
      // The drive's own, whatever was chosen for the reads of experts.
      io: readerOf({ ...reads, depth: undefined, chunkBytes: undefined, faults: [] }),
      chunkBytes: mebibytes * 2 ** 20,
      depth,
      bytes: bytesPerProbe,
      seconds: secondsPerProbe,
      seed,
      besideThreads: 0,
    })
    return bytesPerSecond
  })
  return Math.max(...rates)
}

/**
 * Ceilings taken again and again while something else is measured in between: both change from second
 * to second where a machine is shared.
 */
export class Ceilings {
  readonly #drive: number[] = []
  readonly #memory: number[] = []

  constructor(
    private readonly checkpoint: Checkpoint,
    private readonly reads: ReadWishes,
    /** Of the backend; 0: as many as it takes. */
    private readonly threads: number,
  ) {}

  /** Takes one more of each; a second or two. A paced drive is always the same, and slow to make. */
  take(): void {
    const taken = this.#drive.length
    if (taken === 0 || this.reads.pace === undefined)
      this.#drive.push(driveCeiling(this.checkpoint, this.reads, taken + 1))
    this.#memory.push(measureMemory(this.threads))
  }

  get drive(): Ceiling {
    return ceilingOf(this.#drive)
  }

  get memory(): Ceiling {
    return ceilingOf(this.#memory)
  }
}

/** Bytes per second: what the same bytes take at each of the ceilings, one after the other. */
export interface Ceiling {
  readonly mean: number
  readonly least: number
  readonly most: number
}

function ceilingOf(rates: readonly number[]): Ceiling {
  const seconds = rates.reduce((sum, rate) => sum + 1 / rate, 0)
  return { mean: rates.length / seconds, least: Math.min(...rates), most: Math.max(...rates) }
}
