// One job for one output: a name that the system takes back when the process ends, however it ends. It
// is an abstract socket on Linux, so nothing lies beside the output that a crash could leave behind.
// Processes that share a drive but no network namespace do not see each other's names.
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { realpathSync } from 'node:fs'
import net from 'node:net'
import { basename, dirname, join } from 'node:path'
import { ModelError, systemReason } from '../model/error.js'

export interface Lock {
  release(): void
}

/** Throws ModelError where another job writes to the same place. */
export async function lockOutput(path: string): Promise<Lock> {
  const place = placeOf(path)
  const name = createHash('sha256').update(place).digest('hex').slice(0, 32)
  const server = net.createServer((socket) => socket.destroy())
  try {
    const listening = once(server, 'listening')
    server.listen({ path: `\0ring-offload-batch-${name}` })
    await listening
  } catch (error) {
    if (isTaken(error)) throw new ModelError(`${path}: another job is writing to it`)
    throw new ModelError(`${path}: cannot be locked: ${systemReason(error)}`)
  }
  server.unref()
  return { release: () => server.close() }
}

/** The same for all names of the output, whether it is there already or not. */
function placeOf(path: string): string {
  try {
    return realpathSync(path)
  } catch {
    try {
      return join(realpathSync(dirname(path)), basename(path))
    } catch (error) {
      throw new ModelError(`${path}: cannot be written: ${systemReason(error)}`)
    }
  }
}

function isTaken(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'EADDRINUSE'
}
