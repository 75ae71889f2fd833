// A file that grows at its end, and is told when what was written must outlive a power cut. Writing is
// done at once and not promised, so whoever goes on knows that the system has it. The test of kills
// within a write dies here.
import fs from 'node:fs'
import { dirname } from 'node:path'
import { ModelError, systemReason } from '../model/error.js'

export class Durable {
  #isSynced = true

  private constructor(
    readonly path: string,
    private readonly descriptor: number,
    private bytes: number,
    /** Writes until one is cut short by the end of the process; 0: never. */
    private writesLeft: number,
  ) {}

  /** Keeps the first `bytes` of the file, which must be there. Throws ModelError. */
  static open(path: string, bytes: number, writesUntilDeath = 0): Durable {
    try {
      const isNew = !fs.existsSync(path)
      const descriptor = fs.openSync(path, isNew ? 'wx+' : 'r+')
      fs.ftruncateSync(descriptor, bytes)
      fs.fsyncSync(descriptor)
      if (isNew) syncFolder(dirname(path))
      return new Durable(path, descriptor, bytes, writesUntilDeath)
    } catch (error) {
      throw new ModelError(`${path}: cannot be written: ${systemReason(error)}`)
    }
  }

  get length(): number {
    return this.bytes
  }

  /** Throws ModelError when not all of it could be written; what was is then of no use. */
  append(data: Buffer): void {
    if (this.writesLeft > 0) {
      this.writesLeft -= 1
      if (this.writesLeft === 0) this.#dieWithin(data)
    }
    this.#attempt(() => {
      let at = 0
      while (at < data.length) {
        at += fs.writeSync(this.descriptor, data, at, data.length - at, this.bytes + at)
      }
    })
    this.bytes += data.length
    this.#isSynced = false
  }

  /** What was written outlives a power cut from here on. Throws ModelError. */
  sync(): void {
    if (this.#isSynced) return
    this.#attempt(() => fs.fsyncSync(this.descriptor))
    this.#isSynced = true
  }

  close(): void {
    fs.closeSync(this.descriptor)
  }

  #attempt(work: () => void): void {
    try {
      work()
    } catch (error) {
      throw new ModelError(`${this.path}: cannot be written: ${systemReason(error)}`)
    }
  }

  #dieWithin(data: Buffer): void {
    fs.writeSync(this.descriptor, data, 0, Math.floor(data.length / 2), this.bytes)
    process.kill(process.pid, 'SIGKILL')
  }
}

/** So that a file's name outlives a power cut, not only its bytes. */
function syncFolder(folder: string): void {
  const descriptor = fs.openSync(folder, 'r')
  try {
    fs.fsyncSync(descriptor)
  } finally {
    fs.closeSync(descriptor)
  }
}
