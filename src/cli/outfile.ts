// A file that appears whole or not at all: written beside its place under another name, and moved there
// at the end. What is no regular file, such as a pipe or a device, cannot be replaced so, and is
// written to directly, as is standard output.
import { existsSync, realpathSync, rmSync, statSync } from 'node:fs'
import { type FileHandle, open, rename } from 'node:fs/promises'
import { systemReason } from '../model/error.js'
import { Failure } from './failure.js'

export class OutFile {
  private constructor(
    private readonly path: string,
    /** Null: nothing has to be moved. */
    private readonly partial: string | null,
    private readonly handle: FileHandle | null,
  ) {}

  /** Begins a file; `-` is standard output. Throws a Failure when it cannot be written. */
  static async create(path: string): Promise<OutFile> {
    if (path === '-') return new OutFile(path, null, null)
    try {
      const place = existsSync(path) ? realpathSync(path) : path
      const isSpecial = existsSync(place) && !statSync(place).isFile()
      if (isSpecial) return new OutFile(place, null, await open(place, 'w'))
      const partial = `${place}.${process.pid}.partial`
      return new OutFile(place, partial, await open(partial, 'wx'))
    } catch (error) {
      throw new Failure(`${path}: cannot be written: ${systemReason(error)}`)
    }
  }

  async write(text: string): Promise<void> {
    await this.#attempt(async () => {
      if (this.handle !== null) await this.handle.appendFile(text)
      else await new Promise<void>((resolve) => process.stdout.write(text, () => resolve()))
    })
  }

  /** All is written: the file takes its place. */
  async keep(): Promise<void> {
    await this.#attempt(async () => {
      if (this.partial !== null) await this.handle?.sync()
      await this.handle?.close()
      if (this.partial !== null) await rename(this.partial, this.path)
    })
  }

  /** Nothing of it shall stay. */
  async drop(): Promise<void> {
    await this.handle?.close().catch(() => {})
    if (this.partial !== null) rmSync(this.partial, { force: true })
  }

  async #attempt(work: () => Promise<void>): Promise<void> {
    try {
      await work()
    } catch (error) {
      throw new Failure(`${this.path}: cannot be written: ${systemReason(error)}`)
    }
  }
}

/** All of a file at once. Throws a Failure when it cannot be written. */
export async function writeWhole(path: string, text: string): Promise<void> {
  const file = await OutFile.create(path)
  try {
    await file.write(text)
    await file.keep()
  } catch (error) {
    await file.drop()
    throw error
  }
}
