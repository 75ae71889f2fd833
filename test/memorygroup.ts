// A memory control group for one process of a test, of version 2 or 1, whichever lets itself be made.
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

export interface MemoryGroup {
  /** A process that writes its number there is in the group. */
  readonly members: string
  /** The most memory that was charged to it, page cache and kernel included; NaN where nobody says. */
  peakBytes(): number
  remove(): void
}

/** How the two versions name the same things; the swap limit is left out where there is none. */
const versions = [
  {
    mount: '/sys/fs/cgroup/memory',
    own: /^\d+:(?:.*,)?memory(?:,.*)?:(.*)$/m,
    limit: 'memory.limit_in_bytes',
    peak: 'memory.max_usage_in_bytes',
    swap: ['memory.memsw.limit_in_bytes', (bytes: number) => bytes],
  },
  {
    mount: '/sys/fs/cgroup',
    own: /^0::(.*)$/m,
    limit: 'memory.max',
    peak: 'memory.peak',
    swap: ['memory.swap.max', () => 0],
  },
] as const

/** The group, or why there is none: one sentence. */
export function memoryGroup(bytes: number): MemoryGroup | string {
  const membership = readFileSync('/proc/self/cgroup', 'utf8')
  const refusals: string[] = []
  for (const version of versions) {
    // From the top down: below a group that has processes none of version 2 can be limited.
    const own = version.own.exec(membership)?.[1]
    if (own === undefined) continue
    for (const parent of new Set([version.mount, join(version.mount, own)])) {
      const made = madeIn(parent, version, bytes)
      if (typeof made !== 'string') return made
      refusals.push(made)
    }
  }
  return `no memory control group can be made here (${refusals.join('; ') || 'there are none'})`
}

function madeIn(
  parent: string,
  { limit, peak, swap }: (typeof versions)[number],
  bytes: number,
): MemoryGroup | string {
  const folder = join(parent, `ring-test-${process.pid}`)
  try {
    mkdirSync(folder)
  } catch (error) {
    return `${parent}: ${codeOf(error)}`
  }
  try {
    // Opened as it is: a folder where no groups are made would let itself be filled with files.
    writeFileSync(join(folder, limit), String(Math.ceil(bytes)), { flag: 'r+' })
    const [file, most] = swap
    if (existsSync(join(folder, file)))
      writeFileSync(join(folder, file), String(Math.ceil(most(bytes))))
  } catch (error) {
    rmdirSync(folder)
    return `${parent}: its groups have no memory limit (${codeOf(error)})`
  }
  return {
    members: join(folder, 'cgroup.procs'),
    peakBytes() {
      const path = join(folder, peak)
      return existsSync(path) ? Number(readFileSync(path, 'utf8')) : Number.NaN
    },
    remove: () => rmdirSync(folder),
  }
}

function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : String(error)
}
