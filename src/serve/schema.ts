// What a body may hold: the fields that are known, with their bounds. Fields that are not known are
// ignored, as clients send more every year; fields that are known and would change the answer, but
// cannot be followed, are refused. null is as good as left out. The first thing that is wrong becomes
// one sentence with the field's name.
import { z } from 'zod'
import { shown } from '../model/error.js'
import { atLeast, flag, oneOf, real, valueAt, whole } from '../model/fields.js'
import { isRecord } from '../model/json.js'
import { responseFormat } from './formats.js'
import { known } from './known.js'
import { badRequest } from './refusal.js'

const CHOICES_MAX = 128
const STOPS_MAX = 4
const STOP_CHARS_MAX = 1024
const BIASES_MAX = 1024
export const TOP_LOGPROBS_MAX = 20

export function text() {
  return z.custom<string>((value) => typeof value === 'string', 'must be text')
}

export function record(what: string) {
  return z.custom<Record<string, unknown>>(isRecord, `must be ${what}`)
}

/** The name of a tool. */
export function toolName() {
  return z.custom<string>(
    (value) => typeof value === 'string' && /^[\w.-]{1,128}$/.test(value),
    'must be a name of at most 128 letters, digits, _, - and .',
  )
}

function isStop(value: unknown): value is string {
  return typeof value === 'string' && value !== '' && value.length <= STOP_CHARS_MAX
}

const stop = z.custom<string | string[]>(
  (value) => isStop(value) || areStops(value, STOPS_MAX),
  `must be text or a list of at most ${STOPS_MAX}, each of 1 to ${STOP_CHARS_MAX} characters`,
)

export function stopTexts(most: number) {
  return z.custom<string[]>(
    (value) => areStops(value, most),
    `must be a list of at most ${most} texts, each of 1 to ${STOP_CHARS_MAX} characters`,
  )
}

function areStops(value: unknown, most: number): boolean {
  return Array.isArray(value) && value.length <= most && value.every(isStop)
}

const logitBias = z.custom<Record<string, number>>(
  (value) =>
    isRecord(value) &&
    Object.keys(value).length <= BIASES_MAX &&
    Object.entries(value).every(
      ([id, bias]) =>
        /^\d{1,8}$/.test(id) && typeof bias === 'number' && bias >= -100 && bias <= 100,
    ),
  `must be an object of at most ${BIASES_MAX} token ids, each with a number from -100 to 100`,
)

const seed = z.custom<number>(
  (value) => Number.isSafeInteger(value),
  'must be a whole number of at most 53 bits',
)

/** What completions and chats have in common. */
export const drawing = {
  temperature: known(atLeast(0, 2)).nullish(),
  top_p: known(atLeast(0, 1)).nullish(),
  top_k: known(whole(-1, 2 ** 24)).nullish(),
  min_p: known(atLeast(0, 1)).nullish(),
  repetition_penalty: known(real(0, 100)).nullish(),
  presence_penalty: known(atLeast(-2, 2)).nullish(),
  frequency_penalty: known(atLeast(-2, 2)).nullish(),
  logit_bias: logitBias.nullish(),
  seed: seed.nullish(),
  stop: stop.nullish(),
  n: known(whole(1, CHOICES_MAX)).nullish(),
  max_tokens: known(whole(1, 2 ** 30)).nullish(),
  ignore_eos: known(flag()).nullish(),
  stream: known(flag()).nullish(),
  stream_options: z
    .object({ include_usage: known(flag()).nullish() }, 'must be an object')
    .nullish(),
}

const drawingBody = z.object(drawing)
export type DrawingBody = z.output<typeof drawingBody>

/** A message's content: text, or a list of parts that are text. */
const content = z.custom<string | readonly { readonly text: string }[] | null | undefined>(
  (value) =>
    (value ?? null) === null ||
    typeof value === 'string' ||
    (Array.isArray(value) && value.every(isTextPart)),
  'must be text, or a list of parts of type text: this model reads nothing else',
)

