// POST /v1/chat/completions
import type { FastifyInstance } from 'fastify'
import type { Message } from '../../model/template.js'
import { answer } from '../answer.js'
import { ChatForm } from '../chatform.js'
import { chatWishes } from '../draw.js'
import { chatBody, type MessageBody, parsed } from '../schema.js'
import { admit, type Service } from '../service.js'

export function addChat(app: FastifyInstance, service: Service): void {
  app.post('/v1/chat/completions', (request, reply) => {
    const body = parsed(chatBody, request.body)
    const wishes = chatWishes(body)
    const facts = service.keeper.readyFacts()
    return admit(service, request, reply, body.n ?? 1, async (admission) => {
      const prompt = await service.prompts.ofChat(
        body.messages.map(messageOf),
        body.chat_template_kwargs ?? {},
        facts.plan.contextTokens,
        admission.signal,
      )
      const question = { prompts: [prompt], wishes, facts }
      return answer(service, reply, question, ChatForm, admission)
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
