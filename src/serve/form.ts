// What the families of responses have in common: who answers, how an answer ended, what it cost, and what
// a form must give: events of a stream, or one object. Forms know the wire; they know no engine. The
// events of one response are asked for in the order in which they are sent.
import { createHash, randomUUID } from 'node:crypto'
import type { Emission } from '../engine/loop.js'
import type { Delta } from './reader.js'
import type { Refusal } from './refusal.js'

/** How an answer ended. */
export interface Ended {
  readonly reason: 'stop' | 'length' | 'tool_calls'
  /** The stop text that ended it. */
  readonly stop: string | null
}

/** Who answers: the same in every object of the server. */
export interface Identity {
  readonly model: string
  /** Changes with whatever may change answers: program, model, what computes. */
  readonly fingerprint: string
}

export function identityOf(model: string, ...parts: readonly string[]): Identity {
  const digest = createHash('sha256')
    .update([model, ...parts].join('\n'))
    .digest('hex')
  return { model, fingerprint: `fp_${digest.slice(0, 10)}` }
}

/** What a response and its parts are called, and when it was made. */
export interface Naming {
  /** Seconds since 1970. */
  readonly created: number
  /** 32 hexadecimal digits, others with every call. */
  nextId(): string
}

/** Names by chance, and the time that it is. */
export function newNaming(): Naming {
  return {
    created: Math.floor(Date.now() / 1000),
    nextId: () => randomUUID().replaceAll('-', ''),
  }
}

/** An answer that is over. */
export interface Told {
  readonly index: number
  readonly deltas: readonly Delta[]
  readonly ended: Ended
}

export interface TokenUsage {
  readonly promptTokens: number
  /** Of those, how many were known from earlier requests. */
  readonly cachedTokens: number
  readonly completionTokens: number
  readonly reasoningTokens: number
}

/** An event of a stream; `name` where the protocol names its events. */
export interface WireEvent {
  readonly name: string | null
  readonly data: object | '[DONE]'
}

/** One response, streamed or given whole. */
export interface Form {
  /** What begins an answer to a prompt of so many tokens. */
  opening(index: number, promptTokens: number): WireEvent[]
  /** None where the delta says nothing. */
  delta(index: number, delta: Delta): WireEvent[]
  /** What ends an answer. */
  finish(index: number, ended: Ended): WireEvent[]
  /** What comes when all answers have ended. */
  closing(usage: TokenUsage): WireEvent[]
  /** The last event of a stream that breaks off. */
  failure(refusal: Refusal): WireEvent
  whole(answers: readonly Told[], usage: TokenUsage): object
}

export function usageObject({
  promptTokens,
  cachedTokens,
  completionTokens,
  reasoningTokens,
}: TokenUsage): object {
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    prompt_tokens_details: { cached_tokens: cachedTokens },
    completion_tokens_details: { reasoning_tokens: reasoningTokens },
  }
}

export function joined(deltas: readonly Delta[], kind: 'reasoning' | 'text'): string {
  return deltas.map((delta) => (delta.kind === kind ? delta.text : '')).join('')
}

export function tokensOf(deltas: readonly Delta[], kind: 'reasoning' | 'text'): Emission[] {
  return deltas.flatMap((delta) => (delta.kind === kind ? delta.tokens : []))
}

const PIECE_CHARS = 64

/** A long text of arguments in pieces, as clients expect it in a stream; never half a character. */
export function piecesOf(text: string): string[] {
  const pieces: string[] = []
  for (let begin = 0; begin < text.length; ) {
    let end = begin + PIECE_CHARS
    if (/[\ud800-\udbff]/.test(text[end - 1] ?? '')) end += 1
    pieces.push(text.slice(begin, end))
    begin = end
  }
  return pieces
}

/** JSON has no infinity; this is what OpenAI gives for what is as good as impossible. */
export function finite(logprob: number): number {
  return Number.isFinite(logprob) ? logprob : -9999
}
