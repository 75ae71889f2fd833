// What the server answers: chats and completions, whole and streamed, against the command line and
// against itself. One server over ring-tiny; requests run side by side in it.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openTemplate } from '../src/model/template.js'
import { openTokenizer } from '../src/model/tokenizer.js'
import { command, lastObject } from './command.js'
import { ringTiny } from './paths.js'
import {
  asks,
  chat,
  chunksOf,
  eventsOf,
  figureOf,
  jsonOf,
  post,
  type Running,
  saidIn,
  startServer,
  type WireUsage,
} from './serving.js'

const sum = 'What is 37 + 48?'
const thought = '7+8=15 write 5 carry 1\n3+4+1=8'
const questions = [sum, '12+9=?', 'Hello!', 'Write a line of C.', '90-45=?', 'Who are you?']
const tokenizer = openTokenizer(ringTiny)

let server: Running
beforeAll(async () => {
  server = await startServer()
})
afterAll(async () => {
  await server.close()
})

function stream(body: Record<string, unknown>): Promise<Response> {
  return post(`${server.url}/v1/chat/completions`, { temperature: 0, stream: true, ...body })
}

describe('a chat', () => {
  it('is answered with its reasoning apart, and counts its tokens', async () => {
    const answer = await chat(server.url, { model: 'any', messages: asks(sum) })
    expect(answer).toMatchObject({
      id: expect.stringMatching(/^chatcmpl-\w{32}$/),
      object: 'chat.completion',
      model: 'ring-tiny',
      system_fingerprint: expect.stringMatching(/^fp_\w{10}$/),
      choices: [
        {
          index: 0,
          message: { role: 'assistant', content: '85', reasoning_content: thought, refusal: null },
          logprobs: null,
          finish_reason: 'stop',
        },
      ],
      usage: { completion_tokens: 28, prompt_tokens_details: { cached_tokens: 0 } },
    })
    const { prompt_tokens: prompt, total_tokens: total } = answer.usage
    expect(prompt).toBe(tokenizer.encode(rendered(sum)).length)
    expect(total).toBe(prompt + 28)
    // <think>, the thought and </think>; then a blank, the answer, the end of turn.
    expect(answer.usage.completion_tokens_details.reasoning_tokens).toBeGreaterThan(20)
    expect(answer.usage.completion_tokens_details.reasoning_tokens).toBeLessThan(28)
  })

  it('says what `run` says, greedily, however many are asked at once', async () => {
    const answers = await Promise.all(
      questions.map((content) => chat(server.url, { messages: asks(content), max_tokens: 60 })),
    )
    const words = ['run', '--json', '-q', '-n', '60', '-p']
    const ends = await Promise.all(questions.slice(1, 3).map((text) => command([...words, text])))
    for (const [index, end] of ends.entries()) {
      const { text, reasoning, finish_reason: reason } = lastObject(end)
      expect(answers[index + 1]?.choices[0]).toMatchObject({
        message: { content: text },
        finish_reason: reason,
      })
      expect(answers[index + 1]?.choices[0]?.message.reasoning_content ?? '').toBe(reasoning)
    }
  })

  it('is the same bit for bit alone and among others', async () => {
    const body = (content: string) => ({
      messages: asks(content),
      max_tokens: 40,
      logprobs: true,
      top_logprobs: 5,
    })
    const together = await Promise.all(questions.map((text) => chat(server.url, body(text))))
    for (const [index, text] of questions.entries()) {
      const alone = await chat(server.url, body(text))
      expect(together[index]?.choices).toEqual(alone.choices)
    }
  })

  it('takes parts, earlier rounds, a developer and an explicit null', async () => {
    const messages = [
      { role: 'developer', content: 'Be brief.' },
      {
        role: 'user',
        content: [
          { type: 'text', text: 'Hello' },
          { type: 'text', text: '!' },
        ],
      },
      { role: 'assistant', content: 'Hi.', reasoning: 'They greet.', tool_calls: null },
      { role: 'user', content: sum, name: null },
    ]
    const plain = [
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: 'Hello!' },
      { role: 'assistant', content: 'Hi.' },
      { role: 'user', content: sum },
    ] as const
    const answer = await chat(server.url, {
      messages,
      stop: null,
      seed: null,
      unheard_of: { a: 1 },
    })
    const text = openTemplate(ringTiny).render(plain, { addGenerationPrompt: true })
    expect(answer.usage.prompt_tokens).toBe(tokenizer.encode(text).length)
  })

  it('hands chat_template_kwargs to the template', async () => {
    const kwargs = { enable_thinking: false }
    const answer = await chat(server.url, { messages: asks(sum), chat_template_kwargs: kwargs })
    expect(answer.choices[0]?.message).not.toHaveProperty('reasoning_content')
    const counted = await post(`${server.url}/tokenize`, {
      messages: asks(sum),
      chat_template_kwargs: kwargs,
    })
    const text = rendered(sum, false)
    expect((await jsonOf<{ tokens: number[] }>(counted)).tokens).toEqual([
      ...tokenizer.encode(text),
    ])
  })

  it('ends at max_tokens, by either name', async () => {
    for (const field of ['max_tokens', 'max_completion_tokens']) {
      const answer = await chat(server.url, { messages: asks(sum), [field]: 5 })
      expect(answer.choices[0]?.finish_reason).toBe('length')
      expect(answer.usage.completion_tokens).toBe(5)
    }
  })
})

