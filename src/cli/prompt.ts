// Where a prompt's text comes from: the flag, a file, standard input, or, for the bundled model only,
// a question it is known to answer. It must not know templates or tokens. Surprising: a prompt that
// was typed or piped ends with a line break that nobody meant, so one is dropped, but not of raw text.
import { createReadStream } from 'node:fs'
import type { Readable } from 'node:stream'
import { systemReason } from '../model/error.js'
import { Failure, Status } from './failure.js'
import type { RunFlags } from './flags.js'

/** A text of a million tokens has some 4 MB; what is longer was not meant as a prompt. */
const PROMPT_BYTES_MAX = 16 * 2 ** 20

/**
 * How long `npm start` waits for a pipe to say something. A program that starts it may leave a pipe
 * open without ever writing to it, and the demonstration must not hang there.
 */
const START_PATIENCE_MS = 250

const bundledPrompt = 'What is 37 + 48?'

/** The text, and whether it is the one that the program chose itself. */
export interface PromptText {
  readonly text: string
  readonly isChosen: boolean
}

/** Throws a Failure when there is none, or when it cannot be read. */
export async function readPrompt(flags: RunFlags, isBundled: boolean): Promise<PromptText> {
  const given = await givenText(flags, isBundled)
  const text = given === null || flags.raw ? given : given.replace(/\r?\n$/, '')
  if (text !== null && text !== '') return { text, isChosen: false }
  if (text === null && isBundled) return { text: bundledPrompt, isChosen: true }
  throw new Failure(
    text === null
      ? 'no prompt: expected -p TEXT, -f FILE or text on standard input'
      : 'the prompt is empty: expected text from -p, -f or standard input',
    Status.usage,
  )
}

/** Null: nobody gave any. */
async function givenText(flags: RunFlags, isBundled: boolean): Promise<string | null> {
  if (flags.prompt !== undefined) return flags.prompt
  if (flags.file !== undefined && flags.file !== '-') {
    return readText(createReadStream(flags.file), flags.file)
  }
  if (process.stdin.isTTY && flags.file === undefined) return null
  const isStart = process.env.npm_lifecycle_event === 'start' && isBundled
  const patienceMs = isStart && flags.file === undefined ? START_PATIENCE_MS : null
  const text = await readText(process.stdin, 'standard input', patienceMs)
  return text === '' && flags.file === undefined ? null : text
}

/** All of a stream as UTF-8; with patience, nothing once it has been silent for so long at first. */
function readText(stream: Readable, name: string, patienceMs: number | null = null) {
  return new Promise<string>((resolve, reject) => {
    const chunks: Buffer[] = []
    let sizeBytes = 0
    const giveUp = () => {
      stream.destroy()
      resolve('')
    }
    const timer = patienceMs === null ? undefined : setTimeout(giveUp, patienceMs)
    stream.on('data', (chunk: Buffer) => {
      clearTimeout(timer)
      chunks.push(chunk)
      sizeBytes += chunk.length
      if (sizeBytes <= PROMPT_BYTES_MAX) return
      stream.destroy()
      reject(new Failure(`${name}: a prompt may have ${PROMPT_BYTES_MAX} bytes, found more`))
    })
    stream.on('error', (error) => {
      reject(new Failure(`${name}: cannot be read: ${systemReason(error)}`))
    })
    stream.on('end', () => {
      clearTimeout(timer)
      resolve(Buffer.concat(chunks).toString('utf8'))
    })
  })
}
