// What the two families of responses have in common: who answers, how usage is counted, and the
// objects that a form must give. Forms know the wire; they know no engine.
import { createHash } from 'node:crypto'
import type { Delta } from './reader.js'

export type WireReason = 'stop' | 'length'

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

/** An answer that is over. */
export interface Told {
  readonly index: number
  readonly deltas: readonly Delta[]
  readonly reason: WireReason
}

export interface TokenUsage {
  readonly promptTokens: number
  readonly completionTokens: number
  readonly reasoningTokens: number
}

/** What of it a client wants to see. */
export interface FormDetails {
  readonly hasLogprobs: boolean
  readonly includesUsage: boolean
}

/** One response, streamed as chunks or given whole. */
export interface Form {
  /** The chunk that begins an answer; null: there is none. */
  opening(index: number): object | null
  /** The chunk of a delta; null where it says nothing. */
  delta(index: number, delta: Delta): object | null
  /** The chunk that ends an answer. */
  finish(index: number, reason: WireReason): object
  /** The last chunk, where usage was asked for. */
  usage(usage: TokenUsage): object
  whole(answers: readonly Told[], usage: TokenUsage): object
}

export function usageObject({
  promptTokens,
  completionTokens,
  reasoningTokens,
}: TokenUsage): object {
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    prompt_tokens_details: { cached_tokens: 0 },
    completion_tokens_details: { reasoning_tokens: reasoningTokens },
  }
}

export function joined(deltas: readonly Delta[], kind: Delta['kind']): string {
  return deltas
    .filter((delta) => delta.kind === kind)
    .map(({ text }) => text)
    .join('')
}

/** JSON has no infinity; this is what OpenAI gives for what is as good as impossible. */
export function finite(logprob: number): number {
  return Number.isFinite(logprob) ? logprob : -9999
}
