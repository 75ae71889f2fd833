// POST /v1/messages and its counting of tokens, as Anthropic has them; errors have its shape too.
import type { FastifyInstance, FastifyReply } from 'fastify'
import { answer } from '../answer.js'
import { Exchange } from '../exchange.js'
import { sendError } from '../faults.js'
import { messagesChat, messagesWishes, parsedForCount, parsedMessages } from '../messagesbody.js'
import { errorOf, MessagesForm } from '../messagesform.js'
import { admit, answererOf, type Service } from '../service.js'

export function addMessages(app: FastifyInstance, service: Service): void {
  app.register(async (scope) => {
    scope.setErrorHandler((error, _request, reply: FastifyReply) =>
      sendError(error, reply, service.log, errorOf),
    )

    scope.post('/v1/messages', (request, reply) => {
      const body = parsedMessages(request.body)
      const chat = messagesChat(body)
      const wishes = messagesWishes(body)
      const facts = service.keeper.readyFacts()
      return admit(service, request, reply, 1, async (admission) => {
        const { contextTokens } = facts.plan
        const held = await service.grammars.call(chat.tools, facts.config)
        const { signal } = admission
        const prompts = [await service.prompts.ofChat(chat, contextTokens, signal, held)]
        const form = new MessagesForm(answererOf(service, facts))
        return answer(service, reply, { prompts, wishes, facts, form }, admission)
      })
    })

    scope.post('/v1/messages/count_tokens', async (request, reply) => {
      const chat = messagesChat(parsedForCount(request.body))
      const { contextTokens } = service.keeper.readyFacts().plan
      const exchange = new Exchange(reply.raw, service.shutdown.signal, service.deadlineMs)
      try {
        const { tokens } = await service.prompts.ofChat(chat, contextTokens, exchange.signal)
        return { input_tokens: tokens.length }
      } finally {
        exchange.dispose()
      }
    })
  })
}
