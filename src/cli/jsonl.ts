// A file of lines that is read twice: once to check it, once to compute with it. A pipe cannot be read
// again, so what comes from one is kept in a file whose name is gone at once; nothing of it stays
// behind however the program ends. One chunk and one line are in memory, never the whole.
import { mkdtempSync, rmSync } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import os from 'node:os'
import { join } from 'node:path'
import { systemReason } from '../model/error.js'
import { Failure } from './failure.js'

/** A line of a million tokens has some 8 MB. */
const LINE_BYTES_MAX = 64 * 2 ** 20
const CHUNK_BYTES = 2 ** 16
const LINE_FEED = 0x0a

export interface Line {
  /** From 1. */
  readonly number: number
  /** Null: the bytes are no UTF-8. */
  readonly text: string | null
}

export class LineFile {
  private constructor(
    /** For messages. */
    readonly name: string,
    private readonly handle: FileHandle,
  ) {}

  /** Opens a file, or copies all of a pipe; `-` is standard input. Throws a Failure when it cannot be read. */
  static async open(path: string): Promise<LineFile> {
    const name = path === '-' ? 'standard input' : path
    try {
      const file = path === '-' ? null : await open(path, 'r')
      if (file !== null && (await file.stat()).isFile()) return new LineFile(name, file)
      const copy = await openNameless()
      const source = file === null ? process.stdin : file.createReadStream()
      for await (const chunk of source) await copy.appendFile(chunk)
      return new LineFile(name, copy)
    } catch (error) {
      throw new Failure(`${name}: cannot be read: ${systemReason(error)}`)
    }
  }

  async size(): Promise<number> {
    return (await this.handle.stat()).size
  }

  /** Every line that is not blank, from the first. Throws a Failure for one that never ends. */
  async *lines(): AsyncGenerator<Line> {
    let number = 0
    for await (const bytes of this.#pieces()) {
      number += 1
      const text = decoded(bytes)
      if (text === null || text.trim() !== '') yield { number, text }
    }
  }

  async close(): Promise<void> {
    await this.handle.close()
  }

  /** The bytes between line feeds. */
  async *#pieces(): AsyncGenerator<Buffer> {
    let begun: Buffer[] = []
    let begunBytes = 0
    for await (const chunk of this.#chunks()) {
      let from = 0
      for (let at = chunk.indexOf(LINE_FEED); at >= 0; at = chunk.indexOf(LINE_FEED, from)) {
        yield Buffer.concat([...begun, chunk.subarray(from, at)])
        begun = []
        begunBytes = 0
        from = at + 1
      }
      begun.push(chunk.subarray(from))
      begunBytes += chunk.length - from
      if (begunBytes > LINE_BYTES_MAX) {
        throw new Failure(`${this.name}: a line may have ${LINE_BYTES_MAX} bytes, found more`)
      }
    }
    if (begunBytes > 0) yield Buffer.concat(begun)
  }

  async *#chunks(): AsyncGenerator<Buffer> {
    let position = 0
    for (;;) {
      const chunk = Buffer.allocUnsafe(CHUNK_BYTES)
      const count = await this.#read(chunk, position)
      if (count === 0) return
      position += count
      yield chunk.subarray(0, count)
    }
  }

  async #read(chunk: Buffer, position: number): Promise<number> {
    try {
      return (await this.handle.read(chunk, 0, chunk.length, position)).bytesRead
    } catch (error) {
      throw new Failure(`${this.name}: cannot be read: ${systemReason(error)}`)
    }
  }
}

async function openNameless(): Promise<FileHandle> {
  const folder = mkdtempSync(join(os.tmpdir(), 'ring-'))
  try {
    return await open(join(folder, 'lines'), 'wx+')
  } finally {
    rmSync(folder, { recursive: true })
  }
}

function decoded(bytes: Buffer): string | null {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    return null
  }
}
