// What a body of /v1/messages may hold, as Anthropic has it, and the chat it stands for: blocks of text,
// thoughts, uses of tools and their results. Blocks that carry something else are refused.
import { z } from 'zod'
import { flag, whole } from '../model/fields.js'
import { isRecord } from '../model/json.js'
import type { Message } from '../model/template.js'
import type { Wishes } from './draw.js'
import { bareFormatOf, outputFormat } from './formats.js'
import type { FormatWish } from './grammars.js'
import { known } from './known.js'
import type { Chat } from './prompts.js'
import { badRequest } from './refusal.js'
import {
  drawing,
  parsed,
  record,
  shaped,
  stopTexts,
  text,
  toolName,
  unsupported,
} from './schema.js'
import { type ToolChoice, templateCall, toolOf, toolsetOf } from './tools.js'

const STOPS_MAX = 16

const textBlocks = z.custom<string | readonly { readonly text: string }[]>(
  (value) => typeof value === 'string' || (Array.isArray(value) && value.every(isTextBlock)),
  'must be text, or a list of blocks of type text: this model reads nothing else',
)

function isTextBlock(block: unknown): boolean {
  return isRecord(block) && block.type === 'text' && typeof block.text === 'string'
}

const roles = ['user', 'assistant'] as const

const message = z.object(
  {
    role: z.enum(roles, `must be one of ${roles.join(', ')}`),
    content: z.custom<string | unknown[]>(
      (value) => typeof value === 'string' || Array.isArray(value),
      'must be text, or a list of blocks',
    ),
  },
  'must be an object',
)

const textBlock = z.object({ text: text() })
const thoughtBlock = z.object({ thinking: text() })
const useBlock = z.object({ id: text(), name: text(), input: record('an object') })
const resultBlock = z.object({ tool_use_id: text(), content: textBlocks.optional() })

const tool = z.object(
  {
    type: z
      .custom<string>((value) => value === 'custom', 'must be "custom": this server has no tools')
      .nullish(),
    name: toolName(),
    description: text().nullish(),
    input_schema: record('a JSON schema, an object'),
    strict: known(flag()).nullish(),
  },
  'must be an object',
)

const choices = ['auto', 'any', 'tool', 'none'] as const
const thoughts = ['enabled', 'disabled', 'adaptive'] as const

const messagesShape = z.object({
  ...drawing,
  messages: z.array(message, 'must be a list of messages').min(1, 'must not be empty'),
  max_tokens: known(whole(1, 2 ** 30)),
  system: textBlocks.nullish(),
  stop_sequences: stopTexts(STOPS_MAX).nullish(),
  thinking: z
    .object(
      {
        type: z.enum(thoughts, `must be one of ${thoughts.join(', ')}`),
        budget_tokens: known(whole(0, 2 ** 30)).nullish(),
      },
      'must be an object',
    )
    .nullish(),
  output_format: outputFormat.nullish(),
  output_config: z.object({ format: outputFormat.nullish() }, 'must be an object').nullish(),
  tools: z.array(tool, 'must be a list of tools').nullish(),
  tool_choice: z
    .object(
      {
        type: z.enum(choices, `must be one of ${choices.join(', ')}`),
        name: text().nullish(),
        disable_parallel_tool_use: known(flag()).nullish(),
      },
      'must be an object',
    )
    .nullish(),
})
export type MessagesBody = z.output<typeof messagesShape>

/** Of a body that is only to be counted, the length of the answer may be left out. */
const countedShape = messagesShape.extend({ max_tokens: messagesShape.shape.max_tokens.nullish() })

const refused = ['container', 'mcp_servers'] as const

/** Throws a Refusal that names the field. */
export function parsedMessages(value: unknown): MessagesBody {
  refuseFields(value)
  return parsed(messagesShape, value)
}

export function parsedForCount(value: unknown): Omit<MessagesBody, 'max_tokens'> {
  refuseFields(value)
  return parsed(countedShape, value)
}

function refuseFields(value: unknown): void {
  if (!isRecord(value)) return
  for (const field of refused) {
    if ((value[field] ?? null) !== null) throw unsupported(field, 'this server has no such thing')
  }
}

