// Schemas without sense, from a fixed seed, for a bounded time, each to the bundled model under a hot draw:
// the server answers or says what is wrong, never with a failure of its own and in time; what it answers
// to the end is JSON; and it is as good as before.
import { afterAll, beforeAll, expect, it } from 'vitest'
import { Dice } from './dice.js'
import { asks, figureOf, jsonOf, post, type Running, startServer, until } from './serving.js'

const ROUNDS_LEAST = 30
const TIME_MS = 3_000
const AT_ONCE = 4

let server: Running
beforeAll(async () => {
  server = await startServer({ parallel: AT_ONCE, queue: 64 })
})
afterAll(() => server.close())

const values: readonly unknown[] = [
  ...[null, true, 0, -1, 1, 3, 0.5, 1e9, 1e300, '', 'a', '\ud800', '\u0000"\\', '#', '#/$defs/a'],
  ...[[], {}, [[]], ['a', 'b'], ['a', 1, null], [{}], { a: {} }, { type: 'string' }],
]
const types = ['object', 'array', 'string', 'integer', 'number', 'boolean', 'null', 'text']
const patterns = [
  ...[
    'a',
    '^a$',
    '.*',
    '^[^"]{2,5}$',
    '(',
    '[',
    'a{9999}',
    '(a*)*b',
    '((a|b){8}){8}',
    '\\d+\\s',
    '^$',
  ],
  ...['^\\u0041|x{2}$', '[z-a]', '\\p{L}', '(?=a)b', '((((((((((a))))))))))', '[\\s\\S]*', '$^'],
]
const bounds = [-5, 0, 0.1, 3, 70, 2 ** 53, -(2 ** 60)]

/** Some schema, mostly of known words, few of them in each other. */
function schemaFrom(dice: Dice, depth: number): unknown {
  if (dice.below(12) === 0) return dice.pick(values)
  const inner = () => (depth > 3 ? {} : schemaFrom(dice, depth + 1))
  const some = <Thing>(make: () => Thing) => Array.from({ length: dice.below(3) }, make)
  const map = () => Object.fromEntries(some(() => [dice.pick(['a', 'b', 'é"', '']), inner()]))
  const words: Readonly<Record<string, () => unknown>> = {
    type: () => (dice.below(4) === 0 ? some(() => dice.pick(types)) : dice.pick(types)),
    properties: map,
    required: () => some(() => dice.pick(['a', 'b', 'c'])),
    additionalProperties: () => dice.pick([true, false, inner()]),
    items: inner,
    minItems: () => dice.pick(bounds),
    maxItems: () => dice.pick(bounds),
    anyOf: () => some(inner),
    oneOf: () => some(inner),
    allOf: () => some(inner),
    enum: () => some(() => dice.pick(values)),
    const: () => dice.pick(values),
    pattern: () => dice.pick(patterns),
    format: () => dice.pick(['date', 'uri', 'nonsense', 3]),
    minLength: () => dice.pick(bounds),
    maxLength: () => dice.pick(bounds),
    minimum: () => dice.pick(bounds),
    exclusiveMaximum: () => dice.pick(bounds),
    $ref: () => dice.pick(['#', '#/$defs/a', '#/$defs/b', 'x', 7]),
    $defs: map,
    description: () => 'a',
    not: inner,
  }
  const count = 1 + dice.below(3)
  const entries = Array.from({ length: count }, () => {
    const word = dice.pick(Object.keys(words))
    return [word, words[word]?.()]
  })
  return Object.fromEntries(entries)
}

it('schemas are followed or refused, and nothing else', async () => {
  const dice = new Dice(20_261_128)
  const statuses = new Map<number, number>()
  const begin = performance.now()
  let complete = 0
  for (let round = 0; round < ROUNDS_LEAST || performance.now() - begin < TIME_MS; round += 1) {
    const asked = Array.from({ length: AT_ONCE }, () => ({
      ...{ prompt: 'A: ', temperature: 2, max_tokens: 12, seed: dice.below(1000) },
      stream: dice.below(4) === 0,
      logit_bias: dice.below(4) === 0 ? { [dice.below(300)]: -100 } : {},
      response_format: { type: 'json_schema', json_schema: { schema: schemaFrom(dice, 0) } },
    }))
    const answers = await Promise.all(
      asked.map(async (body) => {
        const signal = AbortSignal.timeout(15_000)
        const response = await post(`${server.url}/v1/completions`, body, { signal })
        return { body, status: response.status, text: await response.text() }
      }),
    )
    for (const { body, status, text } of answers) {
      statuses.set(status, (statuses.get(status) ?? 0) + 1)
      const isGood = [200, 400].includes(status) && !text.includes('server_error')
      expect(isGood ? '' : `${status} for ${JSON.stringify(body)}: ${text}`).toBe('')
      if (status !== 200 || body.stream) continue
      const { choices } = JSON.parse(text) as { choices: { text: string; finish_reason: string }[] }
      for (const { text: said, finish_reason: reason } of choices) {
        if (reason !== 'stop') continue
        complete += 1
        expect(() => JSON.parse(said), said).not.toThrow()
      }
    }
  }
  const chat = { messages: asks('What is 37 + 48?'), temperature: 0, max_tokens: 200 }
  const { choices } = await jsonOf<{ choices: { message: { content: string } }[] }>(
    await post(`${server.url}/v1/chat/completions`, chat),
  )
  expect(choices[0]?.message.content).toBe('85')
  expect(server.lines.filter((line) => line.includes('internal error'))).toEqual([])
  await until(async () => (await figureOf(server.url, 'ring_num_requests_running')) === 0)
  // Both kinds of answers came, and answers to the end.
  expect(statuses.get(200)).toBeGreaterThan(ROUNDS_LEAST / 4)
  expect(statuses.get(400)).toBeGreaterThan(ROUNDS_LEAST / 4)
  expect(complete).toBeGreaterThan(ROUNDS_LEAST / 10)
}, 60_000)
