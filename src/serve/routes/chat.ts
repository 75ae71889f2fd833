// POST /v1/chat/completions
import type { FastifyInstance } from 'fastify'
import type { Message } from '../../model/template.js'
import { ChatForm } from '../chatform.js'
import { deliver } from '../deliver.js'
import { chatWishes, choicesOf } from '../draw.js'
import { chatBody, type MessageBody, parsed } from '../schema.js'
import { admit, answererOf, type Service } from '../service.js'

export function addChat(app: FastifyInstance, service: Service): void {
  app.post('/v1/chat/completions', (request, reply) => {
    const body = parsed(chatBody, request.body)
    const wishes = chatWishes(body)
    const facts = service.keeper.readyFacts()
    return admit(service, request, reply, body.n ?? 1, async ({ signal, leave }) => {
      const prompt = await service.prompts.ofChat(
        body.messages.map(messageOf),
        body.chat_template_kwargs ?? {},
        facts.plan.contextTokens,
        signal,
      )
      const includesUsage = body.stream_options?.include_usage === true
      const hasLogprobs = wishes.topLogprobs !== null
      return deliver(service, reply, {
        choices: choicesOf([prompt], wishes, facts),
        form: new ChatForm(
          answererOf(service, facts),
          service.tokenizer,
          hasLogprobs,
          includesUsage,
        ),
        streamed: body.stream === true ? { includesUsage } : null,
        signal,
        onDrawn: leave,
      })
    })
  })
}

/** A message as templates know it: `developer` is the newer name of `system`. */
export function messageOf(body: MessageBody): Message {
  const { role, content } = body
  const text = typeof content === 'string' ? content : (content ?? []).map((part) => part.text)
  const message: Message = {
    role: role === 'developer' ? 'system' : role,
    content: typeof text === 'string' ? text : text.join(''),
  }
  const reasoning = body.reasoning_content ?? body.reasoning ?? null
  if (reasoning !== null) message.reasoning_content = reasoning
  if ((body.tool_calls ?? null) !== null) message.tool_calls = body.tool_calls ?? []
  if ((body.tool_call_id ?? null) !== null) message.tool_call_id = body.tool_call_id ?? ''
  if ((body.name ?? null) !== null) message.name = body.name ?? ''
  return message
}
