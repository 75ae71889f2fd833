// Calls that must be made, drawn by the bundled model, which knows no tools: they are right all the same,
// by the schemas of the tools, in every family of routes, whole and streamed.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { modelWithTools } from './parrot.js'
import { asks, eventsOf, jsonOf, post, type Running, startServer } from './serving.js'

let folder: string
let server: Running
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'ring-'))
  server = await startServer({ folder: modelWithTools(folder), parallel: 3 })
})
afterAll(async () => {
  await server.close()
  rmSync(folder, { recursive: true })
})

const colours = ['red', 'green', 'blue']
const paint = {
  name: 'paint',
  parameters: {
    type: 'object',
    properties: {
      colour: { $ref: '#/$defs/colour' },
      coats: { type: 'integer', minimum: 1, maximum: 3 },
    },
    required: ['colour', 'coats'],
    $defs: { colour: { enum: colours } },
  },
}
const wait = {
  name: 'wait',
  parameters: {
    type: 'object',
    properties: { until: { type: 'string', format: 'date' } },
    required: ['until'],
  },
}
const hot = { temperature: 1.8, max_tokens: 200 }

interface Call {
  readonly name: string
  readonly arguments: string
}

function expectRight({ name, arguments: text }: Call): void {
  const given = JSON.parse(text) as { colour?: string; coats?: number; until?: string }
  if (name === 'wait') {
    expect(given).toEqual({ until: expect.stringMatching(/^\d{4}-\d\d-\d\d$/) })
  } else {
    expect(name).toBe('paint')
    expect(colours).toContain(given.colour)
    expect([1, 2, 3]).toContain(given.coats)
    expect(Object.keys(given)).toEqual(['colour', 'coats'])
  }
}

interface Chat {
  readonly choices: {
    readonly message: { content: string | null; tool_calls?: { function: Call }[] }
    readonly finish_reason: string
  }[]
}

const tools = [paint, wait].map((one) => ({ type: 'function', function: one }))

describe('a call that must be made', () => {
  it.each([
    ['of one tool', { type: 'function', function: { name: 'paint' } }, ['paint']],
    ['of any', 'required', ['paint', 'wait']],
  ])('is right whatever the seed: %s', async (_, choice, names) => {
    const called = new Set<string>()
    for (const seed of [1, 2, 3, 4, 5, 6]) {
      const body = { ...hot, messages: asks('Do something.'), tools, tool_choice: choice, seed }
      const { choices } = await jsonOf<Chat>(await post(`${server.url}/v1/chat/completions`, body))
      const [first] = choices
      expect(first).toMatchObject({ message: { content: null }, finish_reason: 'tool_calls' })
      const calls = first?.message.tool_calls ?? []
      expect(calls).toHaveLength(1)
      for (const { function: call } of calls) {
        expectRight(call)
        called.add(call.name)
      }
    }
    expect([...called].sort()).toEqual(names)
  })

  it('comes in pieces in a stream, the same', async () => {
    const body = {
      ...{ ...hot, messages: asks('Paint.'), tools, seed: 5 },
      tool_choice: { type: 'function', function: { name: 'paint' } },
    }
    const url = `${server.url}/v1/chat/completions`
    const { choices } = await jsonOf<Chat>(await post(url, body))
    let text = ''
    for await (const event of eventsOf(await post(url, { ...body, stream: true }))) {
      if (!event.startsWith('{')) continue
      const chunk = JSON.parse(event) as {
        choices: { delta: { tool_calls?: { function: Partial<Call> }[] } }[]
      }
      for (const { delta } of chunk.choices)
        for (const { function: call } of delta.tool_calls ?? []) text += call.arguments ?? ''
    }
    expect(text).toBe(choices[0]?.message.tool_calls?.[0]?.function.arguments)
  })

  it('is right in responses and in messages too', async () => {
    const response = await post(`${server.url}/v1/responses`, {
      ...{ input: 'Paint.', temperature: 1.8, max_output_tokens: 200, seed: 3 },
      tools: [paint, wait].map((one) => ({ type: 'function', ...one })),
      tool_choice: 'required',
    })
    const { output } = await jsonOf<{ output: (Call & { type: string })[] }>(response)
    expect(output.map(({ type }) => type)).toEqual(['function_call'])
    output.forEach(expectRight)
    const message = await post(`${server.url}/v1/messages`, {
      ...{ ...hot, messages: asks('Wait.'), seed: 4 },
      tools: [paint, wait].map(({ name, parameters }) => ({ name, input_schema: parameters })),
      tool_choice: { type: 'tool', name: 'wait' },
    })
    const { content, stop_reason: reason } = await jsonOf<{
      content: { type: string; name: string; input: object }[]
      stop_reason: string
    }>(message)
    expect(content.map(({ type }) => type)).toEqual(['tool_use'])
    expect(reason).toBe('tool_use')
    for (const { name, input } of content) expectRight({ name, arguments: JSON.stringify(input) })
  })

  it('says length where it was cut, and then is text', async () => {
    const body = { messages: asks('Paint.'), tools, tool_choice: 'required', max_tokens: 3 }
    const { choices } = await jsonOf<Chat>(await post(`${server.url}/v1/chat/completions`, body))
    expect(choices[0]).toMatchObject({ finish_reason: 'length' })
    expect(choices[0]?.message).not.toHaveProperty('tool_calls')
  })
})
