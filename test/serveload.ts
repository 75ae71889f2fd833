// A server under load: 32 clients that ask well, leave, send nonsense, read slowly or send too much, at
// random from a seed, while its health is asked for. The server is the built program in a process of its
// own, so that what it holds can be read from its own figures before and after.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { Agent, type IncomingMessage, request } from 'node:http'
import { command, ended, lastObject, started } from './command.js'
import { pick, randomFrom } from './random.js'
import { figureOf, figuresOf, until } from './serving.js'

const CLIENTS = 32
const PARALLEL = 8
const ANSWER_TOKENS = 60
const SLOW_TOKENS = 300
const HEALTH_EVERY_MS = 50
/** Of a body: more than one may have. */
const OVERSIZE_BYTES = 8 * 2 ** 20 + 1

const questions = [
  'What is 37 + 48?',
  '12+9=?',
  'What is 5 + 6?',
  'Hello!',
  'What is 81 - 17?',
  'Say something kind.',
]

const malformed: readonly (readonly [body: string, status: number])[] = [
  ['', 400],
  ['{"messages": [', 400],
  ['[]', 400],
  ['{"messages": []}', 400],
  ['{"messages": [{"role": "user", "content": "a"}], "temperature": "hot"}', 400],
  ['{"messages": [{"role": "user", "content": {"deep": 1}}]}', 400],
  [
    '{"messages": [{"role": "user", "content": "a"}], "response_format": {"type": "nonsense"}}',
    400,
  ],
  [JSON.stringify({ messages: [{ role: 'user', content: 'a '.repeat(5000) }] }), 400],
]

export interface Load {
  /** Requests that ended as they should, by kind. */
  readonly done: Readonly<Record<Kind, number>>
  /** What went wrong, a sentence each; empty: nothing. */
  readonly faults: readonly string[]
  /** Of every question for /health, in order of time. */
  readonly healthMs: readonly number[]
  /** Of a server that does nothing, in a process of its own, asked right after: how late the machine is. */
  readonly bareMs: readonly number[]
  /** Of the server at rest, before and after. */
  readonly before: Held
  readonly after: Held
  /** Of the server under load, once a second: resident, and of the main thread's heap what is in use. */
  readonly residentBytes: readonly number[]
  readonly heapBytes: readonly number[]
  /** How late the server's main thread was, of each second. */
  readonly loopMs: readonly LoopDelay[]
}

interface LoopDelay {
  readonly p50: number
  readonly p99: number
  readonly max: number
}

/** What a server holds. */
export interface Held {
  readonly running: number
  readonly waiting: number
  readonly files: number
  /** Whether as many whole contexts as may be in work were in work at once: all blocks are free. */
  readonly hasAllBlocks: boolean
}

type Kind = 'whole' | 'streamed' | 'left' | 'malformed' | 'slow' | 'oversize'

/** Loads a server over the bundled model for so long; ends it. */
export async function load(seconds: number, seed: number): Promise<Load> {
  const expected = await answers()
  const server = await startProgram()
  const bare = await startBare()
  try {
    const before = await heldBy(server.url)
    const run = new Run(server.url, expected, seconds)
    const [{ residentBytes, heapBytes, loopMs }, { healthMs, bareMs }] = await Promise.all([
      run.watch(),
      run.askHealth(bare.url),
      ...Array.from({ length: CLIENTS }, (_, at) => run.client(randomFrom(seed + at))),
    ])
    run.agent.destroy()
    const after = await heldBy(server.url)
    const { done, faults } = run
    return { done, faults, healthMs, bareMs, before, after, residentBytes, heapBytes, loopMs }
  } finally {
    bare.child.kill()
    server.child.kill('SIGTERM')
    await server.end
  }
}

/** What `run` says to every question. */
async function answers(): Promise<ReadonlyMap<string, string>> {
  const said = new Map<string, string>()
  for (const question of questions) {
    const ran = await command(['run', '-p', question, '-n', String(ANSWER_TOKENS), '--json', '-q'])
    if (ran.status !== 0) throw new Error(ran.stderr)
    const { text, reasoning } = lastObject(ran)
    said.set(question, `${String(reasoning)}|${String(text)}`)
  }
  return said
}

/** `serve` over the bundled model, once that is loaded. */
async function startProgram() {
  const child = started(
    ['serve', '--port', '0', '--parallel', String(PARALLEL), '--queue', '128', '--grace', '1'],
    { RING_QUIET: '0' },
  )
  const end = ended(child)
  let said = ''
  await new Promise<void>((resolve, reject) => {
    child.stderr.on('data', (text: string) => {
      if (!said.includes('ready: ')) said += text
      if (said.includes('ready: ')) resolve()
    })
    child.on('close', () => reject(new Error(said)))
  })
  return { child, end, url: /listening on (\S+)/.exec(said)?.[1] ?? '' }
}

