// The last part of the way that all families of answers share: what the engine draws for prompts goes
// out in the family's form, streamed where that was asked for.
import type { FastifyReply } from 'fastify'
import type { EngineFacts } from '../engine/protocol.js'
import { deliver } from './deliver.js'
import { choicesOf, type Wishes } from './draw.js'
import type { Form, TokenUsage } from './form.js'
import type { Prompt } from './prompts.js'
import type { Admission, Service } from './service.js'

/** What is to be answered. */
export interface Question {
  readonly prompts: readonly Prompt[]
  readonly wishes: Wishes
  /** Of the engine that the prompts were read for. */
  readonly facts: EngineFacts
  readonly form: Form
}

export async function answer(
  service: Service,
  reply: FastifyReply,
  { prompts, wishes, facts, form }: Question,
  { signal, leave }: Admission,
): Promise<TokenUsage> {
  const { format = null } = wishes
  const schema = format === null ? null : await service.grammars.tried(format, facts.config)
  signal.throwIfAborted()
  return deliver(service, reply, {
    choices: choicesOf(prompts, wishes, facts, service.thinking, schema),
    form,
    isStreamed: wishes.body.stream === true,
    signal,
    onDrawn: leave,
  })
}