describe('a streamed chat', () => {
  it('gives the same answer in pieces, its role first, its reason last', async () => {
    const response = await stream({ messages: asks(sum) })
    expect(response.headers.get('content-type')).toBe('text/event-stream; charset=utf-8')
    expect(response.headers.get('x-request-id')).toMatch(/^req_/)
    const { chunks, isDone } = await chunksOf(response)
    expect(isDone).toBe(true)
    expect(chunks[0]?.choices[0]).toMatchObject({ index: 0, delta: { role: 'assistant' } })
    expect(saidIn(chunks)).toEqual({ content: '85', reasoning: thought, reason: 'stop' })
    expect(new Set(chunks.map((chunk) => (chunk as unknown as { id: string }).id)).size).toBe(1)
    expect(chunks.slice(0, -1).every(({ choices }) => choices[0]?.finish_reason === null)).toBe(
      true,
    )
    expect(chunks.filter((chunk) => 'usage' in chunk)).toEqual([])
    expect(chunks.length).toBeGreaterThan(10)
  })

  it('ends with its usage where that is asked for', async () => {
    const options = { stream_options: { include_usage: true } }
    const { chunks } = await chunksOf(await stream({ messages: asks(sum), ...options }))
    const whole = await chat(server.url, { messages: asks(sum) })
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: whole.usage })
    expect(chunks.slice(0, -1).every(({ usage }) => usage === null)).toBe(true)
  })

  it('says that it lives while it waits', async () => {
    const patient = await startServer({ parallel: 1, queue: 1, keepAliveMs: 5 })
    try {
      const endless = { messages: asks('Hello!'), stream: true, ignore_eos: true }
      const url = `${patient.url}/v1/chat/completions`
      const first = new AbortController()
      await post(url, endless, { signal: first.signal })
      const second = new AbortController()
      const waiting = await post(url, endless, { signal: second.signal })
      let heard = 0
      for await (const event of eventsOf(waiting)) {
        if (event === ': keep-alive') heard += 1
        if (heard === 3) break
      }
      expect(heard).toBe(3)
      expect(await figureOf(patient.url, 'ring_num_requests_waiting')).toBeLessThanOrEqual(1)
      first.abort()
      second.abort()
    } finally {
      await patient.close()
    }
  })
})

