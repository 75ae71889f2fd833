// The last part of the way that both families of answers share: prompts are read, their form is chosen,
// and what the engine draws goes out, streamed where that was asked for.
import type { FastifyReply } from 'fastify'
import type { EngineFacts } from '../engine/protocol.js'
import type { Tokenizer } from '../model/tokenizer.js'
import { deliver } from './deliver.js'
import { choicesOf, type Wishes } from './draw.js'
import type { Form, FormDetails, Identity, TokenUsage } from './form.js'
import type { Prompt } from './prompts.js'
import { type Admission, answererOf, type Service } from './service.js'

/** What is to be answered. */
export interface Question {
  readonly prompts: readonly Prompt[]
  readonly wishes: Wishes
  /** Of the engine that the prompts were read for. */
  readonly facts: EngineFacts
}

export function answer(
  service: Service,
  reply: FastifyReply,
  { prompts, wishes, facts }: Question,
  FormOf: new (identity: Identity, tokenizer: Tokenizer, details: FormDetails) => Form,
  { signal, leave }: Admission,
): Promise<TokenUsage> {
  const includesUsage = wishes.body.stream_options?.include_usage === true
  const details = { hasLogprobs: wishes.topLogprobs !== null, includesUsage }
  return deliver(service, reply, {
    choices: choicesOf(prompts, wishes, facts),
    form: new FormOf(answererOf(service, facts), service.tokenizer, details),
    streamed: wishes.body.stream === true ? { includesUsage } : null,
    signal,
    onDrawn: leave,
  })
}