function isTextPart(part: unknown): boolean {
  return isRecord(part) && part.type === 'text' && typeof part.text === 'string'
}

/** A call that the model made in an earlier round. */
const toolCall = z.object(
  {
    id: text().nullish(),
    function: z.object({ name: text(), arguments: text() }, 'must be an object'),
  },
  'must be an object',
)

const roles = ['system', 'developer', 'user', 'assistant', 'tool'] as const

const message = z.object(
  {
    role: z.enum(roles, `must be one of ${roles.join(', ')}`),
    content: content.optional(),
    name: text().nullish(),
    reasoning_content: text().nullish(),
    reasoning: text().nullish(),
    tool_calls: z.array(toolCall, 'must be a list').nullish(),
    tool_call_id: text().nullish(),
  },
  'must be an object',
)
export type MessageBody = z.output<typeof message>

const messages = z.array(message, 'must be a list of messages').min(1, 'must not be empty')

const tool = z.object(
  {
    type: known(oneOf('function')),
    function: z.object(
      {
        name: toolName(),
        description: text().nullish(),
        parameters: record('a JSON schema, an object').nullish(),
        strict: known(flag()).nullish(),
      },
      'must be an object',
    ),
  },
  'must be an object',
)

export const choiceWords = ['auto', 'none', 'required'] as const

const toolChoice = z.custom<'auto' | 'none' | 'required' | { function: { name: string } }>(
  (value) =>
    choiceWords.some((word) => word === value) ||
    (isRecord(value) &&
      value.type === 'function' &&
      isRecord(value.function) &&
      typeof value.function.name === 'string'),
  `must be one of ${choiceWords.join(', ')}, or an object that names a function`,
)

/** Variables of the template: names as templates write them, and not more than a person would send. */
const KWARGS_MAX = 32
const KWARGS_CHARS_MAX = 16_384

const templateKwargs = z
  .custom<Record<string, unknown>>(
    (value) =>
      isRecord(value) &&
      Object.keys(value).length <= KWARGS_MAX &&
      Object.keys(value).every((name) => /^[A-Za-z_]\w{0,63}$/.test(name)) &&
      JSON.stringify(value).length <= KWARGS_CHARS_MAX,
    `must be an object of at most ${KWARGS_MAX} names and ${KWARGS_CHARS_MAX} characters`,
  )
  .refine(
    ({ enable_thinking: wish }) => wish === undefined || typeof wish === 'boolean',
    'must have true or false for enable_thinking',
  )

const efforts = ['none', 'minimal', 'low', 'medium', 'high', 'xhigh'] as const

/** How much to think: some templates read it; none is the switch that all of this family know. */
export const effort = z.enum(efforts, `must be one of ${efforts.join(', ')}`)

/** Tokens that may be thought; -1: as many as the model likes. */
export const thinkingBudget = known(whole(-1, 2 ** 30))

export const chatBody = z.object({
  response_format: responseFormat.nullish(),
  ...drawing,
  messages,
  max_completion_tokens: known(whole(1, 2 ** 30)).nullish(),
  logprobs: known(flag()).nullish(),
  top_logprobs: known(whole(0, TOP_LOGPROBS_MAX)).nullish(),
  chat_template_kwargs: templateKwargs.nullish(),
  reasoning_effort: effort.nullish(),
  reasoning_budget: thinkingBudget.nullish(),
  thinking_budget: thinkingBudget.nullish(),
  reasoning_budget_tokens: thinkingBudget.nullish(),
  thinking_budget_tokens: thinkingBudget.nullish(),
  thinking_token_budget: thinkingBudget.nullish(),
  tools: z.array(tool, 'must be a list of tools').nullish(),
  tool_choice: toolChoice.nullish(),
  parallel_tool_calls: known(flag()).nullish(),
})
export type ChatBody = z.output<typeof chatBody>

