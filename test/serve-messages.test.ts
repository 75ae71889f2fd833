// POST /v1/messages as Anthropic's clients use it: objects, events, tools, thoughts, stops, errors in its
// shape. The bundled model, and for tools one that says what it is told to.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Parrot, startParrot } from './parrot.js'
import { asks, type chat, eventsOf, jsonOf, post, type Running, startServer } from './serving.js'

const key = 'a-key-for-clients'
const sum = 'What is 37 + 48?'
const thought = '7+8=15 write 5 carry 1\n3+4+1=8'

let folder: string
let server: Running
let parrot: Parrot
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'ring-'))
  server = await startServer({ keys: [key], parallel: 1 })
  parrot = await startParrot(folder)
})
afterAll(async () => {
  await Promise.all([server.close(), parrot.close()])
  rmSync(folder, { recursive: true })
})

function ask(body: object, url = server.url, path = '/v1/messages'): Promise<Response> {
  const whole = { model: 'any', max_tokens: 200, temperature: 0, messages: asks(sum), ...body }
  return post(url + path, whole, { headers: { 'x-api-key': key } })
}

interface StreamEvent {
  readonly type: string
  readonly index?: number
  readonly content_block?: Record<string, unknown>
  readonly delta?: Record<string, string>
  readonly message?: Message
  readonly usage?: Message['usage']
}

interface Message {
  readonly content: Record<string, unknown>[]
  readonly stop_reason: string | null
  readonly stop_sequence: string | null
  readonly usage: {
    readonly input_tokens: number
    readonly cache_read_input_tokens: number
    readonly output_tokens: number
  }
}

/** All of it, known before or not. */
function inputOf({ input_tokens, cache_read_input_tokens }: Message['usage']): number {
  return input_tokens + cache_read_input_tokens
}

async function streamed(body: object, url = server.url): Promise<StreamEvent[]> {
  const events: StreamEvent[] = []
  for await (const text of eventsOf(await ask({ ...body, stream: true }, url))) {
    const [, name, data] = /^event: (\S+)\ndata: (.*)$/.exec(text) ?? []
    const event = JSON.parse(data ?? 'null') as StreamEvent
    expect(event.type).toBe(name)
    events.push(event)
  }
  return events
}

/** The blocks that the events build, and where each was begun and stopped. */
function blocksIn(events: readonly StreamEvent[]): Record<string, unknown>[] {
  const blocks: Record<string, unknown>[] = []
  for (const { type, index = -1, content_block: block, delta } of events) {
    if (type === 'content_block_start') {
      expect(index).toBe(blocks.length)
      blocks.push({ ...block, ...(block?.type === 'tool_use' ? { input: '' } : {}) })
    }
    if (type !== 'content_block_delta') continue
    expect(index).toBe(blocks.length - 1)
    const last = blocks.at(-1) ?? {}
    for (const [field, from] of [
      ['text', 'text'],
      ['thinking', 'thinking'],
      ['signature', 'signature'],
      ['input', 'partial_json'],
    ] as const) {
      if (delta?.[from] !== undefined) last[field] = `${last[field]}${delta[from]}`
    }
  }
  return blocks
}

describe('a message', () => {
  it('has a thought and a text, and counts its tokens', async () => {
    const message = await jsonOf<Message>(await ask({}))
    expect(message).toMatchObject({
      id: expect.stringMatching(/^msg_\w{32}$/),
      type: 'message',
      role: 'assistant',
      model: 'ring-tiny',
      content: [
        { type: 'thinking', thinking: thought, signature: '' },
        { type: 'text', text: '85' },
      ],
      stop_reason: 'end_turn',
      stop_sequence: null,
      usage: { output_tokens: 28, cache_creation_input_tokens: 0 },
    })
    const counted = await ask({ max_tokens: undefined }, server.url, '/v1/messages/count_tokens')
    expect(await jsonOf(counted)).toEqual({ input_tokens: inputOf(message.usage) })
  })

  it('is the same streamed, from its start to its stop', async () => {
    const whole = await jsonOf<Message>(await ask({}))
    const events = await streamed({})
    expect(events[0]).toMatchObject({
      type: 'message_start',
      message: {
        content: [],
        stop_reason: null,
        usage: { input_tokens: inputOf(whole.usage), output_tokens: 0 },
      },
    })
    expect(blocksIn(events)).toEqual(whole.content)
    expect(events.filter(({ type }) => type === 'content_block_stop').length).toBe(2)
    expect(events.at(-2)).toMatchObject({
      type: 'message_delta',
      delta: { stop_reason: 'end_turn', stop_sequence: null },
      // By now it is known that all but the last token of the same prompt was not computed.
      usage: {
        input_tokens: 1,
        cache_read_input_tokens: inputOf(whole.usage) - 1,
        output_tokens: 28,
      },
    })
    expect(events.at(-1)).toEqual({ type: 'message_stop' })
  })

  it('says which text stopped it, or that it is at its length', async () => {
    const stopped = await jsonOf<Message>(await ask({ stop_sequences: ['never', '5'] }))
    expect(stopped).toMatchObject({ stop_reason: 'stop_sequence', stop_sequence: '5' })
    expect(stopped.content.at(-1)).toEqual({ type: 'text', text: '8' })
    const cut = await jsonOf<Message>(await ask({ max_tokens: 5 }))
    expect(cut).toMatchObject({ stop_reason: 'max_tokens', usage: { output_tokens: 5 } })
  })

  it('takes a system, blocks, and no thinking', async () => {
    const messages = [
      {
        role: 'user',
        content: [{ type: 'text', text: sum, cache_control: { type: 'ephemeral' } }],
      },
    ]
    const system = [{ type: 'text', text: 'Be brief.' }]
    const body = { system, messages, thinking: { type: 'disabled' } }
    const { content, usage } = await jsonOf<Message>(await ask(body))
    expect(content.map(({ type }) => type)).toEqual(['text'])
    const headers = { authorization: `Bearer ${key}` }
    const same = await post(
      `${server.url}/v1/chat/completions`,
      {
        messages: [{ role: 'system', content: 'Be brief.' }, ...asks(sum)],
        chat_template_kwargs: { enable_thinking: false },
        temperature: 0,
      },
      { headers },
    )
    const answer = await jsonOf<Awaited<ReturnType<typeof chat>>>(same)
    expect(inputOf(usage)).toBe(answer.usage.prompt_tokens)
    expect(content[0]?.text).toBe(answer.choices[0]?.message.content)
  })
})