export function messagesWishes(body: MessagesBody): Wishes {
  const { stop_sequences: stop, max_tokens: maxTokens } = body
  const { type, budget_tokens: budget } = body.thinking ?? {}
  return {
    body: { ...body, stop, n: 1 },
    maxTokens,
    maxTokensField: 'max_tokens',
    topLogprobs: null,
    thinking: {
      budget: type === 'enabled' ? (budget ?? null) : null,
      field: 'thinking.budget_tokens',
    },
    format: messagesFormat(body),
  }
}

/** The newer name goes first. */
function messagesFormat(body: MessagesBody): FormatWish | null {
  const mayBeCall = (body.tools ?? []).length > 0 && body.tool_choice?.type !== 'none'
  const named = body.output_config?.format ?? null
  return named === null
    ? bareFormatOf(body.output_format, 'output_format', mayBeCall)
    : bareFormatOf(named, 'output_config.format', mayBeCall)
}

/** The chat that the blocks stand for. Throws a Refusal that names the block at fault. */
export function messagesChat(body: Omit<MessagesBody, 'max_tokens'>): Chat {
  const messages: Message[] = []
  const system = textOf(body.system ?? '')
  if (system !== '') messages.push({ role: 'system', content: system })
  for (const [at, { role, content }] of body.messages.entries()) {
    const blocks = typeof content === 'string' ? [{ type: 'text', text: content }] : content
    const place = ['messages', at, 'content']
    if (role === 'user') messages.push(...questionsOf(blocks, place))
    else messages.push(answerOf(blocks, place))
  }
  if (messages.at(-1)?.role === 'assistant') {
    throw badRequest('the last message must be of role user: answers are not continued', 'messages')
  }
  const { type, budget_tokens: budget } = body.thinking ?? {}
  const tools = (body.tools ?? []).map(({ input_schema: parameters, ...fields }) =>
    toolOf({ ...fields, parameters }),
  )
  const isSingle = body.tool_choice?.disable_parallel_tool_use === true
  return {
    messages,
    tools: toolsetOf(tools, choiceOf(body.tool_choice ?? null), isSingle),
    thinking: type === undefined ? undefined : type !== 'disabled' && budget !== 0,
    extra: {},
  }
}

function choiceOf(choice: MessagesBody['tool_choice'] | null): ToolChoice {
  const { type = 'auto', name } = choice ?? {}
  if (type === 'any') return 'required'
  if (type !== 'tool') return type
  return { name: shaped(text(), name, ['tool_choice', 'name']) }
}

type Place = readonly (string | number)[]

/** What a person said, and before it the results of tools, each a message of its own. */
function questionsOf(blocks: readonly unknown[], place: Place): Message[] {
  const messages: Message[] = []
  let said: string | null = null
  for (const [at, block] of blocks.entries()) {
    const here = [...place, at]
    const { type } = shaped(record('an object'), block, here)
    if (type === 'text') {
      said = (said ?? '') + shaped(textBlock, block, here).text
    } else if (type === 'tool_result') {
      const { tool_use_id: id, content } = shaped(resultBlock, block, here)
      messages.push({ role: 'tool', tool_call_id: id, content: textOf(content ?? '') })
    } else {
      throw unsupported([...here, 'type'].join('.'), 'a user may say text and results of tools')
    }
  }
  if (said !== null || messages.length === 0) messages.push({ role: 'user', content: said ?? '' })
  return messages
}

function answerOf(blocks: readonly unknown[], place: Place): Message {
  const message: Message = { role: 'assistant', content: '' }
  for (const [at, block] of blocks.entries()) {
    const here = [...place, at]
    const { type } = shaped(record('an object'), block, here)
    if (type === 'text') {
      message.content += shaped(textBlock, block, here).text
    } else if (type === 'thinking') {
      const { thinking } = shaped(thoughtBlock, block, here)
      message.reasoning_content = (message.reasoning_content ?? '') + thinking
    } else if (type === 'tool_use') {
      const { id, name, input } = shaped(useBlock, block, here)
      const call = templateCall(id, { name, arguments: JSON.stringify(input) })
      message.tool_calls = [...(message.tool_calls ?? []), call]
    } else if (type !== 'redacted_thinking') {
      throw unsupported(
        [...here, 'type'].join('.'),
        'an answer has text, thoughts and uses of tools',
      )
    }
  }
  return message
}

function textOf(said: string | readonly { readonly text: string }[]): string {
  return typeof said === 'string' ? said : said.map((block) => block.text).join('')
}
