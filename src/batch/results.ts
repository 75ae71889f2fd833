// Writes results to the output, in the order of the input or as they come, and tells the journal once
// they would outlive a power cut. Knows nothing of how they were made.
import { crc32 } from 'node:zlib'
import type { Durable } from './durable.js'
import type { Journal } from './journal.js'
import type { Result } from './result.js'

export type Order = 'input' | 'done'

export class Results {
  /** Lines that were begun, in the order of the input; those written are gone. */
  readonly #begun: number[] = []
  readonly #ready = new Map<number, Result>()
  readonly #unkept: Result[] = []
  #crc: number

  constructor(
    private readonly output: Durable,
    private readonly journal: Journal,
    private readonly order: Order,
    crc: number,
  ) {
    this.#crc = crc
  }

  /** Of all bytes of the output. */
  get crc(): number {
    return this.#crc
  }

  /** A result of this line will come; called in the order of the input. */
  expect(line: number): void {
    this.#begun.push(line)
  }

  add(result: Result): void {
    if (this.order === 'done') this.#unkept.push(result)
    else this.#ready.set(result.line, result)
    for (;;) {
      const next = this.#ready.get(this.#begun[0] ?? -1)
      if (next === undefined) return
      this.#begun.shift()
      this.#ready.delete(next.line)
      this.#unkept.push(next)
    }
  }

  /** Writes what is due, so that it outlives a power cut; returns it. Throws a Failure. */
  keep(): readonly Result[] {
    const due = this.#unkept.splice(0)
    if (due.length === 0) return due
    const written = due.map((result) => ({ result, ...this.#write(result.text) }))
    this.output.sync()
    for (const { result, start, bytes, crc } of written) {
      const { text: _, ...kept } = result
      this.journal.done({ ...kept, start, bytes, crc })
    }
    return due
  }

  #write(text: string): { start: number; bytes: number; crc: number } {
    const data = Buffer.from(`${text}\n`)
    const start = this.output.length
    this.output.append(data)
    this.#crc = crc32(data, this.#crc)
    return { start, bytes: data.length, crc: crc32(data) }
  }
}
