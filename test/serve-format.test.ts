// An answer's shape over HTTP: JSON of any kind or of a schema, after free thinking; and schemas that
// cannot be followed, each refused with what is wrong and where.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  asks,
  chat,
  chunksOf,
  errorOf,
  jsonOf,
  post,
  type Running,
  saidIn,
  startServer,
} from './serving.js'

let server: Running
beforeAll(async () => {
  server = await startServer({ parallel: 3 })
})
afterAll(() => server.close())

const messages = asks('What is 37 + 48?')
const shape = {
  type: 'object',
  properties: {
    kind: { enum: ['sum', 'word'] },
    digits: { type: 'array', items: { enum: [3, 7, 8, 45] }, minItems: 2, maxItems: 3 },
    isSure: { type: 'boolean' },
  },
  required: ['kind', 'digits', 'isSure'],
  additionalProperties: false,
}

/** The text that a body's answer has, on any route. */
async function textOf(path: string, body: object): Promise<string> {
  const answer = await jsonOf<{
    choices?: { text: string }[]
    output?: { type: string; content: { text: string }[] }[]
    content?: { type: string; text: string }[]
  }>(await post(server.url + path, { temperature: 1.5, seed: 3, ...body }))
  return (
    answer.choices?.[0]?.text ??
    answer.output?.find(({ type }) => type === 'message')?.content[0]?.text ??
    answer.content?.find(({ type }) => type === 'text')?.text ??
    ''
  )
}

describe('a format of other routes', () => {
  it.each<[string, string, object]>([
    [
      'completions',
      '/v1/completions',
      { prompt: 'Answer:', max_tokens: 300, response_format: formatOf(shape) },
    ],
    [
      'responses',
      '/v1/responses',
      {
        input: 'What is 37 + 48?',
        text: { format: { type: 'json_schema', name: 'answer', schema: shape, strict: true } },
      },
    ],
    [
      'messages',
      '/v1/messages',
      { messages, max_tokens: 400, output_format: { type: 'json_schema', schema: shape } },
    ],
    [
      'messages, under its newer name',
      '/v1/messages',
      {
        messages,
        max_tokens: 400,
        output_config: { format: { type: 'json_schema', schema: shape } },
      },
    ],
  ])('holds the answer as well: %s', async (_, path, body) => {
    expect(isAnswer(await textOf(path, body))).toBe(true)
  })

  it.each<[string, string, object, string]>([
    [
      'completions',
      '/v1/completions',
      { prompt: 'a', response_format: formatOf({ not: {} }) },
      'response_format.json_schema.schema',
    ],
    [
      'responses',
      '/v1/responses',
      { input: 'a', text: { format: { type: 'json_schema', schema: { not: {} } } } },
      'text.format.schema',
    ],
    [
      'messages',
      '/v1/messages',
      { messages, max_tokens: 4, output_format: { type: 'json_schema', schema: { not: {} } } },
      'output_format.schema',
    ],
  ])('is refused where it cannot be followed: %s', async (_, path, body, field) => {
    const response = await post(server.url + path, body)
    expect(response.status).toBe(400)
    expect(await response.text()).toContain(`${field} has not at the schema`)
  })
})

function formatOf(schema: object, strict = true) {
  return { type: 'json_schema', json_schema: { name: 'answer', schema, strict } }
}

async function answerOf(body: object) {
  const { choices } = await chat(server.url, { messages, max_tokens: 400, ...body })
  const [first] = choices
  if (first === undefined) throw new Error('no answer')
  return first
}

async function refusalOf(body: object) {
  const response = await post(`${server.url}/v1/chat/completions`, { messages, ...body })
  return { status: response.status, ...(await errorOf(response)) }
}

function isAnswer(text: string): boolean {
  const value = JSON.parse(text) as { kind: string; digits: number[]; isSure: boolean }
  return (
    Object.keys(value).sort().join() === 'digits,isSure,kind' &&
    shape.properties.kind.enum.includes(value.kind) &&
    [2, 3].includes(value.digits.length) &&
    value.digits.every((digit) => shape.properties.digits.items.enum.includes(digit)) &&
    typeof value.isSure === 'boolean'
  )
}

