/**
 * A lock between processes that is a folder. It knows nothing of what it guards. The folder comes
 * into being by a rename with its owner's name already inside, so there is no instant at which a
 * lock has no owner; a lock whose owner no longer runs is broken by the next who wants it.
 */
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

const pollMs = 50
/** Longer than any build of ours; past it something is wrong that waiting will not mend. */
const patienceMs = 30 * 60_000

/**
 * Runs `work` while holding the lock, waiting for it first.
 * @template T
 * @param {string} path of the lock folder; what lies above it is made
 * @param {() => T} work
 * @param {(owner: string) => void} [onWait] called once, when another process holds the lock
 * @returns {T}
 */
export function withLock(path, work, onWait) {
  const broken = acquire(path, onWait)
  try {
    return work()
  } finally {
    // Renamed first: emptied in place, it could be taken by another just before it is removed.
    const released = `${path}.released-${process.pid}`
    if (tryRename(path, released)) broken.push(released)
    for (const remains of broken) rmSync(remains, { recursive: true, force: true })
  }
}

/**
 * @param {string} path
 * @param {((owner: string) => void) | undefined} onWait
 * @returns {string[]} remains of broken locks, for the holder to remove when it is done
 */
function acquire(path, onWait) {
  mkdirSync(dirname(path), { recursive: true })
  const prepared = `${path}.${process.pid}`
  rmSync(prepared, { recursive: true, force: true })
  mkdirSync(prepared)
  writeFileSync(join(prepared, 'owner'), describe(process.pid) ?? '')
  const broken = []
  const deadline = Date.now() + patienceMs
  for (let hasTold = false; ; pause(pollMs)) {
    if (tryRename(prepared, path)) return broken
    const owner = readOwner(path)
    if (owner === null) continue
    if (!isAlive(owner)) {
      // The remains are named after the dead owner and stay until the new holder is done. So a
      // process that judged the same lock dead, but comes late, cannot move the new holder's away.
      const remains = `${path}.dead-${owner.replaceAll(' ', '-')}`
      if (tryRename(path, remains)) broken.push(remains)
      continue
    }
    if (!hasTold) onWait?.(owner.split(' ')[0] ?? owner)
    hasTold = true
    if (Date.now() > deadline) {
      rmSync(prepared, { recursive: true, force: true })
      throw new Error(`${path} has been held by process ${owner} for too long: remove it`)
    }
  }
}

/**
 * @param {string} from a folder
 * @param {string} to
 * @returns {boolean} false when `to` is a folder in use or `from` has gone
 */
function tryRename(from, to) {
  try {
    renameSync(from, to)
    return true
  } catch (error) {
    const { code } = /** @type {NodeJS.ErrnoException} */ (error)
    if (code === 'ENOTEMPTY' || code === 'EEXIST' || code === 'ENOENT') return false
    throw error
  }
}

/** @param {string} path @returns {string | null} null when the lock has just gone */
function readOwner(path) {
  try {
    return readFileSync(join(path, 'owner'), 'utf8')
  } catch {
    return null
  }
}

/** @param {string} owner @returns {boolean} */
function isAlive(owner) {
  return describe(Number(owner.split(' ')[0])) === owner
}

/**
 * @param {number} pid
 * @returns {string | null} the process and its start time, because pids are used again; null for none
 */
function describe(pid) {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    // The name in parentheses may hold spaces; after it come the state and, 20th, the start time.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return fields[0] === 'Z' ? null : `${pid} ${fields[19]}`
  } catch {
    return null
  }
}

/** @param {number} ms */
function pause(ms) {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms)
}
