// What memory this process may still take: the machine's, or less under a control group (v1 or v2).
// Read from the system each time it is asked, never assumed. Page cache counts as free: a group that
// has read a large file looks full and is not.
import { readFileSync } from 'node:fs'
import os from 'node:os'
import { dirname, join } from 'node:path'

/** How the two versions of control groups name the same things. */
const versions = {
  v1: {
    mount: 'sys/fs/cgroup/memory',
    limit: 'memory.limit_in_bytes',
    usage: 'memory.usage_in_bytes',
    cache: /^total_(?:in)?active_file (\d+)$/gm,
  },
  v2: {
    mount: 'sys/fs/cgroup',
    limit: 'memory.max',
    usage: 'memory.current',
    cache: /^(?:in)?active_file (\d+)$/gm,
  },
} as const

/** Bytes that can be taken without pushing anything out. `root`: where /proc and /sys are found. */
export function availableBytes(root = '/'): number {
  const line = /^MemAvailable:\s+(\d+) kB$/m.exec(read(join(root, 'proc/meminfo')))
  const machineBytes = line === null ? os.freemem() : Number(line[1]) * 1024
  return Math.min(machineBytes, groupHeadroomBytes(root))
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}

/** The least headroom among the control groups that this process is in; infinite without any. */
export function groupHeadroomBytes(root: string): number {
  let headroom = Number.POSITIVE_INFINITY
  for (const line of read(join(root, 'proc/self/cgroup')).split('\n')) {
    const [, controllers, path] = line.split(':')
    if (controllers === undefined || path === undefined) continue
    if (controllers !== '' && !controllers.split(',').includes('memory')) continue
    const version = controllers === '' ? versions.v2 : versions.v1
    // A limit of any group above binds too. Inside a container the path may name a group that is
    // not visible; its own then appears at the top.
    for (let group = path; ; group = dirname(group)) {
      headroom = Math.min(headroom, headroomOf(join(root, version.mount, group), version))
      if (group === '/' || group === '.') break
    }
  }
  return headroom
}

function headroomOf(folder: string, version: (typeof versions)[keyof typeof versions]): number {
  const limit = read(join(folder, version.limit)).trim()
  const usage = read(join(folder, version.usage)).trim()
  if (!/^\d+$/.test(limit) || !/^\d+$/.test(usage)) return Number.POSITIVE_INFINITY
  let cacheBytes = 0
  for (const [, bytes] of read(join(folder, 'memory.stat')).matchAll(version.cache)) {
    cacheBytes += Number(bytes)
  }
  return Math.max(0, Number(limit) - Math.max(0, Number(usage) - cacheBytes))
}
