// The shape in which an answer is wanted, as the families of routes say it: OpenAI's response_format and
// text.format, Anthropic's output_format. What of a schema can be followed is told elsewhere
// (jsonschema.ts). It knows no grammar and no engine.
import { z } from 'zod'
import { flag } from '../model/fields.js'
import type { FormatWish } from './grammars.js'
import type { Schema } from './jsonschema.js'
import { known } from './known.js'
import { badRequest } from './refusal.js'

function object(what: string) {
  return z.record(z.string(), z.unknown(), `must be ${what}`)
}

const plain = z.object({ type: z.literal('text') })
const anyJson = z.object({ type: z.literal('json_object') })
const schema = object('a JSON schema, an object').nullish()
const wanted = 'must be an object whose type is text, json_object or json_schema'

/** `response_format` of chats and completions. */
export const responseFormat = z.discriminatedUnion(
  'type',
  [
    plain,
    anyJson,
    z.object({
      type: z.literal('json_schema'),
      json_schema: z.object({ schema, strict: known(flag()).nullish() }, 'must be an object'),
    }),
  ],
  wanted,
)

/** `text.format` of responses. */
export const textFormat = z.discriminatedUnion(
  'type',
  [plain, anyJson, z.looseObject({ type: z.literal('json_schema'), schema })],
  wanted,
)

/** `output_format` of messages, which is also `output_config.format`. */
export const outputFormat = z.discriminatedUnion(
  'type',
  [z.object({ type: z.literal('json_schema'), schema })],
  'must be an object whose type is json_schema',
)

/** Of `response_format`. Null: any text. Throws a Refusal where the answer may be a call of a tool instead. */
export function formatOf(
  format: z.output<typeof responseFormat> | null | undefined,
  field: string,
  mayBeCall: boolean,
): FormatWish | null {
  const named = format?.type === 'json_schema' ? format.json_schema.schema : null
  return wishOf(format?.type, named, [field, 'json_schema.schema'], mayBeCall)
}

/** The same of the others, whose schema lies beside their type. */
export function bareFormatOf(
  format: z.output<typeof textFormat> | null | undefined,
  field: string,
  mayBeCall: boolean,
): FormatWish | null {
  const named = format?.type === 'json_schema' ? format.schema : null
  return wishOf(format?.type, named, [field, 'schema'], mayBeCall)
}

function wishOf(
  type: 'text' | 'json_object' | 'json_schema' | undefined,
  named: Schema | null | undefined,
  [field, within]: readonly [string, string],
  mayBeCall: boolean,
): FormatWish | null {
  if (type === undefined || type === 'text') return null
  if (mayBeCall) throw badRequest(`${field} does not go with tools: a call is no such JSON`, field)
  const anyObject = { type: 'object' }
  if (type === 'json_object') return { schema: anyObject, field }
  return { schema: named ?? anyObject, field: `${field}.${within}` }
}

/** Whether the model is offered tools. */
export function mayCall(body: {
  readonly tools?: readonly unknown[] | null | undefined
  readonly tool_choice?: unknown
}): boolean {
  return (body.tools ?? []).length > 0 && body.tool_choice !== 'none'
}
