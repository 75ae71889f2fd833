// The records of a job's journal, one on a line: a checksum, a space, JSON. What was torn by a crash has
// the wrong checksum or no end, and neither it nor whatever follows it counts. Here only text becomes
// records and back; what they mean is journal.ts.
import fs from 'node:fs'
import { crc32 } from 'node:zlib'
import { z } from 'zod'
import type { Emission } from '../engine/loop.js'

/** A line of the output that is whole. */
const done = z.object({
  line: z.number(),
  /** Where in the output it begins, and how many bytes it has, line feed included. */
  start: z.number(),
  bytes: z.number(),
  crc: z.number(),
  isAnswered: z.boolean(),
  promptTokens: z.number(),
  completionTokens: z.number(),
  answers: z.number(),
  /** Answers that are right; null: the line asks for no verdict. */
  right: z.number().nullable(),
})
export type DoneLine = Readonly<z.output<typeof done>>

/** What a job is: all that its tokens depend on. */
const head = z.object({
  version: z.literal(1),
  program: z.string(),
  input: z.string(),
  model: z.string(),
  instructionSet: z.string(),
  contextTokens: z.number(),
  settings: z.record(z.string(), z.string()),
})
export type JobHead = Readonly<z.output<typeof head>>

const number = z.number()
const logprob = z.number().nullable()

const tokens = z.object({
  line: number,
  answer: number,
  /** Tokens of the answer that come before. */
  from: number,
  ids: z.array(number),
  /** Of each token its own log-probability and those of the likeliest; only where they are asked for. */
  logprobs: z.array(logprob).optional(),
  tops: z.array(z.array(z.tuple([number, logprob]))).optional(),
})

/** Of an answer that a program has judged. */
const verdict = z.object({ line: number, answer: number, isRight: z.boolean(), reason: z.string() })

const record = z.union([
  z.object({ head }),
  z.object({ tokens }),
  z.object({ verdict }),
  z.object({ done }),
  z.object({ end: z.object({ bytes: number, crc: number }) }),
])
export type JobRecord = Readonly<z.output<typeof record>>
export type TokensRecord = z.output<typeof tokens>
export type VerdictRecord = z.output<typeof verdict>

const CHUNK_BYTES = 2 ** 20
const SUM_CHARS = 8

export function encodeRecord(value: JobRecord): Buffer {
  const text = JSON.stringify(value)
  return Buffer.from(`${sumOf(text)} ${text}\n`)
}

/** Every whole record from the first, with the byte after it. */
export function* readRecords(path: string): Generator<{ value: JobRecord; end: number }> {
  let end = 0
  for (const line of linesIn(path)) {
    const value = decoded(line.toString())
    if (value === null) return
    end += line.length + 1
    yield { value, end }
  }
}

/** A sequence's tokens as a record; without their log-probabilities where nobody asked for those. */
export function tokensOf(
  line: number,
  answer: number,
  from: number,
  drawn: readonly Emission[],
  hasLogprobs: boolean,
): TokensRecord {
  const ids = drawn.map(({ token }) => token)
  if (!hasLogprobs) return { line, answer, from, ids }
  return {
    ...{ line, answer, from, ids },
    logprobs: drawn.map((one) => one.logprob),
    tops: drawn.map(({ top }) => top.map(([id, other]) => [id, other] as [number, number])),
  }
}

/** JSON has no infinity: what is as good as impossible comes back as it was. */
export function emissionsOf({ ids, logprobs, tops }: TokensRecord): Emission[] {
  return ids.map((token, at) => ({
    token,
    logprob: logprobs?.[at] ?? Number.NEGATIVE_INFINITY,
    top: (tops?.[at] ?? []).map(([id, other]) => [id, other ?? Number.NEGATIVE_INFINITY] as const),
  }))
}

function sumOf(text: string): string {
  return crc32(text).toString(16).padStart(SUM_CHARS, '0')
}

function decoded(line: string): JobRecord | null {
  const text = line.slice(SUM_CHARS + 1)
  if (line.slice(0, SUM_CHARS) !== sumOf(text)) return null
  try {
    return record.safeParse(JSON.parse(text)).data ?? null
  } catch {
    return null
  }
}

/** What stands before each line feed. */
function* linesIn(path: string): Generator<Buffer> {
  const descriptor = fs.openSync(path, 'r')
  try {
    let rest = Buffer.alloc(0)
    const chunk = Buffer.alloc(CHUNK_BYTES)
    for (;;) {
      const count = fs.readSync(descriptor, chunk)
      if (count === 0) return
      rest = Buffer.concat([rest, chunk.subarray(0, count)])
      let from = 0
      for (let at = rest.indexOf('\n'); at >= 0; at = rest.indexOf('\n', from)) {
        yield rest.subarray(from, at)
        from = at + 1
      }
      rest = rest.subarray(from)
    }
  } finally {
    fs.closeSync(descriptor)
  }
}
