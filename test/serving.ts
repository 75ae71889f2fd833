// A server in this process over the bundled model, the built program's parts, and a client that reads
// what it says. The types name only what tests look at.
import { setTimeout as pause } from 'node:timers/promises'
import { Engine } from '../dist/src/engine/engine.js'
import { openTokenizer } from '../dist/src/model/tokenizer.js'
import { Keys } from '../dist/src/serve/keys.js'
import { newService } from '../dist/src/serve/newservice.js'
import { Server } from '../dist/src/serve/server.js'
import type { Service, ServiceWishes } from '../dist/src/serve/service.js'
import { ringTiny } from './paths.js'

export interface Running {
  readonly url: string
  readonly service: Service
  /** What was logged. */
  readonly lines: readonly string[]
  close(): Promise<void>
}

export interface Circumstances extends Partial<ServiceWishes> {
  readonly keys?: readonly string[]
  /** Left out: any that is free. */
  readonly port?: number
  /** Whether the model is loaded when this is done. */
  readonly isLoaded?: boolean
}

export async function startServer(circumstances: Circumstances = {}): Promise<Running> {
  const { keys = [], port = 0, isLoaded = true, ...wishes } = circumstances
  const folder = wishes.folder ?? ringTiny
  const parallel = wishes.parallel ?? 3
  const tokenizer = openTokenizer(folder)
  const lines: string[] = []
  const service = newService({
    model: 'ring-tiny',
    folder,
    tokenizer,
    version: '0',
    parallel,
    queue: 8,
    deadlineMs: 20_000,
    keepAliveMs: 10_000,
    reasoningBudget: null,
    open: (grammars) =>
      Engine.open(folder, { sequences: parallel, sampleable: tokenizer.size, grammars }),
    log: (line) => lines.push(line),
    ...wishes,
  })
  const server = await Server.listen(service, { host: '127.0.0.1', port, keys: new Keys(keys) })
  if (isLoaded) await service.keeper.load()
  return { url: server.url, service, lines, close: () => server.close(0) }
}

export function post(
  url: string,
  body: unknown,
  options: { headers?: Record<string, string>; signal?: AbortSignal } = {},
): Promise<Response> {
  return fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...options.headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
    ...(options.signal === undefined ? {} : { signal: options.signal }),
  })
}

export interface TokenLogprob {
  readonly token: string
  readonly logprob: number
  readonly bytes: number[]
  readonly top_logprobs: { token: string; logprob: number }[]
}

export interface Logprobs {
  readonly content: TokenLogprob[]
  readonly reasoning_content?: TokenLogprob[]
}

export interface WireUsage {
  readonly prompt_tokens: number
  readonly completion_tokens: number
  readonly total_tokens: number
  readonly prompt_tokens_details?: { readonly cached_tokens: number }
  readonly completion_tokens_details: { readonly reasoning_tokens: number }
}

export interface ChatAnswer {
  readonly choices: {
    readonly index: number
    readonly message: { readonly content: string; readonly reasoning_content?: string }
    readonly logprobs: Logprobs | null
    readonly finish_reason: string
  }[]
  readonly usage: WireUsage
}

export interface ChatChunk {
  readonly choices: {
    readonly index: number
    readonly delta: { role?: string; content?: string; reasoning_content?: string }
    readonly logprobs: Logprobs | null
    readonly finish_reason: string | null
  }[]
  readonly usage?: WireUsage | null
  readonly error?: { readonly message: string; readonly type: string }
}

/** A whole chat answer; whatever is no success shows in the failing test. */
export async function chat(url: string, body: Record<string, unknown>): Promise<ChatAnswer> {
  return jsonOf<ChatAnswer>(await post(`${url}/v1/chat/completions`, { temperature: 0, ...body }))
}

export async function jsonOf<Shape>(response: Response): Promise<Shape> {
  const text = await response.text()
  if (!response.ok) throw new Error(`${response.status}: ${text}`)
  return JSON.parse(text) as Shape
}

export interface ErrorBody {
  readonly error: {
    readonly message: string
    readonly type: string
    readonly param: string | null
    readonly code: string | number | null
  }
}

export async function errorOf(response: Response): Promise<ErrorBody['error']> {
  return ((await response.json()) as ErrorBody).error
}

/** The events of a stream as they come: a comment, or the text after `data: `. */
export async function* eventsOf(response: Response): AsyncGenerator<string> {
  let text = ''
  const decoder = new TextDecoder()
  for await (const bytes of response.body ?? []) {
    text += decoder.decode(bytes as Uint8Array, { stream: true })
    for (let end = text.indexOf('\n\n'); end >= 0; end = text.indexOf('\n\n')) {
      const event = text.slice(0, end)
      text = text.slice(end + 2)
      yield event.replace(/^data: /, '')
    }
  }
  if (text !== '') throw new Error(`the stream broke off within an event: ${text}`)
}

/** All chunks of a streamed chat, and whether it ended as it should. */
export async function chunksOf(
  response: Response,
): Promise<{ chunks: ChatChunk[]; isDone: boolean }> {
  const events: string[] = []
  for await (const event of eventsOf(response)) events.push(event)
  const isDone = events.at(-1) === '[DONE]'
  const chunks = events
    .filter((event) => event !== '[DONE]' && !event.startsWith(':'))
    .map((event) => JSON.parse(event) as ChatChunk)
  return { chunks, isDone }
}

/** What one answer of a stream said. */
export function saidIn(chunks: readonly ChatChunk[], index = 0) {
  const choices = chunks.flatMap((chunk) => chunk.choices).filter((one) => one.index === index)
  return {
    content: choices.map(({ delta }) => delta.content ?? '').join(''),
    reasoning: choices.map(({ delta }) => delta.reasoning_content ?? '').join(''),
    reason: choices.at(-1)?.finish_reason,
  }
}

export function asks(content: string) {
  return [{ role: 'user', content }]
}

/** One figure of /metrics. */
export async function figureOf(url: string, name: string): Promise<number> {
  return (await figuresOf(url))(name)
}

/** Figures of one moment, by name. */
export async function figuresOf(url: string): Promise<(name: string) => number> {
  const lines = (await (await fetch(`${url}/metrics`)).text()).split('\n')
  return (name) => {
    const line = lines.find((one) => one.startsWith(`${name} `) || one.startsWith(`${name}{`))
    return Number(line?.split(' ').at(-1))
  }
}

/** Asks again and again, for as long as a test may take, with pauses: what is waited for wants the core. */
export async function until(isSo: () => Promise<boolean>, pauseMs = 5): Promise<void> {
  const begin = performance.now()
  while (!(await isSo())) {
    if (performance.now() - begin > 10_000) throw new Error('waited 10 s in vain')
    await pause(pauseMs)
  }
}
