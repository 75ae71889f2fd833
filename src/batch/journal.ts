// What a job has done so far, so that it can be gone on with after any end: tokens of the answers in
// work, written at intervals, and which lines of the output are whole. It never says more than is true:
// what it lacks is drawn again, with the same tokens. What the output lacks is found by its checksums.
import fs from 'node:fs'
import { crc32 } from 'node:zlib'
import type { Emission } from '../engine/loop.js'
import { replaceFile } from '../engine/manifest.js'
import { ModelError, systemReason } from '../model/error.js'
import { Durable } from './durable.js'
import type { Verdict } from './grade.js'
import {
  type DoneLine,
  emissionsOf,
  encodeRecord,
  type JobHead,
  readRecords,
  type TokensRecord,
  type VerdictRecord,
} from './records.js'

const CHUNK_BYTES = 2 ** 20

/** What stands in a journal. */
export interface Standing {
  readonly head: JobHead
  /** Lines of the output in its order; from 0 on, without gaps. */
  readonly done: readonly DoneLine[]
  /** Tokens of answers that are not in the output, by line and answer. */
  readonly drawn: ReadonlyMap<string, readonly Emission[]>
  /** What programs have said of answers, by line and answer. */
  readonly verdicts: ReadonlyMap<string, Verdict>
  /** Whole records. */
  readonly bytes: number
  /** The output of a job that has ended. */
  readonly end: { readonly bytes: number; readonly crc: number } | null
}

export function journalPath(output: string): string {
  return `${output}.journal`
}

export function answerKey(line: number, answer: number): string {
  return `${line}:${answer}`
}

/** Null: nothing was begun. Throws ModelError for what cannot be read. */
export function readJournal(path: string): Standing | null {
  if (!fs.existsSync(path)) return null
  let head: JobHead | null = null
  let end: Standing['end'] = null
  let bytes = 0
  const done: DoneLine[] = []
  const drawn = new Map<string, Emission[]>()
  const verdicts = new Map<string, Verdict>()
  try {
    for (const { value, end: after } of readRecords(path)) {
      if ('head' in value) head = value.head
      if ('end' in value) end = value.end
      if ('tokens' in value) addTokens(drawn, value.tokens)
      // Kept when the line is done: the output may have lost it.
      if ('verdict' in value) {
        const { line, answer, ...verdict } = value.verdict
        verdicts.set(answerKey(line, answer), verdict)
      }
      if ('done' in value) {
        const { done: line } = value
        // Written again: what followed it was lost.
        while ((done.at(-1)?.start ?? -1) >= line.start) done.pop()
        done.push(line)
        for (let answer = 0; answer < line.answers; answer += 1) {
          drawn.delete(answerKey(line.line, answer))
        }
      }
      if (head === null) return null
      bytes = after
    }
  } catch (error) {
    throw new ModelError(`${path}: cannot be read: ${systemReason(error)}`)
  }
  return head === null ? null : { head, done, drawn, verdicts, bytes, end }
}

function addTokens(drawn: Map<string, Emission[]>, record: TokensRecord): void {
  const key = answerKey(record.line, record.answer)
  const before = drawn.get(key) ?? []
  if (record.from > before.length) return
  drawn.set(key, [...before.slice(0, record.from), ...emissionsOf(record)])
}

/** How much of the output is what the journal says, and which lines that is. */
export function soundPart(
  output: string,
  done: readonly DoneLine[],
): { readonly lines: readonly DoneLine[]; readonly bytes: number; readonly crc: number } {
  const lines: DoneLine[] = []
  let [bytes, crc] = [0, 0]
  if (!fs.existsSync(output)) return { lines, bytes, crc }
  const descriptor = fs.openSync(output, 'r')
  try {
    for (const line of done) {
      const text = Buffer.alloc(line.bytes)
      const isWhole = fs.readSync(descriptor, text, 0, line.bytes, line.start) === line.bytes
      if (line.start !== bytes || !isWhole || crc32(text) !== line.crc) break
      lines.push(line)
      bytes += line.bytes
      crc = crc32(text, crc)
    }
  } finally {
    fs.closeSync(descriptor)
  }
  return { lines, bytes, crc }
}

/** Whether the output of a job that has ended is as it was. */
export function isUnchanged(output: string, end: { readonly bytes: number; readonly crc: number }) {
  if (!fs.existsSync(output) || fs.statSync(output).size !== end.bytes) return false
  const descriptor = fs.openSync(output, 'r')
  try {
    const chunk = Buffer.alloc(CHUNK_BYTES)
    let crc = 0
    for (;;) {
      const count = fs.readSync(descriptor, chunk)
      if (count === 0) return crc === end.crc
      crc = crc32(chunk.subarray(0, count), crc)
    }
  } finally {
    fs.closeSync(descriptor)
  }
}

/** The journal of a job that goes on. */
export class Journal {
  #waiting: Buffer[] = []

  private constructor(private readonly file: Durable) {}

  /** Goes on behind what stands, or begins with the head, which then outlives a power cut. */
  static open(path: string, head: JobHead, standing: Standing | null): Journal {
    const file = Durable.open(path, standing?.bytes ?? 0, writesUntilDeath())
    if (standing === null) {
      file.append(encodeRecord({ head }))
      file.sync()
    }
    return new Journal(file)
  }

  /** Kept with the next `keep`. */
  tokens(tokens: TokensRecord): void {
    this.#waiting.push(encodeRecord({ tokens }))
  }

  /** Kept with the next `keep`. */
  verdict(verdict: VerdictRecord): void {
    this.#waiting.push(encodeRecord({ verdict }))
  }

  /** Kept with the next `keep`; the line must outlive a power cut already. */
  done(done: DoneLine): void {
    this.#waiting.push(encodeRecord({ done }))
  }

  /** Everything so far outlives a power cut. Throws ModelError. */
  keep(): void {
    if (this.#waiting.length > 0) this.file.append(Buffer.concat(this.#waiting))
    this.#waiting = []
    this.file.sync()
  }

  close(): void {
    this.file.close()
  }
}

/** The job has ended: only what it was and its output's checksum stay. */
export function endJournal(path: string, head: JobHead, bytes: number, crc: number): void {
  const end = encodeRecord({ end: { bytes, crc } })
  replaceFile(path, Buffer.concat([encodeRecord({ head }), end]), true)
}

/** For the test of kills within a write of the journal: the how manyth write is cut short. */
function writesUntilDeath(): number {
  return Number(process.env.RING_BATCH_DIES_AT_WRITE ?? 0)
}
