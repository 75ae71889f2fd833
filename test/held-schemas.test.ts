// Schemas that an answer is held to: whatever the grammar allows is valid by the schema as it was asked,
// told by a validator that knows nothing of grammars. Answers are walks through the masks at random, hotter
// than any model; some are drawn by the bundled model through the server.
import { Ajv2020 } from 'ajv/dist/2020.js'
import addFormats from 'ajv-formats'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Grammars } from '../dist/src/engine/grammar.js'
import { readConfig } from '../dist/src/model/config.js'
import { openTokenizer } from '../dist/src/model/tokenizer.js'
import { heldSchema, type Schema } from '../src/serve/jsonschema.js'
import { Dice } from './dice.js'
import { ringTiny } from './paths.js'
import { asks, chat, type Running, startServer } from './serving.js'

const seeds = [1, 2, 3, 4, 5, 6, 7, 8]
const tokensMost = 100

const address = {
  type: 'object',
  properties: {
    street: { type: 'string', maxLength: 12 },
    number: { type: 'integer', minimum: 1 },
  },
  required: ['street'],
}

const schemas: Readonly<Record<string, Schema>> = {
  'a pattern of the whole': { type: 'string', pattern: '^[A-Z]{2}-\\d{3}(x|yz)?$' },
  'a pattern of the beginning': { type: 'string', pattern: '^ab[^c]' },
  'a pattern of some place': { type: 'string', pattern: 'q.r' },
  'patterns one or the other': { type: 'string', pattern: '^a|b$|^c\\w+$' },
  'a pattern of all marks': { type: 'string', pattern: '^(\\S\\D|\\W.|[^a-z]){1,3}$' },
  'a pattern of escapes': { type: 'string', pattern: '^\\$\\.\\/[\\]\\-^]\\u00e9[\\x41-C]$' },
  'a least length': { type: 'string', minLength: 3 },
  'a greatest length': { type: 'string', maxLength: 5 },
  'both lengths': { type: 'string', minLength: 2, maxLength: 4 },
  'a date': { type: 'string', format: 'date' },
  'a time': { type: 'string', format: 'date-time' },
  'a uuid': { type: 'string', format: 'uuid' },
  'an address of a machine': { type: 'string', format: 'ipv4' },
  'an address of mail': { type: 'string', format: 'email' },
  'an address of a page': { type: 'string', format: 'uri' },
  'an integer from 3 to 17': { type: 'integer', minimum: 3, maximum: 17 },
  'an integer from -120 to 7': { type: 'integer', minimum: -120, maximum: 7 },
  'an integer above 99': { type: 'integer', exclusiveMinimum: 99 },
  'an integer below -5': { type: 'integer', exclusiveMaximum: -5 },
  'an integer within broken bounds': { type: 'integer', minimum: 0.5, maximum: 2.5 },
  'an integer of many digits': { type: 'integer', minimum: 999, maximum: 1_000_001 },
  'any number': { type: 'number' },
  'numbers of a list': { type: 'array', items: { type: 'integer' }, minItems: 1, maxItems: 3 },
  'types side by side': {
    type: ['integer', 'null', 'boolean', 'string'],
    maxLength: 2,
    maximum: 9,
  },
  'values of a type': { type: 'string', enum: ['a', 1, 'é"\\', null] },
  'one value': { const: { a: [1, 'x', null] } },
  'one or the other object': {
    oneOf: [
      {
        type: 'object',
        properties: { kind: { const: 'a' }, n: { type: 'integer', maximum: 5 } },
        required: ['kind', 'n'],
      },
      {
        type: 'object',
        properties: { kind: { const: 'b' }, s: { type: 'string', maxLength: 3 } },
        required: ['kind'],
      },
    ],
  },
  'optional properties': {
    type: 'object',
    properties: { a: { type: 'integer' }, b: { type: 'boolean' }, c: { enum: [1, 2] } },
  },
  'a map': { type: 'object', additionalProperties: { type: 'integer', minimum: 0, maximum: 3 } },
  definitions: {
    type: 'object',
    properties: {
      home: { $ref: '#/$defs/address' },
      work: { allOf: [{ $ref: '#/$defs/address' }] },
    },
    required: ['home'],
    $defs: { address },
  },
  'itself within': {
    type: 'object',
    properties: { name: { enum: ['x'] }, next: { anyOf: [{ $ref: '#' }, { type: 'null' }] } },
    required: ['name', 'next'],
  },
  'no type named': {
    properties: { a: { minimum: 1, maximum: 3, type: 'integer' } },
    required: ['a'],
  },
}

const config = readConfig(ringTiny, {})
const tokenizer = openTokenizer(ringTiny)
const texts = Array.from({ length: config.vocabulary }, (_, id) =>
  id < tokenizer.size ? tokenizer.decode([id], { keepSpecial: true }) : '',
)