function isTokens(value: unknown): value is number[] {
  return Array.isArray(value) && value.length > 0 && value.every(isTokenId)
}

function isTokenId(value: unknown): boolean {
  return Number.isInteger(value) && Number(value) >= 0 && Number(value) < 2 ** 31
}

function isListOf<Entry>(value: unknown, is: (entry: unknown) => entry is Entry) {
  return Array.isArray(value) && value.length > 0 && value.every(is)
}

function isText(value: unknown): value is string {
  return typeof value === 'string'
}

const prompt = z.custom<string | string[] | number[] | number[][]>(
  (value) =>
    isText(value) || isListOf(value, isText) || isTokens(value) || isListOf(value, isTokens),
  'must be text, a list of texts, a list of token ids, or a list of such lists',
)

export const completionBody = z.object({
  ...drawing,
  prompt,
  response_format: responseFormat.nullish(),
  logprobs: known(whole(0, TOP_LOGPROBS_MAX)).nullish(),
})
export type CompletionBody = z.output<typeof completionBody>

/** `content` as llama-server calls it, `prompt` as vLLM does; `messages` go through the template. */
export const tokenizeBody = z.object({
  content: text().nullish(),
  prompt: text().nullish(),
  messages: messages.nullish(),
  tools: z.array(tool, 'must be a list of tools').nullish(),
  chat_template_kwargs: templateKwargs.nullish(),
})

export const detokenizeBody = z.object({
  tokens: z.custom<number[]>(
    (value) => Array.isArray(value) && value.every(isTokenId),
    'must be a list of token ids',
  ),
})

/** What would change the answer and cannot be followed: when a field counts as asked for, and why not. */
const refused: readonly (readonly [
  field: string,
  isAsked: (value: unknown, body: Readonly<Record<string, unknown>>) => boolean,
  reason: string,
])[] = [
  [
    'response_format',
    (value) => !isRecord(value) || value.type !== 'text',
    'this route has another name for it: text.format in responses, output_format in messages',
  ],
  ['functions', () => true, 'tools is the newer name'],
  ['audio', () => true, 'this model gives text only'],
  [
    'modalities',
    (value) => !Array.isArray(value) || value.some((one) => one !== 'text'),
    'this model gives text only',
  ],
  ['web_search_options', () => true, 'this server searches nothing'],
  ['suffix', (value) => value !== '', 'this model continues text, it does not fill in'],
  ['echo', (value) => value !== false, 'the prompt is not given back'],
  [
    'best_of',
    (value, body) => value !== (body.n ?? 1),
    'as many answers are drawn as are given; n says how many',
  ],
]

/** The body in its shape; throws a Refusal that names the field. */
export function parsed<Shape extends z.ZodType>(shape: Shape, body: unknown): z.output<Shape> {
  if (!isRecord(body)) throw badRequest(`the body must be a JSON object, found ${shown(body)}`)
  for (const [field, isAsked, reason] of refused) {
    if (shape instanceof z.ZodObject && field in shape.shape) continue
    const value = body[field] ?? null
    if (value !== null && isAsked(value, body)) throw unsupported(field, reason)
  }
  return shaped(shape, body)
}

/** A part of a body in its shape; `place`: the names that lead to it. */
export function shaped<Shape extends z.ZodType>(
  shape: Shape,
  value: unknown,
  place: readonly (string | number)[] = [],
): z.output<Shape> {
  const result = shape.safeParse(value)
  if (result.success) return result.data
  const issue = result.error.issues[0]
  const path = issue?.path ?? []
  const param = [...place, ...path].map(String).join('.')
  throw badRequest(
    `${param} ${issue?.message ?? 'is wrong'}, found ${shown(valueAt(value, path))}`,
    param,
  )
}

export function unsupported(field: string, reason: string) {
  return badRequest(`${field} is not supported: ${reason}`, field, 'unsupported_parameter')
}