describe('stop texts', () => {
  it('end the answer before themselves, whole and streamed', async () => {
    const text = 'To be, or not to be'
    const body = { prompt: text, max_tokens: 60, temperature: 0 }
    const free = await completion(body)
    const said = free.choices[0]?.text ?? ''
    const stop = said.slice(20, 23)
    expect(said.indexOf(stop)).toBeGreaterThan(0)
    const stopped = await completion({ ...body, stop: ['never said, surely', stop] })
    expect(stopped.choices[0]).toMatchObject({
      text: said.slice(0, said.indexOf(stop)),
      finish_reason: 'stop',
    })
    expect(stopped.usage.completion_tokens).toBeLessThan(free.usage.completion_tokens)
    const response = await post(`${server.url}/v1/completions`, { ...body, stop, stream: true })
    const { chunks } = await chunksOf(response)
    const texts = chunks.flatMap(({ choices }) => choices) as unknown as { text: string }[]
    expect(texts.map((one) => one.text).join('')).toBe(said.slice(0, said.indexOf(stop)))
  })

  it('are not looked for in the reasoning', async () => {
    const answer = await chat(server.url, { messages: asks(sum), stop: ['\n', '5'] })
    expect(answer.choices[0]).toMatchObject({
      message: { reasoning_content: thought, content: '8' },
      finish_reason: 'stop',
    })
  })
})

describe('log-probabilities', () => {
  it('are of the answer, token by token, with the reasoning beside it', async () => {
    const body = { messages: asks(sum), logprobs: true, top_logprobs: 3 }
    const { choices, usage } = await chat(server.url, body)
    const content = choices[0]?.logprobs?.content ?? []
    const reasoning = choices[0]?.logprobs?.reasoning_content ?? []
    expect(content.map(({ token }) => token).join('')).toBe('85')
    expect(
      reasoning
        .map(({ token }) => token)
        .join('')
        .trim(),
    ).toBe(`<think>\n${thought}\n</think>`)
    expect(reasoning.length).toBe(usage.completion_tokens_details.reasoning_tokens)
    for (const one of [...content, ...reasoning]) {
      expect(one.top_logprobs.length).toBe(3)
      // Greedy: the drawn token is the likeliest.
      expect(one.top_logprobs[0]).toMatchObject({ token: one.token, logprob: one.logprob })
      expect(Buffer.from(one.bytes).toString()).toBe(one.token)
      expect(one.logprob).toBeLessThanOrEqual(0)
    }
  })

  it('are the same streamed', async () => {
    const body = { messages: asks(sum), logprobs: true, top_logprobs: 2 }
    const whole = await chat(server.url, body)
    const { chunks } = await chunksOf(await stream(body))
    const pieces = chunks.flatMap((chunk) => chunk.choices.map((choice) => choice.logprobs))
    const all = (of: 'content' | 'reasoning_content') => pieces.flatMap((one) => one?.[of] ?? [])
    expect(all('content')).toEqual(whole.choices[0]?.logprobs?.content)
    expect(all('reasoning_content')).toEqual(whole.choices[0]?.logprobs?.reasoning_content)
  })

  it('of completions are lists beside each other', async () => {
    const { choices } = await completion({
      prompt: 'To be',
      max_tokens: 8,
      temperature: 0,
      logprobs: 2,
    })
    const {
      tokens,
      token_logprobs: logprobs,
      top_logprobs: top,
      text_offset: offsets,
    } = choices[0]?.logprobs ?? {}
    expect(tokens?.join('')).toBe(choices[0]?.text)
    expect(logprobs?.length).toBe(tokens?.length)
    for (const [index, token] of (tokens ?? []).entries()) {
      expect(top?.[index]?.[token]).toBe(logprobs?.[index])
      expect(choices[0]?.text.startsWith(token, offsets?.[index])).toBe(true)
    }
  })
})