let grammars: Grammars
beforeAll(async () => {
  grammars = await Grammars.open(ringTiny, config.vocabulary)
})

/**
 * An answer at random, closing what is open now and then; null: not complete in so many tokens, or no text,
 * since the library takes some bytes that are no UTF-8 for characters.
 */
async function walked(schema: string, seed: number): Promise<string | null> {
  const dice = new Dice(seed)
  const matcher = await grammars.matcher(schema, config.eosIds)
  const mask = new Uint32Array(Math.ceil(config.vocabulary / 32))
  const ids: number[] = []
  try {
    while (ids.length < tokensMost) {
      await matcher.fill(mask)
      const may = texts.flatMap((_, id) => (((mask[id >> 5] ?? 0) >> (id & 31)) & 1 ? [id] : []))
      if (may.length === 0) throw new Error(`nothing may follow ${tokenizer.decode(ids)}`)
      const ends = may.filter((id) => config.eosIds.includes(id))
      const closing = may.filter((id) => /^["\]}]|^[qrb]$/.test(texts[id] ?? ''))
      if (ends.length > 0 && (ends.length === may.length || dice.below(3) === 0)) {
        const text = tokenizer.decode(ids)
        return text.includes('\ufffd') ? null : text
      }
      const from = closing.length > 0 && dice.below(2) === 0 ? closing : may
      const next = dice.pick(from.filter((id) => !ends.includes(id)))
      if (!matcher.accept(next)) throw new Error('the mask allowed what the grammar excludes')
      ids.push(next)
    }
    return null
  } finally {
    matcher.dispose()
  }
}

function validatorOf(schema: Schema) {
  const ajv = new Ajv2020({ strict: false })
  addFormats.default(ajv)
  return ajv.compile(schema)
}

describe('what a grammar allows', () => {
  it.each(Object.entries(schemas))('is valid by its schema: %s', async (_, schema) => {
    const held = heldSchema(schema)
    if (typeof held === 'string') throw new Error(held)
    const isValid = validatorOf(schema)
    const said: string[] = []
    for (const seed of seeds) {
      const answer = await walked(JSON.stringify(held), seed)
      if (answer === null) continue
      said.push(answer)
      expect(isValid(JSON.parse(answer)) ? '' : answer).toBe('')
    }
    expect(said.length).toBeGreaterThan(1)
  })

  it.each<[string, Schema, readonly unknown[]]>([
    ['a pattern found within', { type: 'string', pattern: 'b' }, ['b', 'abc', 'cb', 'ba']],
    ['an open beginning', { type: 'string', pattern: 'a$' }, ['a', 'ba']],
    ['lengths', { type: 'string', minLength: 1, maxLength: 3 }, ['é', '東京🎉', ' x ']],
    ['the last day', { type: 'string', format: 'date' }, ['2024-12-31', '1999-02-28']],
    ['bounds', { type: 'integer', minimum: -3, maximum: 12 }, [-3, 0, 7, 12]],
    ['a left property', { properties: { a: {}, b: {} } }, [{ b: 1 }, {}, { a: null, b: [] }]],
  ])('is all of it where that can be kept: %s', async (_, schema, values) => {
    const held = heldSchema(schema)
    if (typeof held === 'string') throw new Error(held)
    for (const value of values) {
      const text = JSON.stringify(value).replaceAll(/([,:])/g, '$1 ')
      const matcher = await grammars.matcher(JSON.stringify(held), config.eosIds)
      const taken = [...tokenizer.encode(text), config.eosIds[0] ?? -1].map((id) =>
        matcher.accept(id),
      )
      matcher.dispose()
      expect({ text, isTaken: taken.every(Boolean) }).toEqual({ text, isTaken: true })
    }
  })
})

describe('what the bundled model draws, hot', () => {
  let server: Running
  beforeAll(async () => {
    server = await startServer({ parallel: 3 })
  })
  afterAll(() => server.close())

  it('is valid by its schema', async () => {
    const schema = {
      type: 'object',
      properties: {
        code: schemas['a pattern of the whole'],
        age: schemas['an integer from 3 to 17'],
        day: { type: 'string', format: 'date' },
        word: { type: 'string', minLength: 2, maxLength: 8 },
      },
      required: ['code', 'age', 'day', 'word'],
    }
    const isValid = validatorOf(schema)
    const ask = (seed: number) =>
      chat(server.url, {
        ...{ messages: asks('What is 37 + 48?'), temperature: 2, seed, max_tokens: 300 },
        ...{ reasoning_budget: 4 },
        response_format: { type: 'json_schema', json_schema: { name: 'a', schema } },
      })
    for (const { choices } of await Promise.all(seeds.map(ask))) {
      const [first] = choices
      expect(first?.finish_reason).toBe('stop')
      const { content } = first?.message ?? { content: '' }
      expect(isValid(JSON.parse(content)) ? '' : content).toBe('')
    }
  })
})
