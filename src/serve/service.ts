// What all routes share: the model behind the server, and the way in: a place at the gate, a deadline,
// an end when the client leaves. One line of log for each request that the engine worked for, and
// nothing of its text.
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Engine } from '../engine/engine.js'
import type { GrammarThreads } from '../engine/grammarthreads.js'
import type { EngineFacts } from '../engine/protocol.js'
import type { Tokenizer } from '../model/tokenizer.js'
import type { ThinkingMeans } from './draw.js'
import { Exchange } from './exchange.js'
import { type Identity, identityOf, type TokenUsage } from './form.js'
import type { Gate } from './gate.js'
import type { GrammarTrials } from './grammars.js'
import type { Keeper } from './keeper.js'
import type { Metrics } from './metrics.js'
import type { Prompts } from './prompts.js'
import { Refusal } from './refusal.js'
import type { Streams } from './streams.js'

/** What whoever starts the server decides. */
export interface ServiceWishes {
  /** What clients call the model; never a path. */
  readonly model: string
  readonly folder: string
  readonly tokenizer: Tokenizer
  readonly version: string
  /** Sequences in work at once, as many as the engine is opened for. */
  readonly parallel: number
  /** Sequences that may wait beside them. */
  readonly queue: number
  /** For a whole request. */
  readonly deadlineMs: number
  /** After so long a silence a stream says that it lives. */
  readonly keepAliveMs: number
  /** Tokens that may be thought where a request does not say; null: no limit. */
  readonly reasoningBudget: number | null
  /** Whether what is said is told to whoever may see the telemetry. */
  readonly showsText?: boolean | undefined
  /** Of the drive, bytes per second; absent: it is not known. */
  readonly ceiling?: number | undefined
  /** Opens the model; answers are held to grammars by the threads that it is given. */
  readonly open: (grammars: GrammarThreads) => Promise<Engine>
  readonly log: (line: string) => void
}

export interface Service extends ServiceWishes {
  /** When the server began, seconds. */
  readonly created: number
  readonly keeper: Keeper
  readonly prompts: Prompts
  readonly grammars: GrammarTrials
  readonly gate: Gate
  readonly thinking: ThinkingMeans
  readonly metrics: Metrics
  /** What requests said; null: nobody is told. */
  readonly streams: Streams | null
  /** Aborted when what is still in work shall end. */
  readonly shutdown: AbortController
}

/** Who answers, once it is known what computes. */
export function answererOf({ model, version }: Service, facts: EngineFacts): Identity {
  return identityOf(model, version, facts.device, facts.plan.kvType)
}

/** What the work of a request is given. */
export interface Admission {
  readonly signal: AbortSignal
  /** Gives the places back before the work is over; may be called again. */
  readonly leave: () => void
}

/** Does the work of a request that takes `places` at the gate. Throws Refusals. */
export async function admit(
  service: Service,
  request: FastifyRequest,
  reply: FastifyReply,
  places: number,
  work: (admission: Admission) => Promise<TokenUsage>,
): Promise<FastifyReply> {
  const leave = service.gate.enter(places)
  const exchange = new Exchange(reply.raw, service.shutdown.signal, service.deadlineMs)
  const begin = performance.now()
  const log = (outcome: string) => {
    const seconds = ((performance.now() - begin) / 1000).toFixed(2)
    service.log(`${request.method} ${request.routeOptions.url}: ${outcome}, ${seconds} s`)
  }
  try {
    const { promptTokens, cachedTokens, completionTokens } = await work({
      signal: exchange.signal,
      leave,
    })
    const known = cachedTokens > 0 ? ` (${cachedTokens} cached)` : ''
    log(`${promptTokens}${known} + ${completionTokens} tokens`)
  } catch (error) {
    log(error instanceof Refusal ? `refused with ${error.status}` : 'failed')
    // The client has its answer, or what there was of it, or is gone.
    if (reply.sent || reply.raw.headersSent) return reply
    throw error
  } finally {
    exchange.dispose()
    leave()
  }
  return reply
}
