// Requests without sense, from a fixed seed, for a bounded time: right bodies of every route with values
// exchanged, fields gone and added, text damaged, and strange headers. The server answers each with
// success or with what is wrong, never with a failure of its own, in time, and is as good as before.
// The first rounds are always run, further ones as long as there is time.
import { mkdtempSync, rmSync } from 'node:fs'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { chatWishes } from '../src/serve/draw.js'
import { messagesChat, messagesWishes, parsedMessages } from '../src/serve/messagesbody.js'
import type { Chat } from '../src/serve/prompts.js'
import { Refusal } from '../src/serve/refusal.js'
import { parsedResponses, responsesChat, responsesWishes } from '../src/serve/responsesbody.js'
import { chatOf } from '../src/serve/routes/chat.js'
import { chatBody, parsed } from '../src/serve/schema.js'
import { callReadingOf, templateTool } from '../src/serve/tools.js'
import { Dice } from './dice.js'
import { type Parrot, startParrot } from './parrot.js'
import { awkwardText, randomFrom } from './random.js'
import { asks, figureOf, jsonOf, post, until } from './serving.js'

/** Read without a server. */
const BODIES = 5_000
/** Sent to one. */
const ROUNDS_LEAST = 60
const TIME_MS = 4_000
/** A request that is not answered by then hangs. */
const HANG_MS = 5_000
const AT_ONCE = 4

let folder: string
let server: Parrot
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'ring-'))
  server = await startParrot(folder)
})
afterAll(async () => {
  await server.close()
  rmSync(folder, { recursive: true })
})

const call = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
const parameters = { type: 'object', properties: { a: { type: 'number' } } }

/** A right body for every route, with all that may be in it. */
const bodies: Readonly<Record<string, object>> = {
  '/v1/chat/completions': {
    model: 'm',
    messages: [
      { role: 'system', content: 'Be.' },
      { role: 'user', content: [{ type: 'text', text: `SAY:${call}` }] },
      {
        role: 'assistant',
        content: null,
        reasoning_content: 'Hm.',
        tool_calls: [{ id: 'c', type: 'function', function: { name: 'f', arguments: '{}' } }],
      },
      { role: 'tool', tool_call_id: 'c', content: `SAY:So ${call}` },
    ],
    tools: [{ type: 'function', function: { name: 'f', description: 'F.', parameters } }],
    tool_choice: 'auto',
    parallel_tool_calls: true,
    chat_template_kwargs: { enable_thinking: true, open_thought: false },
    reasoning_effort: 'low',
    reasoning_budget: -1,
    max_completion_tokens: 40,
    n: 1,
    stop: ['x'],
    logprobs: true,
    top_logprobs: 1,
    logit_bias: { 5: 1 },
    stream: true,
    stream_options: { include_usage: true },
    response_format: { type: 'text' },
  },
  '/v1/completions': {
    prompt: ['a', 'b'],
    max_tokens: 3,
    logprobs: 1,
    n: 1,
    stop: 'x',
    stream: false,
  },
  '/v1/responses': {
    instructions: 'Be.',
    input: [
      { role: 'user', content: [{ type: 'input_text', text: `SAY:${call}` }] },
      { type: 'reasoning', summary: [], content: [{ type: 'reasoning_text', text: 'Hm.' }] },
      { type: 'function_call', call_id: 'c', name: 'f', arguments: '{}' },
      { type: 'function_call_output', call_id: 'c', output: `SAY:So ${call}` },
    ],
    tools: [{ type: 'function', name: 'f', parameters }],
    tool_choice: { type: 'function', name: 'f' },
    reasoning: { effort: 'low' },
    text: { format: { type: 'text' } },
    include: ['message.output_text.logprobs'],
    metadata: { a: 'b' },
    max_output_tokens: 40,
    top_logprobs: 1,
    stream: true,
  },
  '/v1/messages': {
    max_tokens: 40,
    system: [{ type: 'text', text: 'Be.' }],
    messages: [
      { role: 'user', content: `SAY:${call}` },
      {
        role: 'assistant',
        content: [
          { type: 'thinking', thinking: 'Hm.', signature: '' },
          { type: 'tool_use', id: 't', name: 'f', input: { a: 1 } },
        ],
      },
      {
        role: 'user',
        content: [{ type: 'tool_result', tool_use_id: 't', content: `SAY:${call}` }],
      },
    ],
    tools: [{ name: 'f', input_schema: parameters }],
    tool_choice: { type: 'auto', disable_parallel_tool_use: false },
    thinking: { type: 'enabled', budget_tokens: 39 },
    stop_sequences: ['x'],
    stream: true,
  },
  '/v1/messages/count_tokens': { messages: asks('Hi'), system: 'Be.' },
  '/tokenize': { content: 'Hi', messages: asks('Hi') },
  '/detokenize': { tokens: [1, 2, 3] },
}

