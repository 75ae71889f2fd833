// Tools in chats over HTTP: what the template is shown, what a client is given, whole and streamed. A
// model that says what it is told to stands in for one that can call; the refusals are those of the
// bundled model as it is.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Parrot, startParrot } from './parrot.js'
import { asks, chunksOf, errorOf, jsonOf, post, type Running, startServer } from './serving.js'

let folder: string
let parrot: Parrot
let plain: Running
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'ring-'))
  parrot = await startParrot(folder)
  plain = await startServer({ parallel: 1 })
})
afterAll(async () => {
  await Promise.all([parrot.close(), plain.close()])
  rmSync(folder, { recursive: true })
})

const parameters = { type: 'object', properties: { a: { type: 'number' } }, required: ['a'] }
const add = { type: 'function', function: { name: 'add', description: 'Adds.', parameters } }
const look = { type: 'function', function: { name: 'look' } }
const tools = [add, look]
const call = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
const other = '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>'

interface ToolAnswer {
  readonly choices: {
    readonly message: {
      readonly content: string | null
      readonly reasoning_content?: string
      readonly tool_calls?: { id: string; type: string; function: object }[]
    }
    readonly finish_reason: string
  }[]
  readonly usage: { readonly completion_tokens: number }
}

async function answerTo(words: string, body: object = {}): Promise<ToolAnswer> {
  const whole = { messages: asks(`SAY:${words}`), tools, ...body }
  return jsonOf<ToolAnswer>(await post(`${parrot.url}/v1/chat/completions`, whole))
}

async function refusalOf(body: object, url = parrot.url) {
  const response = await post(`${url}/v1/chat/completions`, {
    messages: asks('SAY:Hi'),
    max_tokens: 4,
    ...body,
  })
  expect(response.status).toBe(400)
  return errorOf(response)
}

describe('tools', () => {
  it('are shown to the model as its template has them, and not where none may be called', async () => {
    await answerTo('Hi')
    const bare = {
      type: 'function',
      function: { name: 'look', parameters: { type: 'object', properties: {} } },
    }
    for (const tool of [add, bare]) expect(shownIn(parrot.prompt())).toContainEqual(tool)
    await answerTo('Hi', { tool_choice: 'none' })
    expect(shownIn(parrot.prompt())).toEqual([])
  })

  it('are called with an id, a name and arguments, and the answer says why it ended', async () => {
    const { choices, usage } = await answerTo(`<think>\nHm.\n</think>\n\n${call}\n${other}`)
    expect(choices).toEqual([
      {
        index: 0,
        message: {
          role: 'assistant',
          content: null,
          reasoning_content: 'Hm.',
          refusal: null,
          tool_calls: [
            {
              id: expect.stringMatching(/^call_\w{32}$/),
              type: 'function',
              function: { name: 'add', arguments: '{"a": 1}' },
            },
            {
              id: expect.stringMatching(/^call_\w{32}$/),
              type: 'function',
              function: { name: 'look', arguments: '{}' },
            },
          ],
        },
        logprobs: null,
        finish_reason: 'tool_calls',
      },
    ])
    expect(usage.completion_tokens).toBeGreaterThan(20)
  })

  it('leave text beside a call, and a call that is wrong is text', async () => {
    const both = await answerTo(`Let me see. ${call}`)
    expect(both.choices[0]).toMatchObject({
      message: { content: 'Let me see.', tool_calls: [{ function: { name: 'add' } }] },
    })
    const wrong = '<tool_call>\n{"name": "rm", "arguments": {}}\n</tool_call>'
    const text = await answerTo(wrong)
    expect(text.choices[0]).toMatchObject({ message: { content: wrong }, finish_reason: 'stop' })
    expect(text.choices[0]?.message).not.toHaveProperty('tool_calls')
    const untold = await answerTo(call, { tools: [] })
    expect(untold.choices[0]).toMatchObject({ message: { content: call }, finish_reason: 'stop' })
  })

  it('are called once only where calls side by side are not wanted', async () => {
    const { choices } = await answerTo(`${call}${other}`, { parallel_tool_calls: false })
    expect(choices[0]?.message.tool_calls?.length).toBe(1)
    expect(choices[0]?.finish_reason).toBe('tool_calls')
  })

  it('say length where the answer was cut within a call', async () => {
    const { choices } = await answerTo(call, { max_tokens: 12 })
    expect(choices[0]?.finish_reason).toBe('length')
    expect(choices[0]?.message.content).toMatch(/^<tool_call>\n/)
  })

  it('stream their calls: index, id and name first, then the arguments in pieces', async () => {
    const long = JSON.stringify({ a: 1, text: 'x😀'.repeat(60) })
    const words = `So: <tool_call>{"name": "add", "arguments": ${long}}</tool_call>${other}`
    const body = { messages: asks(`SAY:${words}`), tools, stream: true, n: 2 }
    const { chunks, isDone } = await chunksOf(await post(`${parrot.url}/v1/chat/completions`, body))
    expect(isDone).toBe(true)
    for (const answer of [0, 1]) {
      const choices = chunks.flatMap((chunk) => chunk.choices).filter((one) => one.index === answer)
      const pieces = choices.flatMap(
        ({ delta }) => (delta as { tool_calls?: Piece[] }).tool_calls ?? [],
      )
      const heads = pieces.filter((piece) => piece.id !== undefined)
      expect(heads).toEqual([
        {
          index: 0,
          id: expect.any(String),
          type: 'function',
          function: { name: 'add', arguments: '' },
        },
        {
          index: 1,
          id: expect.any(String),
          type: 'function',
          function: { name: 'look', arguments: '' },
        },
      ])
      const rest = pieces.filter((piece) => piece.id === undefined && piece.index === 0)
      expect(rest.length).toBeGreaterThan(2)
      expect(rest.map((piece) => piece.function.arguments).join('')).toBe(long)
      for (const { function: one } of rest) {
        expect(Buffer.from(one.arguments).toString()).toBe(one.arguments)
      }
      expect(choices.map(({ delta }) => delta.content ?? '').join('')).toBe('So:')
      expect(choices.at(-1)?.finish_reason).toBe('tool_calls')
    }
  })
})