async function startBare() {
  const text = `require('node:http').createServer((_, reply) => reply.end('ok'))
    .listen(0, '127.0.0.1', function () { console.log(this.address().port) })`
  const child = spawn(process.execPath, ['-e', text])
  const [port] = await once(child.stdout, 'data')
  return { child, url: `http://127.0.0.1:${String(port).trim()}` }
}

/** Waits until the server is at rest, and reads what it still holds. */
async function heldBy(url: string): Promise<Held> {
  const running = () => figureOf(url, 'ring_num_requests_running')
  await until(async () => (await running()) === 0)
  const hasAllBlocks = await fillsAllBlocks(url)
  await until(async () => (await running()) === 0)
  return {
    running: await running(),
    waiting: await figureOf(url, 'ring_num_requests_waiting'),
    files: await figureOf(url, 'process_open_fds'),
    hasAllBlocks,
  }
}

/** A request without a length takes the blocks of a whole context before its first token. */
async function fillsAllBlocks(url: string): Promise<boolean> {
  const agent = new Agent()
  const body = { messages: asked('Hello!'), ignore_eos: true, stream: true }
  const streams = await Promise.all(
    Array.from({ length: PARALLEL }, () => send(url, agent, JSON.stringify(body))),
  )
  // None of them ends before all have begun, or this one could not be in work beside them.
  const firsts = await Promise.all(streams.map((stream) => nextText(stream)))
  const isOver = streams.some((stream) => stream.readableEnded)
  for (const stream of streams) stream.destroy()
  agent.destroy()
  return !isOver && firsts.every((text) => text.startsWith('data: '))
}

class Run {
  readonly agent = new Agent({ keepAlive: true, maxSockets: 2 * CLIENTS })
  readonly faults: string[] = []
  readonly done: Record<Kind, number> = {
    whole: 0,
    streamed: 0,
    left: 0,
    malformed: 0,
    slow: 0,
    oversize: 0,
  }
  readonly #end: number

  constructor(
    private readonly url: string,
    private readonly expected: ReadonlyMap<string, string>,
    seconds: number,
  ) {
    this.#end = performance.now() + seconds * 1000
  }

  get #isOver(): boolean {
    return performance.now() >= this.#end
  }

  /** One request after the other. */
  async client(random: () => number): Promise<void> {
    while (!this.#isOver) {
      const kind = kindFor(random())
      try {
        const fault = await this.#ask(kind, random)
        if (fault === null) this.done[kind] += 1
        else this.faults.push(`${kind}: ${fault}`)
      } catch (error) {
        this.faults.push(`${kind}: ${String(error)}`)
      }
    }
  }

  async askHealth(bareUrl: string): Promise<{ healthMs: number[]; bareMs: number[] }> {
    const agent = new Agent({ keepAlive: true })
    const ask = async (url: string) => {
      const begin = performance.now()
      const response = await send(url, agent, null)
      await textOf(response)
      if (response.statusCode !== 200) this.faults.push(`health: ${response.statusCode}`)
      return performance.now() - begin
    }
    const healthMs: number[] = []
    const bareMs: number[] = []
    while (!this.#isOver) {
      healthMs.push(await ask(this.url))
      bareMs.push(await ask(bareUrl))
      await pause(HEALTH_EVERY_MS)
    }
    agent.destroy()
    return { healthMs, bareMs }
  }

  async watch(): Promise<{
    residentBytes: number[]
    heapBytes: number[]
    loopMs: LoopDelay[]
  }> {
    const residentBytes: number[] = []
    const heapBytes: number[] = []
    const loopMs: LoopDelay[] = []
    while (!this.#isOver) {
      const figures = await figuresOf(this.url)
      const lag = (name: string) => 1000 * figures(`nodejs_eventloop_lag_${name}_seconds`)
      residentBytes.push(figures('process_resident_memory_bytes'))
      heapBytes.push(figures('nodejs_heap_size_used_bytes'))
      loopMs.push({ p50: lag('p50'), p99: lag('p99'), max: lag('max') })
      await pause(1000)
    }
    return { residentBytes, heapBytes, loopMs }
  }

  /** Null: as it should be. */
  async #ask(kind: Kind, random: () => number): Promise<string | null> {
    const question = pick(random, questions)
    const body = { messages: asked(question), temperature: 0, max_tokens: ANSWER_TOKENS }
    const isRight = (said: string) => (said === this.expected.get(question) ? null : said)
    switch (kind) {
      case 'whole': {
        const response = await this.#send(body)
        const text = await textOf(response)
        return response.statusCode === 200 ? isRight(saidWhole(text)) : `${response.statusCode}`
      }
      case 'streamed': {
        const response = await this.#send({ ...body, stream: true })
        return isRight(saidStreamed(await textOf(response)))
      }
      case 'left':
        return this.#leave(random, body)
      case 'slow':
        return this.#readSlowly(body)
      case 'malformed': {
        const [text, status] = pick(random, malformed)
        const response = await send(this.url, this.agent, text)
        await textOf(response)
        return response.statusCode === status
          ? null
          : `${response.statusCode} to ${text.slice(0, 60)}`
      }
      case 'oversize': {
        const status = await oversize(this.url)
        return status === 413 ? null : `${status}`
      }
    }
  }

  /** Goes away at some moment: before an answer, or within one. */
  async #leave(random: () => number, body: object): Promise<null> {
    const pieces = Math.floor(random() * 8)
    const controller = new AbortController()
    const whole = JSON.stringify({ ...body, stream: true, ignore_eos: true, max_tokens: 1000 })
    const response = send(this.url, this.agent, whole, controller.signal)
    if (pieces === 0) {
      await pause(random() * 20)
      controller.abort()
      await response.then(textOf).catch(() => {})
      return null
    }
    const stream = await response
    for (let piece = 0; piece < pieces; piece += 1) await nextText(stream)
    stream.destroy()
    return null
  }

  async #readSlowly(body: object): Promise<string | null> {
    const wishes = { ...body, stream: true, ignore_eos: true, max_tokens: SLOW_TOKENS }
    const stream = await this.#send(wishes)
    let text = ''
    for (;;) {
      const part = await nextText(stream)
      if (part === '') break
      text += part
      await pause(30)
    }
    const isWhole =
      text.trimEnd().endsWith('data: [DONE]') && text.includes('"finish_reason":"length"')
    return isWhole ? null : `ended with ${text.slice(-200)}`
  }

  #send(body: object): Promise<IncomingMessage> {
    return send(this.url, this.agent, JSON.stringify(body))
  }
}

