// The graphics processors of a machine: whether there is one, by what the kernel lists, and what nvidia-smi
// tells of each. A machine without that program has no driver; one whose program fails has a driver that is
// to be looked at.
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { Link } from './drives.js'
import { namesIn, told } from './systemfile.js'

export interface Gpu {
  readonly name: string
  readonly bytes: number
  readonly freeBytes: number
  /** Lanes and PCIe generation, now and at most; generations fall while the card is idle. */
  readonly link: Pick<Link, 'lanes' | 'lanesMost'> & {
    readonly generation: number
    readonly generationMost: number
  }
}

export interface FoundGpus {
  readonly gpus: readonly Gpu[]
  /** What nvidia-smi said when it failed; null where it did not, or is not there. */
  readonly problem: string | null
}

const fields =
  'name,memory.total,memory.free,pcie.link.width.current,pcie.link.width.max,pcie.link.gen.current,pcie.link.gen.max'
const patienceMs = 20_000
const MIB = 2 ** 20

/** `program`: what is asked. */
export async function findGpus(program = 'nvidia-smi'): Promise<FoundGpus> {
  const words = [`--query-gpu=${fields}`, '--format=csv,noheader,nounits']
  try {
    const { stdout } = await promisify(execFile)(program, words, { timeout: patienceMs })
    return { gpus: gpusIn(stdout), problem: null }
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : ''
    // Where a folder of the path may not be looked into, it may not be run either.
    const isAbsent = code === 'ENOENT' || code === 'EACCES'
    return { gpus: [], problem: isAbsent ? null : lastLine(error) }
  }
}

const nvidiaVendor = '0x10de'
/** Display and 3D controllers, by the kernel's numbers of what devices are. */
const displayClass = /^0x03/

/** Whether the kernel lists a GPU of NVIDIA, with a driver or without. `root`: where /sys is found. */
export function hasGpu(root = '/'): boolean {
  const folder = join(root, 'sys/bus/pci/devices')
  return namesIn(folder, '').some(
    (name) =>
      told(join(folder, name, 'vendor')) === nvidiaVendor &&
      displayClass.test(told(join(folder, name, 'class'))),
  )
}

/** A line for each: the fields, separated by commas; what is not told is NaN. */
export function gpusIn(text: string): Gpu[] {
  return text
    .split('\n')
    .filter((line) => line.trim() !== '')
    .map((line) => {
      const [name = '', ...numbers] = line.split(', ')
      const [total, free, lanes, lanesMost, generation, generationMost] = numbers.map(Number)
      return {
        name,
        bytes: (total ?? Number.NaN) * MIB,
        freeBytes: (free ?? Number.NaN) * MIB,
        link: {
          lanes: lanes ?? Number.NaN,
          lanesMost: lanesMost ?? Number.NaN,
          generation: generation ?? Number.NaN,
          generationMost: generationMost ?? Number.NaN,
        },
      }
    })
}

/** nvidia-smi says on stdout why it failed. */
function lastLine(error: unknown): string {
  const said = error instanceof Error && 'stdout' in error ? String(error.stdout).trim() : ''
  const message = error instanceof Error ? error.message : String(error)
  return (said || message).split('\n').at(-1) ?? ''
}
