// POST /v1/responses with raw bodies: what items become for the model, the order of events, what an answer
// that was cut or broke off says, and what is refused. That the openai client reads it is shown elsewhere.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Parrot, startParrot } from './parrot.js'
import { errorOf, eventsOf, jsonOf, post, startServer } from './serving.js'

let folder: string
let parrot: Parrot
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'ring-'))
  parrot = await startParrot(folder)
})
afterAll(async () => {
  await parrot.close()
  rmSync(folder, { recursive: true })
})

const tools = [{ type: 'function', name: 'add', parameters: { type: 'object' } }]
const call = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
const words = `SAY:<think>\nHm.\n</think>\n\nFirst. ${call}\nThen.`

function ask(body: object, url = parrot.url): Promise<Response> {
  return post(`${url}/v1/responses`, { temperature: 0, ...body })
}

interface Answer {
  readonly status: string
  readonly incomplete_details: { readonly reason: string } | null
  readonly output: { readonly type: string; readonly status: string }[]
  readonly error: { readonly code: string; readonly message: string } | null
}

interface WireEvent {
  readonly type: string
  readonly sequence_number: number
  readonly output_index?: number
  readonly item_id?: string
  readonly item?: { readonly id: string }
  readonly delta?: string
  readonly arguments?: string
  readonly text?: string
  readonly response?: Answer
}

async function streamed(body: object, url = parrot.url): Promise<WireEvent[]> {
  const events: WireEvent[] = []
  for await (const text of eventsOf(await ask({ ...body, stream: true }, url))) {
    const [, name, data] = /^event: (\S+)\ndata: (.*)$/.exec(text) ?? []
    const event = JSON.parse(data ?? 'null') as WireEvent
    expect(event.type).toBe(name)
    events.push(event)
  }
  return events
}

describe('a response', () => {
  it('has its items in order, and repeats what was asked', async () => {
    const body = { input: words, tools, instructions: 'Be brief.', metadata: { a: 'b' }, seed: 1 }
    expect(await jsonOf(await ask(body))).toMatchObject({
      id: expect.stringMatching(/^resp_\w{32}$/),
      object: 'response',
      status: 'completed',
      error: null,
      incomplete_details: null,
      model: 'ring-tiny',
      output: [
        { type: 'reasoning', summary: [], content: [{ type: 'reasoning_text', text: 'Hm.' }] },
        { type: 'message', role: 'assistant', content: [{ type: 'output_text', text: 'First.' }] },
        { type: 'function_call', name: 'add', arguments: '{"a": 1}', status: 'completed' },
        { type: 'message', content: [{ text: 'Then.', annotations: [], logprobs: [] }] },
      ],
      tools,
      tool_choice: 'auto',
      instructions: 'Be brief.',
      metadata: { a: 'b' },
      store: false,
      previous_response_id: null,
      usage: {
        input_tokens_details: { cached_tokens: 0 },
        output_tokens_details: { reasoning_tokens: expect.any(Number) },
      },
    })
    expect(parrot.prompt()).toContain('<role>SYSTEM</role>Be brief.\n')
  })

  it('streams events that number rising and open, fill and close each item', async () => {
    const events = await streamed({ input: words, tools })
    expect(events.map((event) => event.sequence_number)).toEqual([...events.keys()])
    const of = (index: number) => events.filter((event) => event.output_index === index)
    const kinds = (index: number) => [
      ...new Set(of(index).map(({ type }) => type.replace('response.', ''))),
    ]
    const text = (kind: string) => [
      'output_item.added',
      'content_part.added',
      `${kind}.delta`,
      `${kind}.done`,
      'content_part.done',
      'output_item.done',
    ]
    const [args, done] = ['function_call_arguments.delta', 'function_call_arguments.done']
    expect(kinds(0)).toEqual(text('reasoning_text'))
    expect(kinds(1)).toEqual(text('output_text'))
    expect(kinds(2)).toEqual(['output_item.added', args, done, 'output_item.done'])
    expect(kinds(3)).toEqual(text('output_text'))
    for (const index of [0, 1, 2, 3]) {
      const whole = of(index).find(({ type }) => /_(text|arguments)\.done$/.test(type))
      const pieces = of(index).map(({ delta }) => delta ?? '')
      expect(pieces.join('')).toBe(whole?.text ?? whole?.arguments)
      const ids = of(index).map(({ item, item_id: id }) => item?.id ?? id)
      expect(new Set(ids).size).toBe(1)
    }
    expect(events.slice(0, 2).map(({ type }) => type)).toEqual([
      'response.created',
      'response.in_progress',
    ])
    expect(events.at(-1)).toMatchObject({
      type: 'response.completed',
      response: { status: 'completed' },
    })
    expect(events.at(-1)?.response?.output.length).toBe(4)
  })

  it('is incomplete where it was cut, whole and streamed', async () => {
    const body = { input: 'SAY:One two three four five.', max_output_tokens: 4 }
    const cut = {
      status: 'incomplete',
      incomplete_details: { reason: 'max_output_tokens' },
      output: [{ type: 'message', status: 'incomplete' }],
    }
    expect(await jsonOf(await ask(body))).toMatchObject(cut)
    expect((await streamed(body)).at(-1)).toMatchObject({
      type: 'response.incomplete',
      response: cut,
    })
  })

  it('has failed where it broke off', async () => {
    const hasty = await startServer({ parallel: 1, deadlineMs: 150 })
    try {
      const events = await streamed({ input: 'Hello!', ignore_eos: true }, hasty.url)
      expect(events.at(-1)).toMatchObject({
        type: 'response.failed',
        response: { status: 'failed', error: { code: 'deadline_exceeded' } },
      })
    } finally {
      await hasty.close()
    }
  })
})

