// A lock between pulls of one model, on one machine: a folder that comes into being by a rename with its
// owner's name inside, so there is no instant at which a lock has no owner. Whoever finds the owner gone
// breaks it. An owner on another host cannot be asked and counts as alive. It knows nothing of pulls.
import fs from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { pause } from './patience.js'

const POLL_SECONDS = 0.2

/** Does the work while holding the lock. `onWait` is called once if another holds it. */
export async function locked<Result>(
  path: string,
  signal: AbortSignal,
  onWait: (owner: string) => void,
  work: () => Promise<Result>,
): Promise<Result> {
  const prepared = `${path}.${process.pid}`
  fs.rmSync(prepared, { recursive: true, force: true })
  fs.mkdirSync(prepared, { recursive: true })
  fs.writeFileSync(join(prepared, 'owner'), nameOf(process.pid) ?? '')
  const remains: string[] = []
  try {
    await taken(path, prepared, { signal, onWait, remains })
    try {
      return await work()
    } finally {
      // Renamed first: emptied in place, it could be taken by another just before it is removed.
      if (hasMoved(path, `${path}.released-${process.pid}`)) {
        remains.push(`${path}.released-${process.pid}`)
      }
    }
  } finally {
    for (const one of [prepared, ...remains]) fs.rmSync(one, { recursive: true, force: true })
  }
}

interface Taking {
  readonly signal: AbortSignal
  readonly onWait: (owner: string) => void
  /** Of broken locks, which stay until the new holder is done: so nobody breaks a lock twice. */
  readonly remains: string[]
}

async function taken(path: string, prepared: string, { signal, onWait, remains }: Taking) {
  for (let hasTold = false; !hasMoved(prepared, path); ) {
    const owner = ownerOf(path)
    if (owner !== null && !isAlive(owner)) {
      const broken = `${path}.dead-${owner.replaceAll(/[ /]/g, '-')}`
      if (hasMoved(path, broken)) remains.push(broken)
      continue
    }
    if (owner !== null && !hasTold) {
      onWait(owner)
      hasTold = true
    }
    await pause(POLL_SECONDS, signal)
  }
}

/** False when the target is a folder in use, or the source has gone. */
function hasMoved(from: string, to: string): boolean {
  try {
    fs.renameSync(from, to)
    return true
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : ''
    if (code === 'ENOTEMPTY' || code === 'EEXIST' || code === 'ENOENT') return false
    throw error
  }
}

/** Null when the lock has just gone. */
function ownerOf(path: string): string | null {
  try {
    return fs.readFileSync(join(path, 'owner'), 'utf8')
  } catch {
    return null
  }
}

function isAlive(owner: string): boolean {
  const [pid = '', , host] = owner.split(' ')
  return host !== os.hostname() || nameOf(Number(pid)) === owner
}

/** A process with its start time, since numbers are used again; null where there is none. */
function nameOf(pid: number): string | null {
  try {
    const text = fs.readFileSync(`/proc/${pid}/stat`, 'utf8')
    // The name in parentheses may hold spaces; after it come the state and, 20th, the start time.
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
    return fields[0] === 'Z' ? null : `${pid} ${fields[19]} ${os.hostname()}`
  } catch {
    return null
  }
}
