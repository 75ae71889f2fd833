// Draws all answers of one request together and gives them to the client, streamed or whole. The
// engine runs them side by side; each is read on its own, and what one says never waits for another
// but at the client's own pace.
import type { FastifyReply } from 'fastify'
import type { Generation } from '../engine/engine.js'
import type { Choice } from './draw.js'
import { EventStream } from './eventstream.js'
import type { Ended, Form, TokenUsage, Told, WireEvent } from './form.js'
import type { Watch } from './metrics.js'
import { AnswerReader, type Delta } from './reader.js'
import { barred, Refusal } from './refusal.js'
import type { Service } from './service.js'

/** How a request is answered. */
export interface Order {
  readonly choices: readonly Choice[]
  readonly form: Form
  /** False: one object at the end. */
  readonly isStreamed: boolean
  /** Ends it early; its reason is the Refusal to answer with. */
  readonly signal: AbortSignal
  /** Called once the engine has no more work with it. */
  readonly onDrawn: () => void
}

/** An answer in work. */
interface Run {
  readonly choice: Choice
  readonly generation: Generation
  readonly reader: AnswerReader
  readonly watch: Watch
  /** Of the prompt, known once it is over. */
  cachedTokens: number
}

/** What usage is counted of. */
type Answered = Pick<Run, 'choice' | 'reader' | 'cachedTokens'>

/** Answers on `reply`; throws a Refusal as long as nothing has been sent. Returns what it cost. */
export async function deliver(
  service: Service,
  reply: FastifyReply,
  order: Order,
): Promise<TokenUsage> {
  const runs = begin(service, order)
  const cancelAll = () => {
    for (const { generation } of runs) generation.cancel()
  }
  order.signal.addEventListener('abort', cancelAll)
  if (order.signal.aborted) cancelAll()
  void Promise.allSettled(runs.map(({ generation }) => generation.ending)).then(order.onDrawn)
  try {
    if (order.isStreamed) return await stream(service, reply, runs, order)
    return await giveWhole(service, reply, runs, order)
  } finally {
    order.signal.removeEventListener('abort', cancelAll)
    cancelAll()
    await Promise.allSettled(runs.map(({ generation }) => generation.ending))
  }
}

function begin({ keeper, tokenizer, metrics }: Service, { choices }: Order): Run[] {
  const runs: Run[] = []
  try {
    for (const choice of choices) {
      const generation = keeper.generate(choice.request)
      const reader = new AnswerReader(tokenizer, choice.reading)
      const watch = metrics.watch(choice.request.prompt.length)
      runs.push({ choice, generation, reader, watch, cachedTokens: 0 })
    }
    return runs
  } catch (error) {
    for (const { generation } of runs) generation.cancel()
    throw error
  }
}

async function giveWhole(
  service: Service,
  reply: FastifyReply,
  runs: readonly Run[],
  { form, signal }: Order,
): Promise<TokenUsage> {
  const told = await Promise.all(
    runs.map(async (run): Promise<Told> => {
      const deltas: Delta[] = []
      const ended = await readThrough(service, run, signal, async (delta) => {
        deltas.push(delta)
      })
      return { index: run.choice.index, deltas, ended }
    }),
  )
  const usage = usageOf(runs)
  reply.send(form.whole(told, usage))
  return usage
}

async function stream(
  service: Service,
  reply: FastifyReply,
  runs: readonly Run[],
  { form, signal }: Order,
): Promise<TokenUsage> {
  const headers = Object.fromEntries(
    Object.entries(reply.getHeaders()).map(([name, value]) => [name, String(value)]),
  )
  reply.hijack()
  const events = new EventStream(reply.raw, headers, service.keepAliveMs)
  // A reader that takes nothing cannot be told that its time is over.
  const cut = () => setImmediate(() => reply.raw.writableNeedDrain && reply.raw.destroy())
  signal.addEventListener('abort', cut)
  const send = async (some: readonly WireEvent[]) => {
    for (const event of some) await events.send(event)
  }
  try {
    await Promise.all(
      runs.map(async (run) => {
        const { index, request } = run.choice
        await send(form.opening(index, request.prompt.length))
        const ended = await readThrough(service, run, signal, (delta) =>
          send(form.delta(index, delta)),
        )
        await send(form.finish(index, ended))
      }),
    )
    const usage = usageOf(runs)
    const last = form.closing(usage)
    await send(last.slice(0, -1))
    for (const event of last.slice(-1)) await events.end(event)
    return usage
  } catch (error) {
    // The status is out already, so the refusal is the last event, and nothing else follows it.
    const refusal = error instanceof Refusal ? error : new Refusal(500, 'internal error')
    await events.end(form.failure(refusal))
    throw error
  } finally {
    signal.removeEventListener('abort', cut)
  }
}

/** Reads one answer to its end; returns why it ended, throws a Refusal where it did not by itself. */
async function readThrough(
  { folder }: Service,
  run: Run,
  signal: AbortSignal,
  onDelta: (delta: Delta) => Promise<void>,
): Promise<Ended> {
  const { generation, reader, watch } = run
  for await (const emission of generation) {
    watch.token()
    for (const delta of reader.push(emission)) await onDelta(delta)
    if (reader.isStopped) break
  }
  for (const delta of reader.end()) await onDelta(delta)
  if (reader.isStopped) generation.cancel()
  const { reason, message, isBarred, stats } = await generation.ending
  run.cachedTokens = stats.cachedTokens
  if (reason === 'failed' && isBarred === true) throw barred(message)
  // Which file cannot be read is said, where it lies is not.
  if (reason === 'failed')
    throw new Refusal(500, message.replaceAll(`${folder}/`, ''), { mayRetry: false })
  if (reason === 'cancelled' && !reader.isStopped) {
    signal.throwIfAborted()
    // From the dashboard: whoever runs the server did not want it.
    throw new Refusal(503, 'the answer was cancelled', { code: 'cancelled', mayRetry: false })
  }
  const ended = endedOf(reason === 'length', reader)
  watch.end(ended.reason)
  return ended
}

/** How an answer ended that was read to its end; `isAtLength`: no more could be drawn. */
export function endedOf(isAtLength: boolean, { isStopped, calls, stop }: AnswerReader): Ended {
  if (isAtLength && !isStopped) return { reason: 'length', stop }
  return { reason: calls > 0 ? 'tool_calls' : 'stop', stop }
}

/** The prompt of several answers is counted once, as clients expect, and as the first of them found it. */
export function usageOf(runs: readonly Answered[]): TokenUsage {
  const prompts = new Map<Int32Array, number>()
  for (const { choice, cachedTokens } of runs) {
    const { prompt } = choice.request
    prompts.set(prompt, Math.min(cachedTokens, prompts.get(prompt) ?? cachedTokens))
  }
  const sum = (of: (run: Answered) => number) => runs.reduce((total, run) => total + of(run), 0)
  return {
    promptTokens: [...prompts.keys()].reduce((total, prompt) => total + prompt.length, 0),
    cachedTokens: [...prompts.values()].reduce((total, cached) => total + cached, 0),
    completionTokens: sum(({ reader }) => reader.tokens),
    reasoningTokens: sum(({ reader }) => reader.reasoningTokens),
  }
}