interface Piece {
  readonly index: number
  readonly id?: string
  readonly function: { readonly name?: string; readonly arguments: string }
}

describe('a choice of tools', () => {
  it('that names one, or wants any, begins the call for the model, without a thought', async () => {
    const named = { tool_choice: { type: 'function', function: { name: 'add' } } }
    const one = await answerTo('{"a": 2}', named)
    expect(
      parrot.prompt().endsWith('<role>ASSISTANT</role><tool_call>\n{"name": "add", "arguments": '),
    ).toBe(true)
    expect(one.choices[0]).toMatchObject({
      message: {
        content: null,
        tool_calls: [{ function: { name: 'add', arguments: '{"a": 2}' } }],
      },
      finish_reason: 'tool_calls',
    })
    const open = { tool_choice: 'required', chat_template_kwargs: { open_thought: true } }
    const any = await answerTo('{"name": "look", "arguments": {}}', open)
    expect(parrot.prompt().endsWith('<think>\n\n</think>\n\n<tool_call>\n')).toBe(true)
    expect(any.choices[0]).toMatchObject({
      message: { content: null, tool_calls: [{ function: { name: 'look' } }] },
    })
    expect(any.choices[0]?.message).not.toHaveProperty('reasoning_content')
  })

  it('of tools that cannot be followed leaves the call to the model, unless one is strict', async () => {
    const odd = { type: 'object', properties: { a: { type: 'integer', multipleOf: 3 } } }
    const strange = (strict: boolean) => ({
      tools: [look, { type: 'function', function: { name: 'odd', parameters: odd, strict } }],
      tool_choice: 'required',
    })
    const { choices } = await answerTo('odd", "arguments": {"a": 7}}\n</tool_call>', strange(false))
    expect(parrot.prompt().endsWith('<tool_call>\n{"name": "')).toBe(true)
    expect(choices[0]?.message.tool_calls).toMatchObject([
      { function: { name: 'odd', arguments: '{"a": 7}' } },
    ])
    const refused = await refusalOf(strange(true))
    expect(refused).toMatchObject({ param: 'tools' })
    expect(refused.message).toMatch(/multipleOf/)
  })

  it('that no tool fits is refused', async () => {
    const absent = { type: 'function', function: { name: 'absent' } }
    for (const [body, param] of [
      [{ tools, tool_choice: absent }, 'tool_choice'],
      [{ tool_choice: 'required' }, 'tool_choice'],
      [{ tools, tool_choice: 'any' }, 'tool_choice'],
      [{ tools: [add, add] }, 'tools'],
      [{ tools: [{ type: 'custom', custom: {} }] }, 'tools.0.type'],
      [{ tools: [{ type: 'function', function: { name: 'a b' } }] }, 'tools.0.function.name'],
      [
        {
          tools: Array.from({ length: 129 }, (_, at) => ({
            type: 'function',
            function: { name: `f${at}` },
          })),
        },
        'tools',
      ],
    ] as const) {
      expect(await refusalOf(body)).toMatchObject({ param })
    }
  })
})

