// Writes results to the output, in the order of the input or as they come, and tells the journal once
// they would outlive a power cut. Knows nothing of how they were made.
import { crc32 } from 'node:zlib'
import type { Durable } from './durable.js'
import type { Journal } from './journal.js'
import type { Result } from './result.js'

export type Order = 'input' | 'done'

/** Characters of results that wait in memory for the one before them. */
const HELD_MAX = 2 ** 28

export class Results {
  /** Lines of which a result will come, in the order of the input; those written are gone. */
  readonly #expected: number[] = []
  readonly #ready = new Map<number, Result>()
  readonly #unkept: Result[] = []
  #crc: number
  #held = 0

  constructor(
    private readonly output: Durable,
    private readonly journal: Journal,
    private readonly order: Order,
    crc: number,
    private readonly heldMost = HELD_MAX,
  ) {
    this.#crc = crc
  }

  /** The line whose result is written next; -1: any. */
  get oldest(): number {
    return this.#expected[0] ?? -1
  }

  /** Whether so many wait for the oldest that no more should. */
  get areTooMany(): boolean {
    return this.#held > this.heldMost
  }

  /** Of all bytes of the output. */
  get crc(): number {
    return this.#crc
  }

  /** A result of this line will come; called in the order of the input. */
  expect(line: number): void {
    if (this.order === 'input') this.#expected.push(line)
  }

  add(result: Result): void {
    if (this.order === 'done') {
      this.#unkept.push(result)
      return
    }
    this.#ready.set(result.line, result)
    this.#held += result.text.length
    for (;;) {
      const next = this.#ready.get(this.oldest)
      if (next === undefined) return
      this.#expected.shift()
      this.#ready.delete(next.line)
      this.#held -= next.text.length
      this.#unkept.push(next)
    }
  }

  /** Writes what is due, so that it outlives a power cut; returns it. Throws ModelError. */
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
