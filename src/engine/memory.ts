// What memory this process may still take: the machine's, or less under a control group (v1 or v2).
// Read from the system each time it is asked, never assumed.
import { readFileSync } from 'node:fs'
import os from 'node:os'

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}

function bytesIn(path: string): number {
  const value = Number(read(path).trim() || Number.NaN)
  return Number.isFinite(value) ? value : Number.POSITIVE_INFINITY
}

/** Limit minus usage of the control group that this process is in; infinite when there is none. */
function groupHeadroomBytes(): number {
  let headroom = Number.POSITIVE_INFINITY
  for (const line of read('/proc/self/cgroup').split('\n')) {
    const [, controllers, path] = line.split(':')
    if (path === undefined) continue
    const [folder, limit, usage] =
      controllers === ''
        ? [`/sys/fs/cgroup${path}`, 'memory.max', 'memory.current']
        : [`/sys/fs/cgroup/memory${path}`, 'memory.limit_in_bytes', 'memory.usage_in_bytes']
    if (controllers !== '' && !controllers?.split(',').includes('memory')) continue
    const limitBytes = bytesIn(`${folder}/${limit}`)
    const usageBytes = bytesIn(`${folder}/${usage}`)
    if (Number.isFinite(limitBytes) && Number.isFinite(usageBytes)) {
      headroom = Math.min(headroom, Math.max(0, limitBytes - usageBytes))
    }
  }
  return headroom
}

/** Bytes that can be taken without pushing anything out. */
export function availableBytes(): number {
  const line = /^MemAvailable:\s+(\d+) kB$/m.exec(read('/proc/meminfo'))
  const machineBytes = line === null ? os.freemem() : Number(line[1]) * 1024
  return Math.min(machineBytes, groupHeadroomBytes())
}