describe('calls of earlier rounds', () => {
  it('and their results are shown to the model, arguments as an object', async () => {
    const messages = [
      ...asks('Add.'),
      {
        role: 'assistant',
        content: null,
        tool_calls: [
          { id: 'call_1', type: 'function', function: { name: 'add', arguments: '{"a":1}' } },
          { id: 'call_2', type: 'function', function: { name: 'look', arguments: 'broken {' } },
        ],
      },
      { role: 'tool', tool_call_id: 'call_1', content: [{ type: 'text', text: '85' }] },
      { role: 'user', content: 'SAY:Good.' },
    ]
    expect((await answerTo('', { messages })).choices[0]?.message.content).toBe('Good.')
    expect(parrot.prompt()).toContain(
      '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>',
    )
    expect(parrot.prompt()).toContain('"arguments": "broken {"}')
    expect(parrot.prompt()).toContain('<tool_response>85</tool_response>')
    const wrong = [...asks('a'), { role: 'assistant', tool_calls: [{ function: { name: 'x' } }] }]
    expect(await refusalOf({ messages: wrong })).toMatchObject({
      param: 'messages.1.tool_calls.0.function.arguments',
    })
  })
})

describe('a template that knows no tools', () => {
  it('is no reason to leave them out unsaid', async () => {
    expect(await refusalOf({ tools }, plain.url)).toMatchObject({
      param: 'tools',
      message: expect.stringContaining('does not know tools'),
    })
  })
})

describe('how much to think', () => {
  it('is handed to the template, and none is its switch', async () => {
    await answerTo('Hi', { reasoning_effort: 'high' })
    expect(parrot.prompt()).toContain('effort high')
    const ask = (body: object) =>
      post(`${plain.url}/v1/chat/completions`, {
        messages: asks('What is 37 + 48?'),
        temperature: 0,
        ...body,
      })
    const thoughtless = await jsonOf<ToolAnswer>(await ask({ reasoning_effort: 'none' }))
    expect(thoughtless.choices[0]?.message).not.toHaveProperty('reasoning_content')
    const both = { reasoning_effort: 'none', chat_template_kwargs: { enable_thinking: true } }
    expect(
      (await jsonOf<ToolAnswer>(await ask(both))).choices[0]?.message.reasoning_content,
    ).toMatch(/carry/)
  })

  it('has variables of the template within bounds', async () => {
    const many = Object.fromEntries(Array.from({ length: 33 }, (_, at) => [`v${at}`, 1]))
    for (const kwargs of [
      { enable_thinking: 'false' },
      { 'a b': 1 },
      { a: 'x'.repeat(17_000) },
      many,
      [],
    ]) {
      expect((await refusalOf({ chat_template_kwargs: kwargs })).param).toMatch(
        /^chat_template_kwargs/,
      )
    }
  })
})

/** The tools on the lines of a prompt. */
function shownIn(prompt: string): object[] {
  const lines = prompt.split('\n').map((line) => line.replace(/^<role>SYSTEM<\/role>/, ''))
  return lines
    .filter((line) => line.startsWith('{"type"'))
    .map((line) => JSON.parse(line) as object)
}
