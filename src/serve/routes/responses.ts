// POST /v1/responses, as far as it needs no memory of earlier responses.
import type { FastifyInstance } from 'fastify'
import { answer } from '../answer.js'
import { Refusal } from '../refusal.js'
import { parsedResponses, responsesChat, responsesWishes } from '../responsesbody.js'
import { ResponsesForm } from '../responsesform.js'
import { admit, answererOf, type Service } from '../service.js'

export function addResponses(app: FastifyInstance, service: Service): void {
  app.post('/v1/responses', (request, reply) => {
    const body = parsedResponses(request.body)
    const chat = responsesChat(body)
    const wishes = responsesWishes(body)
    const facts = service.keeper.readyFacts()
    return admit(service, request, reply, 1, async (admission) => {
      const { contextTokens } = facts.plan
      const held = await service.grammars.call(chat.tools, facts.config)
      const { signal } = admission
      const prompts = [await service.prompts.ofChat(chat, contextTokens, signal, held)]
      const identity = answererOf(service, facts)
      const hasLogprobs = wishes.topLogprobs !== null
      const form = new ResponsesForm(identity, service.tokenizer, body, hasLogprobs)
      return answer(service, reply, { prompts, wishes, facts, form }, admission)
    })
  })

  app.all('/v1/responses/*', async () => {
    throw new Refusal(404, 'this server keeps no responses', { code: 'not_found' })
  })
}