describe('drawing', () => {
  // Hot enough that the small model does not say what it knows by heart.
  const body = { messages: asks('Hello!'), temperature: 2, max_tokens: 24 }

  it('follows the seed', async () => {
    const [first, again, other] = await Promise.all(
      [7, 7, 8].map((seed) => chat(server.url, { ...body, seed })),
    )
    expect(again?.choices).toEqual(first?.choices)
    expect(other?.choices).not.toEqual(first?.choices)
  })

  it('gives n answers, the first as if it were alone, more than there is room for at once', async () => {
    const many = await chat(server.url, { ...body, seed: 7, n: 5 })
    const one = await chat(server.url, { ...body, seed: 7 })
    expect(many.choices.map(({ index }) => index)).toEqual([0, 1, 2, 3, 4])
    expect(many.choices[0]).toEqual(one.choices[0])
    expect(new Set(many.choices.map(({ message }) => JSON.stringify(message))).size).toBe(5)
    expect(many.usage.prompt_tokens).toBe(one.usage.prompt_tokens)
    const response = await stream({ ...body, seed: 7, n: 5 })
    const { chunks } = await chunksOf(response)
    for (const { index, message } of many.choices) {
      const { content, reasoning } = saidIn(chunks, index)
      expect({ content, reasoning }).toEqual({
        content: message.content,
        reasoning: message.reasoning_content ?? '',
      })
    }
  })

  it('obeys biases and penalties', async () => {
    const five = tokenizer.encode('5')[0] ?? -1
    const biased = await chat(server.url, {
      messages: asks(sum),
      max_tokens: 6,
      logit_bias: { [five]: 100 },
    })
    expect(biased.choices[0]?.message.content).toBe('555555')
    const penalised = await chat(server.url, {
      messages: asks(sum),
      max_tokens: 6,
      logit_bias: { [five]: 20 },
      frequency_penalty: 2,
      presence_penalty: 2,
      repetition_penalty: 8,
    })
    expect(penalised.choices[0]?.message.content).not.toBe('555555')
    const narrow = await chat(server.url, { ...body, top_k: 1, seed: 1 })
    const narrower = await chat(server.url, { ...body, top_p: 0, min_p: 1, seed: 2 })
    const greedy = await chat(server.url, { ...body, temperature: 0 })
    expect(narrow.choices).toEqual(greedy.choices)
    expect(narrower.choices).toEqual(greedy.choices)
  })
})

describe('completions', () => {
  it('continue every prompt, texts or token ids, in order', async () => {
    const texts = ['To be', 'int main']
    const body = { max_tokens: 6, temperature: 0 }
    const byText = await completion({ ...body, prompt: texts })
    const byTokens = await completion({
      ...body,
      prompt: texts.map((text) => [...tokenizer.encode(text)]),
    })
    expect(byTokens.choices).toEqual(byText.choices)
    expect(byText.choices.map(({ index }) => index)).toEqual([0, 1])
    for (const [index, text] of texts.entries()) {
      const alone = await completion({ ...body, prompt: text })
      expect(alone.choices[0]?.text).toBe(byText.choices[index]?.text)
    }
    expect(byText.usage).toMatchObject({
      prompt_tokens: texts.reduce((sum, text) => sum + tokenizer.encode(text).length, 0),
      completion_tokens: 12,
    })
  })

  it('give 16 tokens where none are asked for', async () => {
    const { usage } = await completion({ prompt: 'To be', ignore_eos: true })
    expect(usage.completion_tokens).toBe(16)
  })
})

