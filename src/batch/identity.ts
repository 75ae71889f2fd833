// What a job is: everything that its tokens depend on, in a form that can be compared. A journal of
// another job is never gone on with, and the difference is told.
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import type { Input } from './line.js'
import type { JobHead } from './records.js'

/** Read whole: small, and each changes what is drawn. */
const read = [
  'config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'chat_template.jinja',
  'model.safetensors.index.json',
]

/**
 * Of a model's folder: the text of its small files, names and sizes of the weights. Weights of the same
 * size with other values are not told apart: reading them all would take minutes.
 */
export function modelName(folder: string): string {
  const hash = createHash('sha256')
  for (const name of read) {
    const path = join(folder, name)
    hash.update(`${name}\n`)
    if (existsSync(path)) hash.update(readFileSync(path))
  }
  for (const name of readdirSync(folder).sort()) {
    if (!name.endsWith('.safetensors')) continue
    hash.update(`${name} ${statSync(join(folder, name)).size}\n`)
  }
  return hash.digest('hex')
}

/** Of all lines of the input. */
export async function inputName(input: Input): Promise<string> {
  const hash = createHash('sha256')
  for await (const { number, text } of input.lines()) hash.update(`${number}:${text}\n`)
  return hash.digest('hex')
}

/** The first thing in which two jobs differ, for people; null: they are the same. */
export function differenceOf(earlier: JobHead, now: JobHead): string | null {
  if (earlier.input !== now.input) return 'the input is another one'
  if (earlier.model !== now.model) return 'the model is another one'
  const pairs: (readonly [string, string | undefined, string | undefined])[] = [
    ['version', earlier.program, now.program],
    ['instruction set', earlier.instructionSet, now.instructionSet],
    ['--ctx-size', String(earlier.contextTokens), String(now.contextTokens)],
    ...Object.keys({ ...earlier.settings, ...now.settings }).map(
      (name) => [`--${name}`, earlier.settings[name], now.settings[name]] as const,
    ),
  ]
  const found = pairs.find(([, one, other]) => one !== other)
  if (found === undefined) return null
  const [name, one, other] = found
  return `${name} was ${one ?? 'not given'} and is ${other ?? 'not given'}`
}
