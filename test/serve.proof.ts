// Figures of the server. On the 4 GB model, slots for 25 %: how much sooner the first token comes when a
// prompt shares 1,500 tokens with an earlier one and adds 2, from memory, and from the drive after a
// restart; what HTTP adds to a stream, and what a long prompt leaves of it. On ring-tiny: what HTTP and a
// format add to a token, and what a new schema does to a stream beside it. Times are the client's.
// Takes about seven minutes; the load of many clients is in serve-load.proof.ts.
import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, it } from 'vitest'
import { Engine } from '../dist/src/engine/engine.js'
import { openTokenizer } from '../dist/src/model/tokenizer.js'
import { started } from './command.js'
import { Dice } from './dice.js'
import { note, remark, spread } from './figure.js'
import { requestOf } from './models.js'
import { ringTiny } from './paths.js'
import { eventsOf, figureOf, post, type Running, startServer, until } from './serving.js'
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

/** Microseconds of a token, drawn straight from an engine and through a server with one like it. */
async function pairs(folder: string, tokens: number, expertRam?: string) {
  const tokenizer = openTokenizer(folder)
  const share = expertRam === undefined ? undefined : { share: Number.parseFloat(expertRam) / 100 }
  const wishes = { sequences: 1, sampleable: tokenizer.size, expertRam: share }
  const engine = await Engine.open(folder, wishes)
  const open = () => Engine.open(folder, wishes)
  const server = await startServer({ folder, parallel: 1, deadlineMs: 600_000, open })
  try {
    const prompt = [...tokenizer.encode('Hello!')]
    const direct = async () => {
      const times: number[] = []
      const generation = engine.generate(requestOf(prompt, { maxTokens: tokens }))
      for await (const _ of generation) times.push(performance.now())
      return microsecondsEach({ times, tokens })
    }
    const served = async () => microsecondsEach(await freeStream(server, prompt, tokens))
    await direct()
    await served()
    const both: { direct: number; served: number }[] = []
    for (let at = 0; at < 9; at += 1) both.push({ direct: await direct(), served: await served() })
    return both
  } finally {
    await Promise.all([engine.close(), server.close()])
  }
}

interface Streamed {
  /** Of events that tell of the answer; the last ends it. */
  readonly times: readonly number[]
  readonly tokens: number
}

async function streamed({ url }: Running, body: object): Promise<Streamed> {
  const asked = { ...body, stream: true, stream_options: { include_usage: true } }
  const times: number[] = []
  let tokens = 0
  for await (const event of eventsOf(await post(`${url}/v1/completions`, asked))) {
    if (!event.startsWith('{')) continue
    const { usage } = JSON.parse(event) as { usage?: { completion_tokens: number } | null }
    tokens = usage?.completion_tokens ?? tokens
    if (tokens === 0) times.push(performance.now())
  }
  return { times, tokens }
}

function freeStream(server: Running, prompt: readonly number[], tokens: number) {
  const body = { prompt, temperature: 0, ignore_eos: true, max_tokens: tokens }
  return streamed(server, body)
}

/** Not of an event: letters of several tokens come with one. */
function microsecondsEach({ times, tokens }: Streamed): number {
  return (((times.at(-1) ?? 0) - (times[0] ?? 0)) / (tokens - 1)) * 1000
}

it('what the server adds to a token', async () => {
  const both = await pairs(ringTiny, 1000)
  const added = spread(
    both.map(({ direct, served }) => served - direct),
    0,
  )
  const alone = spread(
    both.map(({ direct }) => direct),
    0,
  )
  note(
    'ring-tiny: microseconds that the server, and its client, add to a token',
    `${added.text}; without ${alone.text}`,
    'none given',
    Number.isFinite(added.median),
  )
})

