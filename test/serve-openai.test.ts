// The openai client for npm against the server, over loopback: what a program that uses it gets, objects,
// streams, tools and the classes of errors. Most on the bundled model; tools on one that says what it is
// told to.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import OpenAI, {
  APIUserAbortError,
  AuthenticationError,
  BadRequestError,
  InternalServerError,
  NotFoundError,
  RateLimitError,
} from 'openai'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Parrot, startParrot } from './parrot.js'
import { type Running, startServer, until } from './serving.js'

const key = 'a-key-for-clients'
const model = 'ring-tiny'
const sum = 'What is 37 + 48?'
const messages = [{ role: 'user', content: sum }] as const

let folder: string
let server: Running
let parrot: Parrot
let client: OpenAI
let toolClient: OpenAI
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'ring-'))
  server = await startServer({ keys: [key], parallel: 2, queue: 1 })
  parrot = await startParrot(folder)
  client = clientOf(server.url)
  toolClient = clientOf(parrot.url)
})
afterAll(async () => {
  await Promise.all([server.close(), parrot.close()])
  rmSync(folder, { recursive: true })
})

function clientOf(url: string, apiKey = key): OpenAI {
  return new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 })
}

const body = { model, messages: [...messages], temperature: 0 }

describe('chats of the client', () => {
  it('are answered, with log-probabilities and n answers', async () => {
    const { choices, usage } = await client.chat.completions.create({
      ...body,
      n: 2,
      logprobs: true,
      top_logprobs: 2,
    })
    expect(choices.map(({ message }) => message.content)).toEqual(['85', '85'])
    expect(choices[0]?.logprobs?.content?.map(({ token }) => token).join('')).toBe('85')
    expect(choices[0]?.logprobs?.content?.[0]?.top_logprobs.length).toBe(2)
    expect(usage?.prompt_tokens_details?.cached_tokens).toBe(0)
    expect(usage?.completion_tokens_details?.reasoning_tokens).toBeGreaterThan(20)
  })

  it('stream, with usage at the end, to the same answer', async () => {
    const stream = client.chat.completions.stream({
      ...body,
      stream_options: { include_usage: true },
    })
    const completion = await stream.finalChatCompletion()
    expect(completion.choices[0]).toMatchObject({
      message: { role: 'assistant', content: '85' },
      finish_reason: 'stop',
    })
    expect((await stream.totalUsage()).completion_tokens).toBe(28)
  })

  it('can be left, and free their place', async () => {
    const leaving = new AbortController()
    const stream = await client.chat.completions.create(
      { ...body, stream: true, max_tokens: 1900, logit_bias: eosNever },
      { signal: leaving.signal },
    )
    let heard = 0
    for await (const _chunk of stream) {
      heard += 1
      if (heard === 5) leaving.abort()
    }
    expect(heard).toBeLessThan(1000)
    const whole = client.chat.completions.create(body, { signal: AbortSignal.abort() })
    await expect(whole).rejects.toBeInstanceOf(APIUserAbortError)
    await until(async () => server.service.gate.running === 0)
  })

  it('call tools, round after round, whole and streamed', async () => {
    const said: string[] = []
    const runner = toolClient.chat.completions.runTools({
      model,
      stream: true,
      messages: [
        {
          role: 'user',
          content: 'SAY:Hm. <tool_call>{"name": "add", "arguments": {"a": 4}}</tool_call>',
        },
      ],
      tools: [
        {
          type: 'function',
          function: {
            name: 'add',
            description: 'Adds.',
            parameters: { type: 'object', properties: { a: { type: 'number' } } },
            parse: JSON.parse,
            function: ({ a }: { a: number }) => {
              said.push(`called with ${a}`)
              return 'SAY:It is 85.'
            },
          },
        },
      ],
    })
    expect(await runner.finalContent()).toBe('It is 85.')
    expect(said).toEqual(['called with 4'])
    const calls = runner.messages.flatMap((one) =>
      one.role === 'assistant' ? (one.tool_calls ?? []) : [],
    )
    expect(calls).toMatchObject([
      { type: 'function', function: { name: 'add', arguments: '{"a": 4}' } },
    ])
  })
})