describe('a format', () => {
  it('holds a hot model to its schema, whatever the seed', async () => {
    for (const seed of [1, 2, 3, 4, 5, 6]) {
      const hot = { temperature: 1.5, seed, reasoning_budget: 8 }
      const { message, finish_reason: reason } = await answerOf({
        ...hot,
        response_format: formatOf(shape),
      })
      expect(reason).toBe('stop')
      expect(isAnswer(message.content)).toBe(true)
    }
  })

  it('leaves thinking as it is without one', async () => {
    const free = await answerOf({})
    const held = await answerOf({ response_format: formatOf(shape) })
    expect(free.message.reasoning_content).not.toBe('')
    expect(held.message.reasoning_content).toBe(free.message.reasoning_content)
    expect(isAnswer(held.message.content)).toBe(true)
  })

  it('begins after thinking that a budget ended', async () => {
    const { message } = await answerOf({ reasoning_budget: 3, response_format: formatOf(shape) })
    expect(isAnswer(message.content)).toBe(true)
  })

  it('of any object begins as one, and holds for each of several answers', async () => {
    const { choices } = await chat(server.url, {
      messages,
      n: 2,
      seed: 7,
      temperature: 1,
      max_tokens: 60,
      reasoning_budget: 4,
      response_format: { type: 'json_object' },
    })
    expect(choices).toHaveLength(2)
    for (const { message, finish_reason: reason } of choices) {
      expect(message.content).toMatch(/^\{/)
      if (reason === 'stop') expect(typeof JSON.parse(message.content)).toBe('object')
    }
  })

  it('changes nothing for others in the same step', async () => {
    const alone = await answerOf({})
    const [beside] = await Promise.all([
      answerOf({}),
      answerOf({ response_format: formatOf(shape) }),
      answerOf({ response_format: { type: 'json_object' }, max_tokens: 40 }),
    ])
    expect(beside).toEqual(alone)
  })

  it('gives the same in a stream', async () => {
    const body = { messages, temperature: 0, max_tokens: 400, response_format: formatOf(shape) }
    const whole = await answerOf({ response_format: formatOf(shape) })
    const response = await post(`${server.url}/v1/chat/completions`, { ...body, stream: true })
    const { chunks } = await chunksOf(response)
    expect(saidIn(chunks).content).toBe(whole.message.content)
  })
})

/** Objects within each other. */
function deep(levels: number): object {
  let schema: object = { type: 'string' }
  for (let level = 0; level < levels; level += 1)
    schema = { type: 'object', properties: { a: schema }, required: ['a'] }
  return schema
}

describe('a schema that cannot be followed', () => {
  it.each<[string, object, RegExp]>([
    [
      'a keyword that is not enforced',
      { type: 'number', multipleOf: 3 },
      /multipleOf at the schema/,
    ],
    ['one further in', { properties: { a: { not: {} } } }, /not at properties\.a/],
    [
      'a pattern that breaks off',
      { type: 'string', pattern: '(a' },
      /pattern at the schema that breaks/,
    ],
    ['a pattern that looks ahead', { type: 'string', pattern: '^(?=a)' }, /looks around/],
    ['a pattern of lines', { type: 'string', pattern: '^\\n$' }, /which JSON escapes/],
    [
      'a pattern beside a length',
      { type: 'string', pattern: 'a', maxLength: 3 },
      /several of pattern/,
    ],
    [
      'a format that is none',
      { properties: { a: { format: 'colour' } } },
      /format at properties\.a/,
    ],
    ['bounds of broken numbers', { type: 'number', minimum: 0.5 }, /bounds of a number/],
    ['names beside named ones', { properties: { a: {} }, additionalProperties: {} }, /held apart/],
    ['one of several that overlap', { oneOf: [{ type: 'integer' }, { type: 'number' }] }, /oneOf/],
    ['constraints beside a choice', { anyOf: [{}], required: [] }, /required beside anyOf/],
    ['a reference to itself', { $ref: '#' }, /leads to itself/],
    ['values of another type', { type: 'string', enum: [1] }, /no value at the schema/],
    ['a type that is none', { type: 'text' }, /a type at the schema/],
    ['a reference to nothing', { $ref: '#/$defs/a' }, /\$ref at the schema/],
    ['an enum of nothing', { enum: [] }, /enum at the schema/],
    ['too many levels', deep(26), /more than 24 levels/],
    ['too many parts', { anyOf: Array.from({ length: 600 }, () => ({})) }, /more than 512 parts/],
    ['too many characters', { description: 'a'.repeat(40_000) }, /40018 characters/],
    ['a count beyond measure', { type: 'array', maxItems: 1e9 }, /maxItems at the schema/],
    [
      'counts beyond measure together',
      { anyOf: [1, 2, 3].map(() => ({ type: 'array', maxItems: 60 })) },
      /more than 128 together/,
    ],
    ['a least above the most', { type: 'array', minItems: 3, maxItems: 2 }, /above the most/],
    ['what is required and absent', { type: 'object', required: ['a'] }, /requires a/],
    ['no schema in a place of one', { items: true }, /no schema at items/],
  ])('is refused: %s', async (_, schema, reason) => {
    const { status, param, message } = await refusalOf({ response_format: formatOf(schema) })
    expect(message).toMatch(reason)
    expect({ status, param }).toEqual({ status: 400, param: 'response_format.json_schema.schema' })
  })

  it.each<[string, object, string]>([
    ['tools', { tools: [{ type: 'function', function: { name: 'a' } }] }, 'response_format'],
    ['an answer without an end', { ignore_eos: true, max_tokens: 9 }, 'ignore_eos'],
  ])('neither goes with %s', async (_, wish, field) => {
    const format = { response_format: { type: 'json_object' } }
    const { status, param } = await refusalOf({ ...wish, ...format })
    expect({ status, param }).toEqual({ status: 400, param: field })
  })

  it('harms no later one: the deepest that is taken, and one that refers to itself, are followed', async () => {
    const list = { type: 'object', properties: { next: { $ref: '#' } } }
    for (const schema of [deep(23), list]) {
      const { message } = await answerOf({
        reasoning_budget: 2,
        max_tokens: 200,
        response_format: formatOf(schema),
      })
      expect(message.content.startsWith('{')).toBe(true)
    }
  })
})
