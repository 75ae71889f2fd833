// From a body's fields to what the engine is asked: sampling, lengths, stops, and one request for each
// answer. Left out, temperature and top_p are 1, as OpenAI has them. The n answers of one prompt have
// rising seeds, so the first is the one that n = 1 would give.
import { randomInt } from 'node:crypto'
import type { GrammarWish } from '../engine/grammar.js'
import type { EngineFacts } from '../engine/protocol.js'
import type { Sampling } from '../engine/sampling.js'
import type { Request } from '../engine/sequence.js'
import type { ThinkingLimit } from '../engine/thinkinglimit.js'
import type { ThinkingTags } from '../model/thinkingtags.js'
import { formatOf, mayCall } from './formats.js'
import type { FormatWish } from './grammars.js'
import type { Prompt } from './prompts.js'
import type { Reading } from './reader.js'
import { badRequest } from './refusal.js'
import {
  type ChatBody,
  type CompletionBody,
  type DrawingBody,
  shaped,
  thinkingBudget,
} from './schema.js'

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
  readonly thinking: ThinkingWish
  /** Absent: any text. */
  readonly format?: FormatWish | null
  /** Where the body has none; absent: a random one. */
  readonly seed?: number
}

/** How much may be thought. */
export interface ThinkingWish {
  /** Tokens; below 0: no limit; null: the server's own. */
  readonly budget: number | null
  /** The field that said so, for refusals. */
  readonly field: string
}

/** What the server has to end thinking with. */
export interface ThinkingMeans {
  /** Null: this tokenizer has no tokens for the tags, so nothing can end thinking. */
  readonly tags: ThinkingTags | null
  /** Tokens, where a request does not say; null: no limit. */
  readonly budget: number | null
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
  const isNew = (body.max_completion_tokens ?? null) !== null
  return {
    body,
    maxTokens,
    maxTokensField: isNew ? 'max_completion_tokens' : 'max_tokens',
    topLogprobs: logprobs === true ? (top ?? 0) : null,
    thinking: thinkingWishOf(body),
    format: formatOf(body.response_format, 'response_format', mayCall(body)),
  }
}

/** The names under which clients send it, the newest name of each server last. */
const budgetFields = [
  'reasoning_budget',
  'thinking_budget',
  'reasoning_budget_tokens',
  'thinking_budget_tokens',
  'thinking_token_budget',
] as const

/** Says nothing of how much may be thought. */
export const anyThinking: ThinkingWish = { budget: null, field: 'reasoning_budget' }

/** The first field that says a number: those of the body, then variables of the template. */
function thinkingWishOf(body: ChatBody): ThinkingWish {
  for (const field of budgetFields) {
    const budget = body[field] ?? null
    if (budget !== null) return { budget, field }
  }
  for (const name of budgetFields) {
    const value = body.chat_template_kwargs?.[name] ?? null
    if (value === null) continue
    const field = `chat_template_kwargs.${name}`
    return { budget: shaped(thinkingBudget, value, ['chat_template_kwargs', name]), field }
  }
  return anyThinking
}

/** Throws a Refusal where a limit is asked for that cannot be kept. */
function limitOf(
  { thinking }: Prompt,
  { budget: wish, field }: ThinkingWish,
  { tags, budget: usual }: ThinkingMeans,
): ThinkingLimit | undefined {
  const budget = wish ?? usual ?? -1
  if (budget < 0 || thinking === null) return undefined
  if (tags !== null) return { budget, tags, startsInside: thinking.startsInside }
  throw badRequest(
    `${field} is not supported: this model has no tokens for the tags of thinking, so nothing can end it early`,
    field,
    'unsupported_parameter',
  )
}

export function completionWishes(body: CompletionBody): Wishes {
  const maxTokens = body.max_tokens ?? COMPLETION_TOKENS
  return {
    body,
    maxTokens,
    maxTokensField: 'max_tokens',
    topLogprobs: body.logprobs ?? null,
    thinking: anyThinking,
    format: formatOf(body.response_format, 'response_format', false),
  }
}

/** Every answer that is asked for; throws a Refusal for what the model or its context cannot do. */
export function choicesOf(
  prompts: readonly Prompt[],
  wishes: Wishes,
  facts: Bounds,
  means: ThinkingMeans,
  schema: string | null = null,
): Choice[] {
  const { body } = wishes
  const isHeld = schema !== null || prompts.some(({ callSchema }) => callSchema !== null)
  if (isHeld && body.ignore_eos === true) {
    throw badRequest('ignore_eos does not go with a format: JSON has an end', 'ignore_eos')
  }
  const count = body.n ?? 1
  const seed = BigInt(body.seed ?? wishes.seed ?? randomInt(2 ** 32))
  const sampling = samplingOf(body, facts.config.vocabulary)
  const stopIds = body.ignore_eos === true ? [] : facts.config.eosIds
  const stops = [body.stop ?? []].flat()
  return prompts.flatMap((prompt, at) => {
    checkTokens(prompt.tokens, facts)
    const maxTokens = roomFor(prompt.tokens, wishes, facts)
    const thinking = limitOf(prompt, wishes.thinking, means)
    const grammar = grammarOf(schema, prompt, means)
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
        thinking,
        grammar,
      },
      reading: { thinking: prompt.thinking, calls: prompt.calls, stopIds, stops },
    }))
  })
}

/** Thinking comes first and is free, where it can be told from the answer; before a call none comes. */
function grammarOf(
  schema: string | null,
  { thinking, callSchema }: Prompt,
  { tags }: ThinkingMeans,
): GrammarWish | undefined {
  if (callSchema !== null) return { schema: callSchema, thinking: null }
  if (schema === null) return undefined
  if (thinking === null) return { schema, thinking }
  if (tags !== null) return { schema, thinking: { tags, startsInside: thinking.startsInside } }
  if (!thinking.startsInside) return { schema, thinking: null }
  throw badRequest(
    'a format is not supported while this model thinks: it has no tokens for the tags of thinking',
    null,
    'unsupported_parameter',
  )
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