/** What reads the bodies of the routes with tools, as far as it goes without a model. */
const readers: Readonly<Record<string, (body: unknown) => void>> = {
  '/v1/chat/completions': (value) => {
    const body = parsed(chatBody, value)
    chatWishes(body)
    show(chatOf(body))
  },
  '/v1/responses': (value) => {
    const body = parsedResponses(value)
    responsesWishes(body)
    show(responsesChat(body))
  },
  '/v1/messages': (value) => {
    const body = parsedMessages(value)
    messagesWishes(body)
    show(messagesChat(body))
  },
}

/** As the model is shown it. */
function show({ tools, messages }: Chat): void {
  expect(messages.every(({ content }) => typeof content === 'string')).toBe(true)
  if (tools === null) return
  callReadingOf(tools)
  tools.tools.forEach(templateTool)
}

const strange: readonly unknown[] = [
  ...[
    null,
    -1,
    0,
    0.5,
    1e308,
    2 ** 53,
    '',
    'x',
    true,
    false,
    [],
    {},
    [[]],
    [null],
    '\ud800',
    '\u0000',
  ],
  ...['none', 'required', 'function', '<think>', '</tool_call>', '__proto__', 'a'.repeat(5000)],
  ...[{ type: 'text' }, { type: 'function' }, { toString: 1 }, { length: -1 }, [{ role: 'user' }]],
]

it('is read or refused, and nothing else, by whatever reads bodies', () => {
  const random = randomFrom(20_261_129)
  const dice = new Dice(20_261_129)
  const counts = { read: 0, refused: 0 }
  for (let round = 0; round < BODIES; round += 1) {
    const path = dice.pick(Object.keys(readers))
    const body = mutated(dice, random, bodies[path])
    try {
      readers[path]?.(body)
      counts.read += 1
    } catch (error) {
      if (!(error instanceof Refusal)) throw new Error(JSON.stringify(body), { cause: error })
      expect(error.status).toBe(400)
      counts.refused += 1
    }
  }
  expect(counts.read).toBeGreaterThan(BODIES / 5)
  expect(counts.refused).toBeGreaterThan(BODIES / 5)
})

it('is answered, never with a failure, by a server that is as good afterwards', async () => {
  const random = randomFrom(20_261_128)
  const dice = new Dice(20_261_128)
  const good = () =>
    post(`${server.url}/v1/chat/completions`, { messages: asks('SAY:Well.'), max_tokens: 9 })
  const before = await jsonOf<{ choices: object[] }>(await good())
  const statuses = new Map<number, number>()
  const begin = performance.now()
  let rounds = 0
  while (rounds < ROUNDS_LEAST || performance.now() - begin < TIME_MS) {
    rounds += 1
    const asked = Array.from({ length: AT_ONCE }, () => {
      const path = dice.pick(Object.keys(bodies))
      return {
        path,
        body: damaged(dice, mutated(dice, random, bodies[path])),
        headers: headersOf(dice),
      }
    })
    const answers = await Promise.all(asked.map(told))
    for (const [at, { status, text }] of answers.entries()) {
      statuses.set(status, (statuses.get(status) ?? 0) + 1)
      const isGood =
        status >= 200 && status < 500 && !/"(server|api)_error"|response\.failed/.test(text)
      expect(isGood ? '' : `${status} for ${JSON.stringify(asked[at])}: ${text}`).toBe('')
    }
  }
  const after = await jsonOf<{ choices: object[] }>(await good())
  expect(after.choices).toEqual(before.choices)
  expect(server.lines.filter((line) => line.includes('internal error'))).toEqual([])
  await until(async () => (await figureOf(server.url, 'ring_num_requests_running')) === 0)
  // Both kinds of answers came, so neither half of the mutations is idle.
  expect(statuses.get(200)).toBeGreaterThan(ROUNDS_LEAST / 4)
  expect(statuses.get(400)).toBeGreaterThan(ROUNDS_LEAST / 4)
})

