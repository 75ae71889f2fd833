// Figures of the server's KV on the 4 GB model, slots for 25 %: how much sooner the first token comes
// when a prompt shares 1,500 tokens with an earlier one and adds 2, from memory, and from the drive after
// a restart. Times are the client's. What the answers are is compared with a server that knows nothing.
import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, it } from 'vitest'
import { started } from './command.js'
import { Dice } from './dice.js'
import { note, remark, spread } from './figure.js'
import { eventsOf, post } from './serving.js'
import { type Widened, widened } from './widened.js'

const rounds = 3
const sharedTokens = 1500
let model: Widened
let kv: string
beforeAll(async () => {
  model = await widened()
  kv = mkdtempSync(join(os.tmpdir(), 'ring-proof-kv-'))
})
afterAll(() => {
  model.remove()
  rmSync(kv, { recursive: true })
})

interface Server {
  readonly url: string
  /** Lets it end as a person would. */
  end(): Promise<void>
}

/** A server of its own, once it is ready. */
function serve(words: readonly string[]): Promise<Server> {
  const shared = ['--expert-ram', '25%', '--profile', 'none', '--port', '0', '--parallel', '2']
  const child = started(['serve', model.folder, ...shared, ...words])
  const exited = new Promise<void>((resolve) => child.once('close', () => resolve()))
  return new Promise((resolve, reject) => {
    let said = ''
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      said += text
      const url = /listening on (\S+)/.exec(said)?.[1]
      if (url === undefined || !/\bready: /.test(said)) return
      const end = () => {
        child.kill('SIGTERM')
        return exited
      }
      resolve({ url, end })
    })
    void exited.then(() => reject(new Error(said)))
  })
}

interface Answer {
  readonly firstTokenSeconds: number
  readonly cached: number
  /** Tokens, log-probabilities, rivals. */
  readonly bits: string
}

async function ask({ url }: Server, prompt: readonly number[]): Promise<Answer> {
  const begin = performance.now()
  const response = await post(`${url}/v1/completions`, {
    ...{ prompt, max_tokens: 6, temperature: 0, ignore_eos: true, logprobs: 5 },
    ...{ stream: true, stream_options: { include_usage: true } },
  })
  if (!response.ok) throw new Error(await response.text())
  let first = Number.NaN
  let cached = 0
  const logprobs: unknown[] = []
  for await (const event of eventsOf(response)) {
    if (event === '[DONE]' || event.startsWith(':')) continue
    const chunk = JSON.parse(event) as {
      choices: { logprobs: unknown }[]
      usage?: { prompt_tokens_details: { cached_tokens: number } } | null
    }
    if (Number.isNaN(first)) first = (performance.now() - begin) / 1000
    for (const choice of chunk.choices) if (choice.logprobs !== null) logprobs.push(choice.logprobs)
    cached = chunk.usage?.prompt_tokens_details.cached_tokens ?? cached
  }
  if (logprobs.length < 2) throw new Error('nothing was drawn')
  return { firstTokenSeconds: first, cached, bits: JSON.stringify(logprobs) }
}

it('a prompt that begins like an earlier one', async () => {
  const dice = new Dice(1500)
  const prompts = Array.from({ length: rounds }, () =>
    Array.from({ length: sharedTokens }, () => 5 + dice.below(1000)),
  )
  const longer = prompts.map((prompt) => [...prompt, 77, 78])
  const cold: Answer[] = []
  const warm: Answer[] = []
  const again: Answer[] = []
  const alone: Answer[] = []
  for (const [round, prompt] of prompts.entries()) {
    const before = await serve(['--kv-dir', kv])
    cold.push(await ask(before, prompt))
    warm.push(await ask(before, longer[round] ?? []))
    await before.end()
    const after = await serve(['--kv-dir', kv])
    again.push(await ask(after, longer[round] ?? []))
    await after.end()
    const unknowing = await serve([])
    alone.push(await ask(unknowing, longer[round] ?? []))
    await unknowing.end()
  }
  const seconds = (answers: readonly Answer[]) =>
    answers.map(({ firstTokenSeconds }) => firstTokenSeconds)
  const ratios = (answers: readonly Answer[]) =>
    seconds(answers).map((one, round) => (seconds(cold)[round] ?? Number.NaN) / one)
  remark(`First token of ${sharedTokens} tokens, 4 GB model, 25 %, s`, spread(seconds(cold)).text)
  remark('The same and 2 more, known in memory, s', spread(seconds(warm), 3).text)
  remark(
    'The same and 2 more, known on the drive, after a restart, s',
    spread(seconds(again), 3).text,
  )
  const fromMemory = spread(ratios(warm), 1)
  note(
    'First token sooner by a known prefix in memory',
    fromMemory.text,
    '>= 20',
    fromMemory.median >= 20,
  )
  const fromDrive = spread(ratios(again), 1)
  note(
    'First token sooner by a known prefix on the drive',
    fromDrive.text,
    '>= 10',
    fromDrive.median >= 10,
  )
  const known = [...warm, ...again].map(({ cached }) => cached)
  note(
    'Tokens of the prefix that were not computed again',
    `${Math.min(...known)} of ${sharedTokens}`,
    'all',
    known.every((cached) => cached >= sharedTokens),
  )
  const areSame = alone.every(
    ({ bits }, round) => warm[round]?.bits === bits && again[round]?.bits === bits,
  )
  note(
    'Answers behind a known prefix, bit for bit',
    areSame ? 'the same' : 'differ',
    'same',
    areSame,
  )
})