describe('on the widened model at 25 %', () => {
  it('one stream', async () => {
    const both = await pairs(model.folder, 64, '25%')
    const ratio = spread(
      both.map(({ direct, served }) => served / direct),
      3,
    )
    note(
      '4 GB model, 25 %: time of a token through the server over without',
      ratio.text,
      '1.03',
      ratio.median <= 1.03,
    )
  })

  it('a stream while a long prompt arrives', async () => {
    const wishes = { sequences: 2, expertRam: { share: 0.25 } }
    const open = () => Engine.open(model.folder, wishes)
    const server = await startServer({
      folder: model.folder,
      parallel: 2,
      deadlineMs: 3_600_000,
      open,
    })
    try {
      const ratios: number[] = []
      for (let at = 0; at < 5; at += 1) ratios.push(await keptSpeed(server, at))
      const kept = spread(ratios, 3)
      note(
        '4 GB model, 25 %: speed that a stream keeps while a prompt of 1,500 tokens is read',
        kept.text,
        '0.25',
        kept.median >= 0.25,
      )
    } finally {
      await server.close()
    }
  })
})

/** Of a stream's tokens a second, the share left from the arrival of a prompt to its first token. */
async function keptSpeed(server: Running, seed: number): Promise<number> {
  const times: number[] = []
  const leaving = new AbortController()
  const body = {
    prompt: [5, 6, 7],
    temperature: 0,
    ignore_eos: true,
    stream: true,
    max_tokens: 500,
  }
  const { signal } = leaving
  const response = await post(`${server.url}/v1/completions`, body, { signal })
  const reading = (async () => {
    for await (const _ of eventsOf(response)) times.push(performance.now())
  })().catch(() => {})
  await until(async () => times.length > 40)
  const begin = performance.now()
  const before = times.length
  const prompt = Array.from({ length: 1500 }, (_, at) => (at * 31 + seed * 7) % 900)
  await post(`${server.url}/v1/completions`, { prompt, max_tokens: 1, temperature: 0 })
  const end = performance.now()
  const during = times.filter((time) => time > begin && time <= end).length / (end - begin)
  leaving.abort()
  await reading
  await until(async () => (await figureOf(server.url, 'ring_num_requests_running')) === 0)
  const alone = (before - 8) / ((times[before - 1] ?? 0) - (times[7] ?? 0))
  return during / alone
}

const shape = {
  type: 'object',
  properties: {
    words: { type: 'array', items: { type: 'string', maxLength: 20 }, minItems: 9, maxItems: 12 },
  },
  required: ['words'],
}

/** An answer of ring-tiny's under a schema that nobody has asked for before. */
function heldStream(server: Running, name: string, tokens: number): Promise<Streamed> {
  const { properties, required } = shape
  const schema = { ...shape, properties: { ...properties, [name]: { const: name } }, required }
  return streamed(server, {
    ...{ prompt: 'Words: ', temperature: 1, seed: 1, max_tokens: tokens },
    response_format: { type: 'json_schema', json_schema: { schema } },
  })
}

it('a format', async () => {
  const rounds = 9
  const server = await startServer({ parallel: 3, deadlineMs: 600_000 })
  try {
    const { tokenizer } = server.service
    const prompt = [...tokenizer.encode('Words: ')]
    const ratios: number[] = []
    for (let round = 0; round < rounds; round += 1) {
      const held = microsecondsEach(await heldStream(server, 'a', 100))
      ratios.push(held / microsecondsEach(await freeStream(server, prompt, 100)))
    }
    remark('ring-tiny: time of a token under a schema over without', spread(ratios).text)
    const gaps: number[] = []
    for (let round = 0; round < rounds; round += 1) {
      const leaving = new AbortController()
      const body = { prompt, temperature: 0, ignore_eos: true, stream: true, max_tokens: 1500 }
      const { signal } = leaving
      const response = await post(`${server.url}/v1/completions`, body, { signal })
      const times: number[] = []
      const reading = (async () => {
        for await (const _ of eventsOf(response)) times.push(performance.now())
      })().catch(() => {})
      await until(async () => times.length > 100)
      const begin = times.length
      await heldStream(server, `new ${round}`, 4)
      const during = times.slice(begin - 1)
      gaps.push(Math.max(...during.slice(1).map((time, at) => time - (during[at] ?? time))))
      leaving.abort()
      await reading
    }
    const longest = spread(gaps, 1)
    note(
      'ring-tiny: longest pause of a stream while a new schema is compiled beside it, ms',
      longest.text,
      '100',
      longest.median < 100,
    )
  } finally {
    await server.close()
  }
})
