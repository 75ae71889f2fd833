// What a body of /v1/responses may hold, and the chat it stands for. Only what needs no memory of earlier
// responses is followed: the whole conversation comes as items, and items of one answer of the model
// (a thought, a text, calls) become one message again.
import { z } from 'zod'
import { flag, oneOf, whole } from '../model/fields.js'
import { isRecord } from '../model/json.js'
import type { Message } from '../model/template.js'
import { anyThinking, type Wishes } from './draw.js'
import { bareFormatOf, mayCall, textFormat } from './formats.js'
import { known } from './known.js'
import { type Chat, effortWishes } from './prompts.js'
import {
  choiceWords,
  drawing,
  effort,
  parsed,
  record,
  shaped,
  TOP_LOGPROBS_MAX,
  text,
  toolName,
  unsupported,
} from './schema.js'
import { templateCall, toolOf, toolsetOf } from './tools.js'

const partKinds = ['input_text', 'output_text', 'text']

const content = z.custom<string | readonly { readonly text: string }[]>(
  (value) =>
    typeof value === 'string' ||
    (Array.isArray(value) &&
      value.every(
        (part) =>
          isRecord(part) &&
          partKinds.some((kind) => kind === part.type) &&
          typeof part.text === 'string',
      )),
  'must be text, or a list of parts of type input_text or output_text: this model reads nothing else',
)

const roles = ['user', 'assistant', 'system', 'developer'] as const

const message = z.object({
  role: z.enum(roles, `must be one of ${roles.join(', ')}`),
  content,
})

const call = z.object({ call_id: text(), name: text(), arguments: text() })

const result = z.object({ call_id: text(), output: content })

const thought = z.object({
  content: z
    .array(z.object({ text: text() }, 'must be an object'), 'must be a list of parts')
    .nullish(),
})

const tool = z.object(
  {
    type: known(oneOf('function')),
    name: toolName(),
    description: text().nullish(),
    parameters: record('a JSON schema, an object').nullish(),
    strict: known(flag()).nullish(),
  },
  'must be an object',
)

const toolChoice = z.custom<'auto' | 'none' | 'required' | { name: string }>(
  (value) =>
    choiceWords.some((word) => word === value) ||
    (isRecord(value) && value.type === 'function' && typeof value.name === 'string'),
  `must be one of ${choiceWords.join(', ')}, or an object that names a function`,
)

const responsesShape = z.object({
  ...drawing,
  input: z.custom<string | unknown[]>(
    (value) => typeof value === 'string' || (Array.isArray(value) && value.length > 0),
    'must be text, or a list of items',
  ),
  instructions: text().nullish(),
  max_output_tokens: known(whole(1, 2 ** 30)).nullish(),
  top_logprobs: known(whole(0, TOP_LOGPROBS_MAX)).nullish(),
  include: z.array(text(), 'must be a list').nullish(),
  reasoning: z.object({ effort: effort.nullish() }, 'must be an object').nullish(),
  text: z.object({ format: textFormat.nullish() }, 'must be an object').nullish(),
  tools: z.array(tool, 'must be a list of tools').nullish(),
  tool_choice: toolChoice.nullish(),
  parallel_tool_calls: known(flag()).nullish(),
  background: known(flag()).nullish(),
  metadata: record('an object').nullish(),
})
export type ResponsesBody = z.output<typeof responsesShape>

/** What would need a memory that this server does not have. */
const refused: readonly (readonly [field: string, reason: string])[] = [
  ['previous_response_id', 'this server keeps no responses; send the conversation as input'],
  ['conversation', 'this server keeps no conversations; send it as input'],
  ['prompt', 'this server keeps no prompts; send them as instructions and input'],
]

/** Throws a Refusal that names the field. */
export function parsedResponses(value: unknown): ResponsesBody {
  for (const [field, reason] of refused) {
    if (isRecord(value) && (value[field] ?? null) !== null) throw unsupported(field, reason)
  }
  const body = parsed(responsesShape, value)
  if (body.background === true) throw unsupported('background', 'this server keeps no responses')
  return body
}

export function responsesWishes(body: ResponsesBody): Wishes {
  const top = body.top_logprobs ?? 0
  const areIncluded = body.include?.includes('message.output_text.logprobs') === true
  return {
    body: { ...body, n: 1 },
    maxTokens: body.max_output_tokens ?? null,
    maxTokensField: 'max_output_tokens',
    topLogprobs: areIncluded || top > 0 ? top : null,
    thinking: anyThinking,
    format: bareFormatOf(body.text?.format, 'text.format', mayCall(body)),
  }
}

/** The chat that the items stand for. Throws a Refusal that names the item at fault. */
export function responsesChat(body: ResponsesBody): Chat {
  const { instructions, input } = body
  const choice = body.tool_choice ?? 'auto'
  const messages: Message[] =
    (instructions ?? null) === null ? [] : [{ role: 'system', content: instructions ?? '' }]
  if (typeof input === 'string') messages.push({ role: 'user', content: input })
  else for (const [at, item] of input.entries()) addItem(messages, item, ['input', at])
  return {
    messages,
    tools: toolsetOf((body.tools ?? []).map(toolOf), choice, body.parallel_tool_calls === false),
    ...effortWishes(body.reasoning?.effort ?? null),
  }
}

function addItem(messages: Message[], item: unknown, place: readonly (string | number)[]): void {
  const fields = shaped(record('an object'), item, place)
  const type = fields.type ?? 'message'
  const last = messages.at(-1)
  const answer = last?.role === 'assistant' ? last : null
  if (type === 'message') {
    const { role, content: said } = shaped(message, item, place)
    const isFirst = answer !== null && answer.content === '' && answer.tool_calls === undefined
    if (role === 'assistant' && isFirst) answer.content = textOf(said)
    else messages.push({ role: role === 'developer' ? 'system' : role, content: textOf(said) })
  } else if (type === 'function_call') {
    const { call_id: id, ...named } = shaped(call, item, place)
    const calling: Message = answer ?? { role: 'assistant', content: '' }
    if (answer === null) messages.push(calling)
    calling.tool_calls = [...(calling.tool_calls ?? []), templateCall(id, named)]
  } else if (type === 'function_call_output') {
    const { call_id: id, output } = shaped(result, item, place)
    messages.push({ role: 'tool', tool_call_id: id, content: textOf(output) })
  } else if (type === 'reasoning') {
    const parts = shaped(thought, item, place).content ?? []
    messages.push({ role: 'assistant', content: '', reasoning_content: textOf(parts) })
  } else {
    throw unsupported([...place, 'type'].join('.'), 'this model takes messages, calls and thoughts')
  }
}

function textOf(said: string | readonly { readonly text: string }[]): string {
  return typeof said === 'string' ? said : said.map((part) => part.text).join('')
}