/** The value with up to two places in it changed. */
function mutated(dice: Dice, random: () => number, value: unknown): unknown {
  const copy = structuredClone(value)
  for (let count = dice.below(3); count > 0; count -= 1) mutate(dice, random, copy)
  return copy
}

/** Walks down to some place and puts something else there. */
function mutate(dice: Dice, random: () => number, value: unknown): void {
  if (typeof value !== 'object' || value === null) return
  const fields = value as Record<string, unknown>
  const names = Object.keys(fields)
  const name = names.length === 0 ? 'a' : dice.pick(names)
  const inner = fields[name]
  if (typeof inner === 'object' && inner !== null && dice.below(3) !== 0) {
    mutate(dice, random, inner)
    return
  }
  const kind = dice.below(6)
  if (kind === 0) delete fields[name]
  else if (kind === 1) fields[name] = awkwardText(random, 12)
  else if (kind === 2) fields[name] = [inner, inner]
  else if (kind === 3) fields[name] = [inner]
  else fields[name] = structuredClone(dice.pick(strange))
}

/** The text of a body, some of it wrong here and there, or cut off. */
function damaged(dice: Dice, body: unknown): string {
  const text = JSON.stringify(body)
  if (dice.below(5) !== 0) return text
  const at = dice.below(text.length)
  if (dice.below(3) === 0) return text.slice(0, at)
  return text.slice(0, at) + String.fromCharCode(dice.below(256)) + text.slice(at + dice.below(3))
}

function headersOf(dice: Dice): Record<string, string> {
  const headers: Record<string, string> = { 'content-type': 'application/json' }
  if (dice.below(3) !== 0) return headers
  const others = [
    ['content-type', dice.pick(['text/plain', 'application/json; charset=x', 'a', '', '*/*'])],
    ['accept', dice.pick(['', 'text/html', '\u00ff'])],
    ['accept-encoding', dice.pick(['gzip', 'x'.repeat(1000)])],
    ['authorization', dice.pick(['Bearer', 'Bearer  \u00e9', 'Basic a:b'])],
    ['x-api-key', dice.pick(['', 'x'.repeat(4000)])],
    ['host', dice.pick(['', 'example.org', '[::1', 'localhost:99999', '127.0.0.1'])],
    ['expect', '100-continue'],
    ['transfer-encoding', 'chunked'],
    ['connection', dice.pick(['close', 'upgrade', 'keep-alive, x'])],
    ['x-padding', 'y'.repeat(dice.pick([100, 20_000]))],
  ] as const
  for (let count = 1 + dice.below(2); count > 0; count -= 1) {
    const [name, value] = dice.pick(others)
    headers[name] = value
  }
  return headers
}

/** What the server says; rejects when it hangs. Sent by node's own client, which allows any header. */
function told(asked: {
  readonly path: string
  readonly body: string
  readonly headers: Record<string, string>
}): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const options = { method: 'POST', headers: asked.headers, agent: false, timeout: HANG_MS }
    const sent = request(server.url + asked.path, options, (response) => {
      let text = ''
      response.setEncoding('utf8').on('data', (part: string) => {
        text += part
      })
      response.on('end', () => resolve({ status: response.statusCode ?? 0, text }))
      response.on('error', reject)
    })
    sent.on('timeout', () => sent.destroy(new Error(`no answer to ${JSON.stringify(asked)}`)))
    sent.on('error', reject)
    sent.end(asked.body)
  })
}
