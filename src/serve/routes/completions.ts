// POST /v1/completions: text continued as it is, without a template.
import type { FastifyInstance } from 'fastify'
import { answer } from '../answer.js'
import { completionWishes } from '../draw.js'
import { type Prompt, rawPrompt } from '../prompts.js'
import { badRequest } from '../refusal.js'
import { type CompletionBody, completionBody, parsed } from '../schema.js'
import { admit, answererOf, type Service } from '../service.js'
import { TextForm } from '../textform.js'

const PROMPTS_MAX = 128

export function addCompletions(app: FastifyInstance, service: Service): void {
  app.post('/v1/completions', (request, reply) => {
    const body = parsed(completionBody, request.body)
    const sources = sourcesOf(body)
    const wishes = completionWishes(body)
    const facts = service.keeper.readyFacts()
    const { contextTokens } = facts.plan
    const places = sources.length * (body.n ?? 1)
    return admit(service, request, reply, places, async (admission) => {
      const promptOf = (source: string | number[]): Promise<Prompt> | Prompt =>
        typeof source === 'string'
          ? service.prompts.ofText(source, contextTokens, admission.signal)
          : rawPrompt(Int32Array.from(source))
      const prompts = await Promise.all(sources.map(promptOf))
      const form = new TextForm(answererOf(service, facts), service.tokenizer, {
        hasLogprobs: wishes.topLogprobs !== null,
        includesUsage: body.stream_options?.include_usage === true,
      })
      return answer(service, reply, { prompts, wishes, facts, form }, admission)
    })
  })
}

/** One or several prompts, each text or token ids. */
export function sourcesOf({ prompt }: CompletionBody): (string | number[])[] {
  if (typeof prompt === 'string') return [prompt]
  if (prompt.length > PROMPTS_MAX && typeof prompt[0] !== 'number') {
    throw badRequest(`prompt may hold at most ${PROMPTS_MAX} prompts`, 'prompt')
  }
  return typeof prompt[0] === 'number' ? [prompt as number[]] : (prompt as (string | number[])[])
}
