// From a body's fields to what the engine is asked: sampling, lengths, stops, and one request for each
// answer. Left out, temperature and top_p are 1, as OpenAI has them. The n answers of one prompt have
// rising seeds, so the first is the one that n = 1 would give.
import { randomInt } from 'node:crypto'
import type { EngineFacts } from '../engine/protocol.js'
import type { Sampling } from '../engine/sampling.js'
import type { Request } from '../engine/sequence.js'
import type { Prompt } from './prompts.js'
import type { Reading } from './reader.js'
import { badRequest } from './refusal.js'
import type { ChatBody, CompletionBody, DrawingBody } from './schema.js'

/** An answer to be drawn, and how it is read. */
export interface Choice {
  /** Its number in the response. */
  readonly index: number
  readonly request: Request
  readonly reading: Reading
}

/** What is asked for beside the prompts. */
export interface Wishes {
  readonly body: DrawingBody
  /** Null: all that the context leaves. */
  readonly maxTokens: number | null
  /** The field that said so, for refusals. */
  readonly maxTokensField: string
  /** Null: no log-probabilities; else how many others beside the drawn token. */
  readonly topLogprobs: number | null
  /** Where the body has none; absent: a random one. */
  readonly seed?: number
}

/** What of an engine decides whether a request can be followed. */
export type Bounds = Pick<EngineFacts, 'config'> & {
  readonly plan: Pick<EngineFacts['plan'], 'contextTokens'>
}

/** What a completion gives when it does not say how much it wants. */
const COMPLETION_TOKENS = 16

export function chatWishes(body: ChatBody): Wishes {
  const { logprobs, top_logprobs: top } = body
  if ((top ?? 0) > 0 && logprobs !== true) {
    throw badRequest('top_logprobs needs logprobs to be true', 'top_logprobs')
  }
  const maxTokens = body.max_completion_tokens ?? body.max_tokens ?? null
  checkThinkingBudget(body.reasoning_budget ?? null, maxTokens, 'reasoning_budget')
  const isNew = (body.max_completion_tokens ?? null) !== null
  return {
    body,
    maxTokens,
    maxTokensField: isNew ? 'max_completion_tokens' : 'max_tokens',
    topLogprobs: logprobs === true ? (top ?? 0) : null,
  }
}

/**
 * Refuses a budget of thinking that could end the thinking early: nothing can make the model close its
 * thoughts yet. One that leaves no room for an answer, or none at all (null, -1), bounds nothing.
 */
export function checkThinkingBudget(
  budget: number | null,
  maxTokens: number | null,
  field: string,
): void {
  if (budget === null || budget < 0) return
  if (maxTokens !== null && budget + 1 >= maxTokens) return
  throw badRequest(
    `${field} is not supported: this server cannot end the model's thinking early; leave it out, or ask for no thinking`,
    field,
    'unsupported_parameter',
  )
}

export function completionWishes(body: CompletionBody): Wishes {
  const maxTokens = body.max_tokens ?? COMPLETION_TOKENS
  return { body, maxTokens, maxTokensField: 'max_tokens', topLogprobs: body.logprobs ?? null }
}

/** Every answer that is asked for; throws a Refusal for what the model or its context cannot do. */
export function choicesOf(prompts: readonly Prompt[], wishes: Wishes, facts: Bounds): Choice[] {
  const { body } = wishes
  const count = body.n ?? 1
  const seed = BigInt(body.seed ?? wishes.seed ?? randomInt(2 ** 32))
  const sampling = samplingOf(body, facts.config.vocabulary)
  const stopIds = body.ignore_eos === true ? [] : facts.config.eosIds
  const stops = [body.stop ?? []].flat()
  return prompts.flatMap((prompt, at) => {
    checkTokens(prompt.tokens, facts)
    const maxTokens = roomFor(prompt.tokens, wishes, facts)
    return Array.from({ length: count }, (_, nth) => ({
      index: at * count + nth,
      request: {
        prompt: prompt.tokens,
        maxTokens,
        stopIds,
        sampling: { ...sampling, seed: BigInt.asUintN(64, seed + BigInt(nth)) },
        topLogprobs: wishes.topLogprobs ?? 0,
        score: false,
        routing: false,
      },
      reading: { thinking: prompt.thinking, calls: prompt.calls, stopIds, stops },
    }))
  })
}

function checkTokens(tokens: Int32Array, { config }: Bounds): void {
  if (tokens.length === 0) {
    throw badRequest('the prompt is empty: it has no token to start from', 'prompt')
  }
  const strange = tokens.find((token) => token >= config.vocabulary)
  if (strange !== undefined) {
    throw badRequest(
      `the prompt has token ${strange}, and this model has ids 0 to ${config.vocabulary - 1}`,
      'prompt',
    )
  }
}

/** How many tokens may be drawn. */
function roomFor(tokens: Int32Array, wishes: Wishes, { plan }: Bounds): number {
  const { contextTokens } = plan
  const left = contextTokens - tokens.length
  const wanted = wishes.maxTokens ?? left
  if (left >= 1 && wanted <= left) return wanted
  const asked = wishes.maxTokens === null ? '' : ` and ${wishes.maxTokens} more are asked for`
  throw badRequest(
    `the prompt has ${tokens.length} tokens${asked}; the context holds ${contextTokens} with the answer`,
    left < 1 ? null : wishes.maxTokensField,
    'context_length_exceeded',
  )
}

function samplingOf(body: DrawingBody, vocabulary: number): Sampling {
  const biases = Object.entries(body.logit_bias ?? {}).map(
    ([id, bias]) => [Number(id), bias] as const,
  )
  const strange = biases.find(([id]) => id >= vocabulary)
  if (strange !== undefined) {
    throw badRequest(
      `logit_bias names token ${strange[0]}, and this model has ids 0 to ${vocabulary - 1}`,
      'logit_bias',
    )
  }
  return {
    temperature: body.temperature ?? 1,
    topK: Math.max(0, body.top_k ?? 0),
    // The engine wants a share above 0; the smallest is the likeliest token alone.
    topP: Math.max(Number.EPSILON, body.top_p ?? 1),
    minP: body.min_p ?? 0,
    repetitionPenalty: body.repetition_penalty ?? 1,
    presencePenalty: body.presence_penalty ?? 0,
    frequencyPenalty: body.frequency_penalty ?? 0,
    seed: 0n,
    biases,
  }
}
