// Files of requests for the tests of `batch`, and one run of it. The requests ask for everything that an
// answer may depend on: chance, penalties, biases, stop texts, log-probabilities, several answers.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { command } from './command.js'
import { Dice } from './dice.js'

/** A line of the output, as far as tests look at it. */
export interface OutputLine {
  readonly id: string
  readonly custom_id: string | null
  readonly response: {
    readonly status_code: number
    readonly request_id: string
    readonly body: {
      readonly id: string
      readonly model: string
      readonly choices: readonly {
        readonly index: number
        readonly text?: string
        readonly message?: { readonly content: string; readonly reasoning_content?: string }
        readonly finish_reason: string
      }[]
      readonly error?: { readonly message: string; readonly code: string | null }
    }
  } | null
  readonly error: { readonly code: string; readonly message: string } | null
  readonly requested_model?: string
  readonly grade?: { readonly right: readonly boolean[]; readonly reason?: readonly string[] }
}

export function chatLine(id: string, body: object, rest: object = {}): string {
  const url = '/v1/chat/completions'
  return JSON.stringify({ custom_id: id, method: 'POST', url, body, ...rest })
}

export function textLine(id: string, body: object, rest: object = {}): string {
  return JSON.stringify({ custom_id: id, method: 'POST', url: '/v1/completions', body, ...rest })
}

export function question(content: string) {
  return { messages: [{ role: 'user', content }] }
}

/** Requests of every kind, of 1 to `tokensMax` tokens. */
export function mixedLines(count: number, tokensMax: number, seed: number): string[] {
  const dice = new Dice(seed)
  return Array.from({ length: count }, (_, number) => {
    const id = `line ${number}`
    const max_tokens = 1 + dice.below(tokensMax)
    const asked = question(`What is ${dice.below(90)} + ${dice.below(90)}?`)
    const text = { prompt: `Scene ${number}. Enter`, max_tokens }
    return dice.pick([
      () => chatLine(id, { ...asked, max_tokens }),
      () => chatLine(id, { ...asked, max_tokens, n: 2, logprobs: true, top_logprobs: 2 }),
      () => chatLine(id, { ...asked, max_tokens, seed: number, top_p: 0.9, stop: '=' }),
      () =>
        textLine(id, { ...text, ignore_eos: true, frequency_penalty: 1, presence_penalty: 0.5 }),
      () =>
        textLine(id, { ...text, ignore_eos: true, repetition_penalty: 1.2, stop: ['the', '\n'] }),
      () =>
        textLine(id, {
          ...text,
          prompt: [
            [5, 6, 7],
            [8, 9],
          ],
          logprobs: 1,
          temperature: 0,
        }),
      () => textLine(id, { ...text, max_tokens: 9999 }),
    ])()
  })
}

const nouns = ['score', 'key', 'level', 'word', 'node', 'cell', 'price', 'name']
const people = ['BAPTISTA', 'ROMEO', 'GREMIO', 'FIRST LORD', 'KATHARINA', 'DUKE']

/** What ring-tiny has seen of: sums, C, Python, plays. */
const matters: readonly ((dice: Dice) => string)[] = [
  (dice) => `What is ${dice.below(900)} + ${dice.below(900)}? First add the hundreds, then the`,
  (dice) => {
    const noun = dice.pick(nouns)
    return `static int ${noun}s[MAX_${noun.toUpperCase()}];\n\nvoid mark_${noun}s(int width) {\n    for (int i = ${dice.below(9)}; i <`
  },
  (dice) => {
    const [noun, other] = [dice.pick(nouns), dice.pick(nouns)]
    return `    return ${noun} * ${dice.below(9)}\n\ndef move_${other}(${other}, start):\n    """Return the product of`
  },
  (dice) =>
    `${dice.pick(people)}:\nI know the ${dice.pick(nouns)} well: you are most welcome, sir,\nAnd`,
]

/** Requests on four matters, by chance one after the other, all of so many tokens. */
export function linesOnFourMatters(count: number, tokens: number, seed: number): string[] {
  const dice = new Dice(seed)
  return Array.from({ length: count }, (_, number) => {
    const prompt = dice.pick(matters)(dice)
    return textLine(`${number}`, { prompt, max_tokens: tokens, ignore_eos: true })
  })
}

/** Puts the lines into a folder; returns the words of the command, and where its output will be. */
export function prepared(folder: string, lines: readonly string[], name = 'out') {
  const input = join(folder, 'in.jsonl')
  const output = join(folder, `${name}.jsonl`)
  writeFileSync(input, `${lines.join('\n')}\n`)
  return {
    input,
    output,
    journal: `${output}.journal`,
    words: ['batch', '-i', input, '-o', output],
  }
}

export function linesIn(output: string): OutputLine[] {
  const text = readFileSync(output, 'utf8')
  return text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as OutputLine)
}

/** Runs a job over these lines to its end. */
export async function answered(folder: string, lines: readonly string[], flags: string[] = []) {
  const { words, output } = prepared(folder, lines)
  const end = await command([...words, '-q', ...flags])
  if (end.status !== 0) throw new Error(`the job failed: ${end.stderr}`)
  return { ...end, lines: linesIn(output) }
}