function kindFor(chance: number): Kind {
  if (chance < 0.35) return 'whole'
  if (chance < 0.6) return 'streamed'
  if (chance < 0.78) return 'left'
  if (chance < 0.92) return 'malformed'
  return chance < 0.98 ? 'slow' : 'oversize'
}

function asked(content: string) {
  return [{ role: 'user', content }]
}

/** A chat with this body, or without one a question for /health. */
function send(
  url: string,
  agent: Agent,
  body: string | null,
  signal?: AbortSignal,
): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const path = body === null ? '/health' : '/v1/chat/completions'
    const sent = request(
      url + path,
      {
        agent,
        method: body === null ? 'GET' : 'POST',
        headers: body === null ? {} : { 'content-type': 'application/json' },
        ...(signal === undefined ? {} : { signal }),
      },
      (response) => {
        answered = true
        resolve(response.setEncoding('utf8'))
      },
    )
    let answered = false
    // After the answer has begun the one who reads it learns of errors.
    sent.on('error', (error) => {
      if (!answered) reject(error)
    })
    sent.end(body ?? undefined)
  })
}

/** Announces a body that is too long and sends its beginning; returns the status of the answer. */
function oversize(url: string): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    const headers = { 'content-type': 'application/json', 'content-length': OVERSIZE_BYTES }
    const sent = request(`${url}/v1/chat/completions`, { method: 'POST', agent: false, headers })
    sent.on('error', reject)
    sent.on('response', (response) => {
      resolve(response.statusCode)
      sent.destroy()
    })
    sent.write('x'.repeat(1024))
  })
}

async function textOf(response: IncomingMessage): Promise<string> {
  let text = ''
  for await (const part of response) text += String(part)
  return text
}

/** The next part of a body as it arrived; empty at its end. */
async function nextText(response: IncomingMessage): Promise<string> {
  for (;;) {
    const part: unknown = response.read()
    if (part !== null) return String(part)
    if (response.readableEnded || response.destroyed) return ''
    await new Promise<void>((resolve) => {
      const events = ['readable', 'end', 'close', 'error'] as const
      const wake = () => {
        for (const event of events) response.off(event, wake)
        resolve()
      }
      for (const event of events) response.once(event, wake)
    })
  }
}

interface Said {
  readonly content?: string | null
  readonly reasoning_content?: string
}

function saidWhole(text: string): string {
  const { choices } = JSON.parse(text) as { choices: { message: Said }[] }
  const { content, reasoning_content: reasoning } = choices[0]?.message ?? {}
  return `${reasoning ?? ''}|${content ?? ''}`
}

function saidStreamed(text: string): string {
  const events = text.split('\n\n').filter((event) => event.startsWith('data: {'))
  const deltas = events.flatMap((event) => {
    const { choices } = JSON.parse(event.slice(6)) as { choices?: { delta: Said }[] }
    return choices?.map(({ delta }) => delta) ?? []
  })
  const reasoning = deltas.map((delta) => delta.reasoning_content ?? '').join('')
  return `${reasoning}|${deltas.map((delta) => delta.content ?? '').join('')}`
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}