describe('tools of messages', () => {
  const tools = [{ name: 'add', description: 'Adds.', input_schema: { type: 'object' } }]
  const call = '<tool_call>\n{"name": "add", "arguments": {"a": [1, "b"]}}\n</tool_call>'

  it('are used, whole and streamed, and told what came of it', async () => {
    const body = { tools, messages: asks(`SAY:<think>\nHm.\n</think>\n\nSo: ${call}`) }
    const whole = await jsonOf<Message>(await ask(body, parrot.url))
    expect(whole).toMatchObject({
      content: [
        { type: 'thinking', thinking: 'Hm.' },
        { type: 'text', text: 'So:' },
        {
          type: 'tool_use',
          id: expect.stringMatching(/^toolu_\w{32}$/),
          name: 'add',
          input: { a: [1, 'b'] },
        },
      ],
      stop_reason: 'tool_use',
    })
    const blocks = blocksIn(await streamed(body, parrot.url))
    expect(JSON.parse(String(blocks[2]?.input))).toEqual({ a: [1, 'b'] })
    const result = { type: 'tool_result', tool_use_id: whole.content[2]?.id, content: 'SAY:85.' }
    const next = await ask(
      {
        tools,
        messages: [
          ...body.messages,
          { role: 'assistant', content: whole.content },
          { role: 'user', content: [result] },
        ],
      },
      parrot.url,
    )
    expect((await jsonOf<Message>(next)).content).toEqual([{ type: 'text', text: '85.' }])
    expect(parrot.prompt()).toContain(`<think>Hm.</think>So:${call}`)
    expect(parrot.prompt()).toContain('<tool_response>SAY:85.</tool_response>')
  })

  it('may be chosen', async () => {
    const messages = asks('SAY:{"a": 2}}</tool_call>')
    const tool_choice = { type: 'tool', name: 'add' }
    const { content } = await jsonOf<Message>(
      await ask({ tools, messages, tool_choice }, parrot.url),
    )
    expect(content).toMatchObject([{ type: 'tool_use', name: 'add', input: { a: 2 } }])
  })
})

describe('errors of messages', () => {
  it.each<[what: string, body: object, message: RegExp]>([
    ['no length', { max_tokens: undefined }, /max_tokens must be a whole number/],
    [
      'a picture',
      { messages: [{ role: 'user', content: [{ type: 'image' }] }] },
      /messages.0.content.0.type/,
    ],
    [
      'a system among messages',
      { messages: [{ role: 'system', content: 'a' }] },
      /messages.0.role/,
    ],
    [
      'an answer that is begun',
      { messages: [...asks(sum), { role: 'assistant', content: 'The' }] },
      /not continued/,
    ],
    [
      'a tool of the server',
      { tools: [{ type: 'web_search_20250305', name: 'web_search' }] },
      /tools.0.type/,
    ],
    ['a choice without a name', { tools: [], tool_choice: { type: 'tool' } }, /tool_choice.name/],
    ['a budget', { thinking: { type: 'enabled', budget_tokens: -1 } }, /thinking.budget_tokens/],
    ['too many stops', { stop_sequences: Array(17).fill('a') }, /at most 16/],
    ['a form', { output_config: { format: { type: 'grammar' } } }, /output_config.format/],
    ['no JSON', { messages: 7 }, /messages must be a list/],
  ])('for %s', async (_what, body, message) => {
    const response = await ask(body)
    expect(response.status).toBe(400)
    expect(await response.json()).toEqual({
      type: 'error',
      error: { type: 'invalid_request_error', message: expect.stringMatching(message) },
    })
  })

  it('for a wrong key, in the same shape; either header opens', async () => {
    const body = { max_tokens: 3, messages: asks('Hi') }
    const refused = await post(`${server.url}/v1/messages`, body, {
      headers: { 'x-api-key': 'another-key' },
    })
    expect(refused.status).toBe(401)
    expect(await refused.json()).toMatchObject({
      type: 'error',
      error: { type: 'authentication_error' },
    })
    for (const headers of [{ 'x-api-key': key }, { authorization: `Bearer ${key}` }]) {
      expect((await post(`${server.url}/v1/messages`, body, { headers })).status).toBe(200)
    }
  })

  it('that break off a stream are its last event', async () => {
    const hasty = await startServer({ parallel: 1, deadlineMs: 150 })
    try {
      const body = { max_tokens: 1900, stream: true, messages: asks('Hello!'), ignore_eos: true }
      const texts: string[] = []
      for await (const text of eventsOf(await post(`${hasty.url}/v1/messages`, body))) {
        texts.push(text)
      }
      expect(texts.at(-1)).toMatch(
        /^event: error\ndata: {"type":"error","error":{"type":"timeout_error"/,
      )
      expect(texts.join('\n')).not.toContain('message_stop')
    } finally {
      await hasty.close()
    }
  })
})
