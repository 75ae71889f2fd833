// POST /tokenize and /detokenize: text and chats to token ids, and back. They take no place at the
// gate, since the engine has no work with them; the queue of prompts has its own bound.
import type { FastifyInstance } from 'fastify'
import { Exchange } from '../exchange.js'
import { badRequest } from '../refusal.js'
import { detokenizeBody, parsed, tokenizeBody } from '../schema.js'
import type { Service } from '../service.js'
import { chatOf } from './chat.js'

export function addTokens(app: FastifyInstance, service: Service): void {
  app.post('/tokenize', async (request, reply) => {
    const body = parsed(tokenizeBody, request.body)
    const { contextTokens } = service.keeper.readyFacts().plan
    const text = body.content ?? body.prompt ?? null
    const messages = body.messages ?? null
    const exchange = new Exchange(reply.raw, service.shutdown.signal, service.deadlineMs)
    const { signal } = exchange
    try {
      if (text === null && messages === null) {
        throw badRequest('content must be text, or messages must be given', 'content')
      }
      const { tokens } =
        text === null
          ? await service.prompts.ofChat(
              chatOf({ ...body, messages: messages ?? [] }),
              contextTokens,
              signal,
            )
          : await service.prompts.ofText(text, contextTokens, signal)
      return { tokens: [...tokens], count: tokens.length, max_model_len: contextTokens }
    } finally {
      exchange.dispose()
    }
  })

  app.post('/detokenize', async (request) => {
    const { tokens } = parsed(detokenizeBody, request.body)
    const text = service.tokenizer.decode(tokens, { keepSpecial: true })
    return { content: text, prompt: text }
  })
}