describe('what the server says of itself', () => {
  it('is a model, its health, its figures and its properties, without a path', async () => {
    const get = async (path: string) => (await fetch(`${server.url}${path}`)).text()
    expect(JSON.parse(await get('/health'))).toEqual({ status: 'ok' })
    const card = { id: 'ring-tiny', object: 'model', owned_by: 'ring-offload', max_model_len: 2048 }
    expect(JSON.parse(await get('/v1/models'))).toMatchObject({ object: 'list', data: [card] })
    expect(JSON.parse(await get('/v1/models/ring-tiny'))).toMatchObject(card)
    const props = await get('/props')
    expect(JSON.parse(props)).toMatchObject({ model: 'ring-tiny', total_slots: 3, n_ctx: 2048 })
    expect(props).not.toContain(ringTiny)
  })

  it('counts tokens and requests', async () => {
    const names = ['ring_prompt_tokens_total', 'ring_generation_tokens_total'] as const
    const before = await Promise.all(names.map((name) => figureOf(server.url, name)))
    const { usage } = await chat(server.url, { messages: asks(sum) })
    const after = await Promise.all(names.map((name) => figureOf(server.url, name)))
    expect((after[0] ?? 0) - (before[0] ?? 0)).toBe(usage.prompt_tokens)
    expect((after[1] ?? 0) - (before[1] ?? 0)).toBe(usage.completion_tokens)
    expect(await figureOf(server.url, 'ring_num_requests_running')).toBe(0)
    expect(await figureOf(server.url, 'ring_expert_misses_total')).toBeGreaterThanOrEqual(0)
    expect(await figureOf(server.url, 'ring_time_to_first_token_seconds_count')).toBeGreaterThan(0)
  })

  it('has its figures under the names that are usual, with its own prefix', async () => {
    const text = await (await fetch(`${server.url}/metrics`)).text()
    const names = [...text.matchAll(/^# TYPE ring_(\w+) \w+$/gm)].map(([, name]) => name)
    expect(names.sort()).toEqual(
      'copy_stall_seconds_total e2e_request_latency_seconds engine_ready engine_restarts_total expert_hits_total expert_misses_total generation_tokens_total inter_token_latency_seconds kv_blocks kv_blocks_used num_requests_running num_requests_waiting nvme_busy_seconds_total nvme_read_bytes_total nvme_stall_seconds_total prefetch_issued_total prefetch_used_total prefetch_wasted_total prefix_blocks prefix_damaged_total prefix_disk_blocks prefix_disk_bytes prefix_hit_tokens_total prefix_query_tokens_total prefix_read_bytes_total prefix_written_bytes_total prompt_tokens_total request_success_total time_to_first_token_seconds'.split(
        ' ',
      ),
    )
  })

  it('tells tokens of text and text of tokens', async () => {
    const text = 'Grüße, <role>HUMAN</role>!'
    const response = await post(`${server.url}/tokenize`, { content: text })
    const { tokens, count } = await jsonOf<{ tokens: number[]; count: number }>(response)
    expect(tokens).toEqual([...tokenizer.encode(text)])
    expect(count).toBe(tokens.length)
    const back = await post(`${server.url}/detokenize`, { tokens })
    expect(await jsonOf(back)).toEqual({ content: text, prompt: text })
  })
})

describe('the log', () => {
  it('has a line for each answer and none of its text', async () => {
    const secret = 'Xylophonquark'
    await chat(server.url, { messages: asks(secret), max_tokens: 3 })
    await post(`${server.url}/v1/chat/completions`, `{"messages": "${secret}`)
    expect(server.lines.at(-1)).toMatch(
      /^POST \/v1\/chat\/completions: \d+ \(\d+ cached\) \+ 3 tokens, [\d.]+ s$/,
    )
    expect(server.lines.join('\n')).not.toContain(secret)
  })
})

interface CompletionAnswer {
  readonly choices: {
    readonly index: number
    readonly text: string
    readonly logprobs: {
      tokens: string[]
      token_logprobs: number[]
      top_logprobs: Record<string, number>[]
      text_offset: number[]
    } | null
    readonly finish_reason: string
  }[]
  readonly usage: WireUsage
}

async function completion(body: Record<string, unknown>): Promise<CompletionAnswer> {
  return jsonOf<CompletionAnswer>(await post(`${server.url}/v1/completions`, body))
}

function rendered(content: string, thinking?: boolean): string {
  const messages = [{ role: 'user', content }] as const
  return openTemplate(ringTiny).render(messages, { thinking, addGenerationPrompt: true })
}
