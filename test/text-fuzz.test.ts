/**
 * Damaged tokenizers and templates for a bounded time: what comes out is a Tokenizer that encodes
 * and decodes, a ChatTemplate that renders, or a ModelError of one line; never anything else.
 */
import fs from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, it } from 'vitest'
import { ModelError } from '../src/model/error.js'
import { openTemplate } from '../src/model/template.js'
import { openTokenizer } from '../src/model/tokenizer.js'
import { awkwardText, pick, randomFrom } from './random.js'

const RING_TINY = new URL('../models/ring-tiny/', import.meta.url).pathname
const folder = fs.mkdtempSync(join(os.tmpdir(), 'ring-'))
afterAll(() => fs.rmSync(folder, { recursive: true }))

const FUZZ_MS = 1500
const ROUNDS_MAX = 4000

const numbers = ['-1', '0.5', '1e9', '16777216', '1e400', '0', '97', '9007199254740993']
const values = [
  'null',
  '""',
  '[]',
  '{}',
  'true',
  '"BPE"',
  '[[]]',
  '{"type":"Sequence"}',
  ...numbers,
]
const snippets = [
  '{%', '%}', '{{', '}}', 'endfor', 'if', '[0]', '.x', '|tojson', "'", '(', ')', '~', 'not', '{#',
] // biome-ignore format: one entry a line would hide the list

/** The text with one random change somewhere. */
type Mutation = (text: string, at: number, random: () => number) => string

const cutShort: Mutation = (text, at) => text.slice(0, at)
const lostPart: Mutation = (text, at, random) =>
  text.slice(0, at) + text.slice(at + Math.floor(random() * random() * 40))
const otherCharacter: Mutation = (text, at, random) =>
  text.slice(0, at) + String.fromCharCode(32 + random() * 500) + text.slice(at + 1)
const otherNumber: Mutation = (text, at, random) =>
  changed(text, /-?\d+/y, at, pick(random, numbers))
const otherValue: Mutation = (text, at, random) =>
  changed(text, /"[^"]*"(?!:)|null|true|false|\d+/y, at, pick(random, values))
const addedJinja: Mutation = (text, at, random) =>
  text.slice(0, at) + pick(random, snippets) + text.slice(at)

/** Replaces the first match of a sticky pattern from `at` on. */
function changed(text: string, pattern: RegExp, at: number, replacement: string): string {
  for (pattern.lastIndex = at; pattern.lastIndex < text.length; ) {
    const from = pattern.lastIndex
    const match = pattern.exec(text)
    if (match !== null) {
      return text.slice(0, from) + replacement + text.slice(from + match[0].length)
    }
    pattern.lastIndex = from + 1
  }
  return text
}

/**
 * Writes mutations of `text` as `file` into the folder and runs `use`, until time or rounds are
 * over. Returns how many were accepted.
 */
function fuzz(
  file: string,
  text: string,
  seed: number,
  mutations: readonly Mutation[],
  use: () => void,
): number {
  const random = randomFrom(seed)
  const until = performance.now() + FUZZ_MS
  let accepted = 0
  for (let round = 0; round < ROUNDS_MAX && performance.now() < until; round++) {
    let damaged = text
    do {
      const mutate = pick(random, mutations)
      damaged = mutate(damaged, Math.floor(random() * damaged.length), random)
    } while (random() < 0.3)
    fs.writeFileSync(join(folder, file), damaged)
    try {
      use()
      accepted++
    } catch (error) {
      expect(error, `seed ${seed}, round ${round}`).toBeInstanceOf(ModelError)
      expect(String(error)).toMatch(/^.{10,400}$/)
    }
  }
  return accepted
}

it('takes or refuses any damaged tokenizer.json', () => {
  const random = randomFrom(5)
  // The stages and the first pieces and merges only, so that most changes hit what matters.
  const text = smallTokenizer()
  const mutations = [cutShort, lostPart, otherCharacter, otherNumber, otherValue, otherValue]
  const accepted = fuzz('tokenizer.json', text, 6, mutations, () => {
    const tokenizer = openTokenizer(folder)
    const ids = tokenizer.encode(awkwardText(random, 5))
    expect(typeof tokenizer.decode(ids)).toBe('string')
    for (const id of ids) {
      expect(id).toBeGreaterThanOrEqual(0)
      expect(id).toBeLessThan(tokenizer.size)
      expect(tokenizer.bytesOf(id)).toBeInstanceOf(Uint8Array)
    }
  })
  expect(accepted).toBeGreaterThan(10)
})

it('takes or refuses any damaged tokenizer_config.json', () => {
  const text = fs.readFileSync(join(RING_TINY, 'tokenizer_config.json'), 'utf8')
  const mutations = [cutShort, lostPart, otherCharacter, otherValue, addedJinja, addedJinja]
  const accepted = fuzz('tokenizer_config.json', text, 7, mutations, () => {
    const template = openTemplate(folder)
    expect(
      typeof template.render([{ role: 'user', content: 'Hello!' }], { addGenerationPrompt: true }),
    ).toBe('string')
  })
  expect(accepted).toBeGreaterThan(10)
})

/** tokenizer.json of ring-tiny with the bytes and a few merges. */
function smallTokenizer(): string {
  const file = JSON.parse(fs.readFileSync(join(RING_TINY, 'tokenizer.json'), 'utf8'))
  const pieces = Object.keys(file.model.vocab).slice(0, 266)
  file.model.vocab = Object.fromEntries(pieces.map((piece, id) => [piece, id]))
  file.model.merges = file.model.merges.slice(0, 10)
  file.added_tokens = file.added_tokens.map((token: object, index: number) => ({
    ...token,
    id: pieces.length + index,
  }))
  return JSON.stringify(file)
}
