// The bytes of one file, from the hub to the drive: gone on with where an earlier try ended, hashed as
// they come, named only when the checksum is right. What is there already is hashed first. A server that
// ignores the range sends what we have again, which is skipped: nothing on the drive is ever given up
// but for a wrong checksum.
import { createHash, type Hash } from 'node:crypto'
import fs from 'node:fs'
import type { FileHandle } from 'node:fs/promises'
import { open } from 'node:fs/promises'
import { dirname } from 'node:path'
import { ModelError } from '../model/error.js'
import type { Hub } from './hub.js'
import type { RemoteFile } from './listing.js'
import { Passing, patiently, Watchdog } from './patience.js'
import { incompleteOf, type Place } from './store.js'

const READ_BYTES = 4 * 2 ** 20
/** A part that was there may be bad; a file that comes whole and wrong is the hub's fault. */
const WRONG_MOST = 2

/** Throws ModelError when it cannot be had; what has come then waits for the next try, unless it is wrong. */
export async function fetchBlob(
  hub: Hub,
  url: string,
  { file, blob }: Place,
  /** Bytes that came; less than 0 when bytes that were counted are thrown away. */
  onBytes: (bytes: number) => void,
): Promise<void> {
  fs.mkdirSync(dirname(blob), { recursive: true })
  const path = incompleteOf(blob)
  const handle = await open(path, fs.constants.O_RDWR | fs.constants.O_CREAT, 0o644)
  try {
    const coming = new Coming(hub, url, file, handle, onBytes)
    for (let wrong = 1; !(await coming.isRight()); wrong += 1) {
      if (wrong < WRONG_MOST) continue
      fs.rmSync(path, { force: true })
      const sum = file.digest.kind === 'git' ? 'git checksum' : 'sha256'
      throw new ModelError(
        `${file.path}: came with a wrong ${sum}, and again when all of it was fetched anew; nothing of it was kept`,
      )
    }
    await handle.sync()
    fs.renameSync(path, blob)
  } catch (error) {
    if (error instanceof Error && 'syscall' in error) {
      throw new ModelError(`${file.path}: cannot be kept in ${dirname(blob)}: ${error.message}`)
    }
    throw error
  } finally {
    await handle.close()
  }
}

/** A file on its way. */
class Coming {
  /** Written and hashed. */
  #bytes = 0
  #hash: Hash
  #isBegun = false

  constructor(
    private readonly hub: Hub,
    private readonly url: string,
    private readonly file: RemoteFile,
    private readonly handle: FileHandle,
    private readonly onBytes: (bytes: number) => void,
  ) {
    this.#hash = hashOf(file)
  }

  /** Gets what is missing. False: all is there, was wrong, and is thrown away. */
  async isRight(): Promise<boolean> {
    if (!this.#isBegun) await this.#takeUp()
    this.#isBegun = true
    let before = this.#bytes
    const hasGained = () => {
      const gained = this.#bytes > before
      before = this.#bytes
      return gained
    }
    const { path, sizeBytes, digest } = this.file
    if (this.#bytes < sizeBytes) {
      await patiently(path, this.hub.patience, () => this.#attempt(), hasGained)
    }
    if (this.#hash.digest('hex') === digest.hex) return true
    this.onBytes(-this.#bytes)
    this.#bytes = 0
    this.#hash = hashOf(this.file)
    await this.handle.truncate(0)
    return false
  }

  /** What an earlier run left. */
  async #takeUp(): Promise<void> {
    const { size } = await this.handle.stat()
    if (size > this.file.sizeBytes) await this.handle.truncate(this.file.sizeBytes)
    const buffer = Buffer.allocUnsafe(READ_BYTES)
    for (;;) {
      this.hub.patience.signal.throwIfAborted()
      const { bytesRead } = await this.handle.read(buffer, 0, READ_BYTES, this.#bytes)
      if (bytesRead === 0) return
      this.#hash.update(buffer.subarray(0, bytesRead))
      this.#bytes += bytesRead
    }
  }

  async #attempt(): Promise<void> {
    const watchdog = new Watchdog(this.hub.patience)
    try {
      await watchdog.during(this.#get(watchdog))
    } catch (error) {
      throw watchdog.reason(error)
    } finally {
      watchdog.end()
    }
    if (this.#bytes < this.file.sizeBytes) throw new Passing('the connection ended early')
  }

  async #get(watchdog: Watchdog): Promise<void> {
    const headers = { range: `bytes=${this.#bytes}-` }
    const init = this.#bytes === 0 ? {} : { headers }
    const response = await this.hub.open(this.url, { ...init, signal: watchdog.signal })
    await this.#take(response, watchdog)
  }

  async #take(response: Response, watchdog: Watchdog): Promise<void> {
    const start = this.#startOf(response)
    if (start instanceof Passing) {
      await response.body?.cancel()
      throw start
    }
    // Bytes at the beginning that we have already.
    let spare = this.#bytes - start
    for await (const part of response.body ?? []) {
      // Whoever was given up must not write any more.
      watchdog.signal.throwIfAborted()
      watchdog.fed()
      const skipped = Math.min(spare, part.length)
      spare -= skipped
      const fresh = part.subarray(skipped)
      if (this.#bytes + fresh.length > this.file.sizeBytes) {
        throw new Passing(`more came than ${this.file.sizeBytes} bytes`)
      }
      await this.#keep(fresh)
    }
  }

  async #keep(part: Uint8Array): Promise<void> {
    for (let done = 0; done < part.length; ) {
      const position = this.#bytes + done
      const { bytesWritten } = await this.handle.write(part, done, part.length - done, position)
      done += bytesWritten
    }
    this.#hash.update(part)
    this.#bytes += part.length
    this.onBytes(part.length)
  }

  /** The byte that an answer begins with; or why it is of no use. */
  #startOf({ status, headers }: Response): number | Passing {
    if (status === 200) return 0
    const range = headers.get('content-range') ?? ''
    const [, start = '', total = ''] = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(range) ?? []
    const { sizeBytes } = this.file
    const isOurs = status === 206 && Number(start) === this.#bytes && start !== ''
    if (isOurs && (total === '*' || Number(total) === sizeBytes)) return this.#bytes
    return new Passing(`expected bytes ${this.#bytes} to ${sizeBytes}, found ${range || status}`)
  }
}

function hashOf({ digest, sizeBytes }: RemoteFile): Hash {
  if (digest.kind === 'sha256') return createHash('sha256')
  return createHash('sha1').update(`blob ${sizeBytes}\0`)
}