describe('responses of the client', () => {
  it('are objects with a thought and a text', async () => {
    const response = await client.responses.create({
      model,
      input: sum,
      temperature: 0,
      store: true,
      include: ['message.output_text.logprobs'],
    })
    expect(response.output_text).toBe('85')
    expect(response.status).toBe('completed')
    expect(response.output.map(({ type }) => type)).toEqual(['reasoning', 'message'])
    expect(response.usage?.output_tokens_details.reasoning_tokens).toBeGreaterThan(20)
    const [, said] = response.output
    const part = said?.type === 'message' ? said.content[0] : undefined
    expect(part?.type === 'output_text' && part.logprobs?.length).toBe(2)
  })

  it('stream to the same object', async () => {
    const question = { model, input: sum, instructions: 'Be brief.', temperature: 0 }
    const whole = await client.responses.create(question)
    const types = new Set<string>()
    const stream = client.responses.stream(question)
    for await (const event of stream) types.add(event.type)
    const streamed = await stream.finalResponse()
    expect(streamed.output_text).toBe(whole.output_text)
    const anonymous = (response: object) =>
      JSON.parse(JSON.stringify(response).replace(/"(resp|msg|rs)_\w+"/g, '"$1"')) as object
    expect(anonymous(streamed.output)).toMatchObject(anonymous(whole.output))
    // The second time its prompt is known.
    const { input_tokens_details, ...usage } = streamed.usage ?? {}
    expect(input_tokens_details?.cached_tokens).toBe(29)
    expect(whole.usage).toMatchObject(usage)
    for (const type of [
      'response.created',
      'response.reasoning_text.delta',
      'response.output_text.delta',
      'response.completed',
    ]) {
      expect(types).toContain(type)
    }
  })

  it('call tools, and are told what came of it', async () => {
    const tools = [
      { type: 'function' as const, name: 'add', parameters: { type: 'object' }, strict: false },
    ]
    const input: OpenAI.Responses.ResponseInput = [
      {
        role: 'user',
        content: 'SAY:<tool_call>{"name": "add", "arguments": {"a": 4}}</tool_call>',
      },
    ]
    const stream = toolClient.responses.stream({ model, input, tools })
    const { output } = await stream.finalResponse()
    expect(output).toMatchObject([
      { type: 'function_call', name: 'add', arguments: '{"a": 4}', status: 'completed' },
    ])
    const [call] = output
    if (call?.type !== 'function_call') throw new Error('no call')
    const { call_id, name, arguments: given } = call
    input.push({ type: 'function_call', call_id, name, arguments: given })
    input.push({ type: 'function_call_output', call_id, output: 'SAY:It is 85.' })
    const next = await toolClient.responses.create({ model, input, tools })
    expect(next.output_text).toBe('It is 85.')
    expect(parrot.prompt()).toContain('<tool_call>\n{"name": "add", "arguments": {"a": 4}}')
  })
})

describe('errors of the client', () => {
  it('have the class of their status, and name the field', async () => {
    await expect(clientOf(server.url, 'another-key').models.list()).rejects.toBeInstanceOf(
      AuthenticationError,
    )
    await expect(client.models.retrieve('another')).rejects.toBeInstanceOf(NotFoundError)
    const schema = { type: 'json_schema', json_schema: { name: 'a', schema: { not: {} } } } as const
    const refusal = client.chat.completions.create({ ...body, response_format: schema })
    await expect(refusal).rejects.toBeInstanceOf(BadRequestError)
    await expect(refusal).rejects.toMatchObject({
      status: 400,
      param: 'response_format.json_schema.schema',
    })
    await expect(
      client.responses.create({ model, input: sum, previous_response_id: 'resp_1' }),
    ).rejects.toMatchObject({ param: 'previous_response_id' })
    await expect(client.responses.retrieve('resp_1')).rejects.toBeInstanceOf(NotFoundError)
    await expect(client.embeddings.create({ model, input: 'a' })).rejects.toBeInstanceOf(
      BadRequestError,
    )
  })

  it('tell a full queue and a model that is not loaded', async () => {
    const leaving = new AbortController()
    const long = { ...body, stream: true as const, max_tokens: 1900, logit_bias: eosNever, n: 3 }
    await client.chat.completions.create(long, { signal: leaving.signal })
    await expect(client.chat.completions.create(body)).rejects.toBeInstanceOf(RateLimitError)
    leaving.abort()
    await until(async () => server.service.gate.running === 0)
    const early = await startServer({ isLoaded: false })
    try {
      const asked = clientOf(early.url).chat.completions.create(body)
      await expect(asked).rejects.toBeInstanceOf(InternalServerError)
      await expect(asked).rejects.toMatchObject({ status: 503 })
    } finally {
      await early.close()
    }
  })
})

/** The bundled model's tokens that end a text; with this it goes on. */
const eosNever = { 1018: -100, 1021: -100 }
