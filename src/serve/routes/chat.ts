// POST /v1/chat/completions
import type { FastifyInstance } from 'fastify'
import type { Message } from '../../model/template.js'
import { answer } from '../answer.js'
import { ChatForm } from '../chatform.js'
import { chatWishes } from '../draw.js'
import { type Chat, effortWishes } from '../prompts.js'
import { type ChatBody, chatBody, type MessageBody, parsed } from '../schema.js'
import { admit, answererOf, type Service } from '../service.js'
import { templateCall, toolOf, toolsetOf } from '../tools.js'

export function addChat(app: FastifyInstance, service: Service): void {
  app.post('/v1/chat/completions', (request, reply) => {
    const body = parsed(chatBody, request.body)
    const chat = chatOf(body)
    const wishes = chatWishes(body)
    const facts = service.keeper.readyFacts()
    return admit(service, request, reply, body.n ?? 1, async (admission) => {
      const { contextTokens } = facts.plan
      const held = await service.grammars.call(chat.tools, facts.config)
      const { signal } = admission
      const prompts = [await service.prompts.ofChat(chat, contextTokens, signal, held)]
      const form = new ChatForm(answererOf(service, facts), service.tokenizer, {
        hasLogprobs: wishes.topLogprobs !== null,
        includesUsage: body.stream_options?.include_usage === true,
      })
      return answer(service, reply, { prompts, wishes, facts, form }, admission)
    })
  })
}

type ChatFields = Pick<ChatBody, 'messages'> & Partial<ChatBody>

/** The chat that a body holds. Throws a Refusal where its tools and its choice do not fit. */
export function chatOf(body: ChatFields): Chat {
  const tools = (body.tools ?? []).map(({ function: one }) => toolOf(one))
  const choice = body.tool_choice ?? 'auto'
  const named = typeof choice === 'string' ? choice : choice.function
  const { enable_thinking: wish, ...others } = body.chat_template_kwargs ?? {}
  const { thinking, extra } = effortWishes(body.reasoning_effort ?? null)
  return {
    messages: body.messages.map(messageOf),
    tools: toolsetOf(tools, named, body.parallel_tool_calls === false),
    thinking: typeof wish === 'boolean' ? wish : thinking,
    extra: { ...extra, ...others },
  }
}

/** A message as templates know it: `developer` is the newer name of `system`. */
function messageOf(body: MessageBody): Message {
  const { role, content } = body
  const text = typeof content === 'string' ? content : (content ?? []).map((part) => part.text)
  const message: Message = {
    role: role === 'developer' ? 'system' : role,
    content: typeof text === 'string' ? text : text.join(''),
  }
  const reasoning = body.reasoning_content ?? body.reasoning ?? null
  if (reasoning !== null) message.reasoning_content = reasoning
  if ((body.tool_calls ?? null) !== null) {
    message.tool_calls = (body.tool_calls ?? []).map((call) =>
      templateCall(call.id ?? null, call.function),
    )
  }
  if ((body.tool_call_id ?? null) !== null) message.tool_call_id = body.tool_call_id ?? ''
  if ((body.name ?? null) !== null) message.name = body.name ?? ''
  return message
}