describe('items of the input', () => {
  it('of one answer become one message again', async () => {
    const input = [
      { type: 'message', role: 'developer', content: 'Be brief.' },
      { role: 'user', content: [{ type: 'input_text', text: 'Add.' }] },
      {
        type: 'reasoning',
        id: 'rs_1',
        summary: [],
        content: [{ type: 'reasoning_text', text: 'Hm.' }],
      },
      { type: 'message', role: 'assistant', content: [{ type: 'output_text', text: 'So:' }] },
      { type: 'function_call', call_id: 'c', name: 'add', arguments: '{"a": 1}' },
      { type: 'function_call_output', call_id: 'c', output: [{ type: 'input_text', text: '85' }] },
      { role: 'user', content: 'SAY:Good.' },
    ]
    await jsonOf(await ask({ input, tools }))
    const shown = parrot.prompt()
    expect(shown).toContain('<role>SYSTEM</role>Be brief.\n')
    expect(shown).toContain(
      '<role>HUMAN</role>Add.<|role_end|><role>ASSISTANT</role><think>Hm.</think>So:' +
        '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|role_end|>' +
        '<role>OBSERVATION</role><tool_response>85</tool_response><|role_end|>',
    )
  })
})

describe('a response that cannot be given', () => {
  it.each<[field: string, body: object]>([
    ['previous_response_id', { previous_response_id: 'resp_1' }],
    ['conversation', { conversation: 'conv_1' }],
    ['prompt', { prompt: { id: 'pmpt_1' } }],
    ['background', { background: true }],
    ['text.format.type', { text: { format: { type: 'grammar' } } }],
    ['tools.0.type', { tools: [{ type: 'web_search' }] }],
    ['tool_choice', { tools, tool_choice: { type: 'function', name: 'absent' } }],
    ['input', { input: [] }],
    ['input.0.type', { input: [{ type: 'item_reference', id: 'msg_1' }] }],
    ['input.0.content', { input: [{ role: 'user', content: [{ type: 'input_image' }] }] }],
    ['input.1.call_id', { input: [{ role: 'user', content: 'a' }, { type: 'function_call' }] }],
    ['input.0', { input: [7] }],
    ['max_output_tokens', { max_output_tokens: 4000 }],
    ['reasoning.effort', { reasoning: { effort: 'great' } }],
  ])('is refused for %s', async (param, body) => {
    const response = await ask({ input: 'SAY:Hi', ...body })
    expect(response.status).toBe(400)
    expect(await errorOf(response)).toMatchObject({ param, type: 'invalid_request_error' })
  })
})
