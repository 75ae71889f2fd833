// How much may be thought, over HTTP: the fields in which clients say it, what the server says where they
// do not, and what cannot be kept.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openTokenizer } from '../dist/src/model/tokenizer.js'
import { ringTiny } from './paths.js'
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

const messages = asks('What is 37 + 48?')
/** Tokens that count as thinking beside thoughts: both tags, and the line break before the answer. */
const around = 3
let plain: Running
let bounded: Running
beforeAll(async () => {
  plain = await startServer({ parallel: 2 })
  bounded = await startServer({ parallel: 1, reasoningBudget: 4 })
})
afterAll(() => Promise.all([plain.close(), bounded.close()]))

/** What is thought, and of how many tokens with the tags around it. */
async function thought(body: object, url = plain.url) {
  const { choices, usage } = await chat(url, { messages, ...body })
  const { message } = choices[0] ?? { message: { content: '', reasoning_content: '' } }
  return {
    text: message.reasoning_content ?? '',
    tokens: usage.completion_tokens_details.reasoning_tokens,
  }
}

describe('a budget of thinking', () => {
  it.each([
    ['reasoning_budget'],
    ['thinking_budget'],
    ['reasoning_budget_tokens'],
    ['thinking_budget_tokens'],
    ['thinking_token_budget'],
  ])('may be called %s, in the body or for the template', async (field) => {
    const free = await thought({})
    for (const body of [{ [field]: 5 }, { chat_template_kwargs: { [field]: 5 } }]) {
      const { text, tokens } = await thought(body)
      expect(tokens).toBe(5 + around)
      expect(text.length).toBeLessThan(free.text.length)
      expect(free.text.startsWith(text)).toBe(true)
    }
    expect(await thought({ [field]: -1 })).toEqual(free)
    expect(await thought({ [field]: 1000 })).toEqual(free)
  })

  it('is the body’s where the template is told another', async () => {
    const both = { reasoning_budget: 3, chat_template_kwargs: { thinking_budget: 9 } }
    expect((await thought(both)).tokens).toBe(3 + around)
  })

  it('of 0 leaves an empty thought, and the answer follows', async () => {
    const { choices } = await chat(plain.url, { messages, reasoning_budget: 0 })
    expect(choices[0]?.message.reasoning_content ?? '').toBe('')
    expect(choices[0]?.message.content).not.toBe('')
  })

  it('holds for each of n answers, streamed as whole', async () => {
    const body = { messages, temperature: 1, seed: 3, n: 2, max_tokens: 60, reasoning_budget: 4 }
    const url = `${plain.url}/v1/chat/completions`
    const { chunks, isDone } = await chunksOf(await post(url, { ...body, stream: true }))
    expect(isDone).toBe(true)
    const { choices } = await chat(plain.url, body)
    for (const index of [0, 1]) {
      const { content, reasoning } = saidIn(chunks, index)
      expect(choices[index]?.message.content).toBe(content)
      expect(choices[index]?.message.reasoning_content ?? '').toBe(reasoning)
      expect(reasoning.length).toBeLessThan(30)
    }
  })

  it('is budget_tokens in messages', async () => {
    const ask = async (budget_tokens: number) => {
      const thinking = { type: 'enabled', budget_tokens }
      const body = { messages, max_tokens: 200, temperature: 0, thinking }
      return jsonOf<{ content: { type: string; thinking?: string }[] }>(
        await post(`${plain.url}/v1/messages`, body),
      )
    }
    const [long, short] = [await ask(100), await ask(4)].map(({ content }) => content)
    expect(short?.map(({ type }) => type)).toEqual(['thinking', 'text'])
    expect(long?.[0]?.thinking?.startsWith(short?.[0]?.thinking ?? '-')).toBe(true)
    expect(long?.[0]?.thinking).not.toBe(short?.[0]?.thinking)
  })

  it('is the server’s where a request has none, and -1 lifts it', async () => {
    const free = await thought({})
    expect((await thought({}, bounded.url)).tokens).toBe(4 + around)
    expect((await thought({ reasoning_budget: 6 }, bounded.url)).tokens).toBe(6 + around)
    expect(await thought({ reasoning_budget: -1 }, bounded.url)).toEqual(free)
  })

  it('is refused where it is no number of tokens', async () => {
    for (const [body, param] of [
      [{ thinking_budget: -2 }, 'thinking_budget'],
      [{ reasoning_budget: 'low' }, 'reasoning_budget'],
      [{ chat_template_kwargs: { thinking_budget: 1.5 } }, 'chat_template_kwargs.thinking_budget'],
    ] as const) {
      const response = await post(`${plain.url}/v1/chat/completions`, { messages, ...body })
      expect(response.status).toBe(400)
      expect((await errorOf(response)).param).toBe(param)
    }
  })

  it('is refused where the tokenizer has no tokens for the tags', async () => {
    const tokenizer = openTokenizer(ringTiny)
    const server = await startServer({
      parallel: 1,
      tokenizer: {
        size: tokenizer.size,
        encode: (text) => tokenizer.encode(text),
        decode: (ids, options) => tokenizer.decode(ids, options),
        bytesOf: (id) => tokenizer.bytesOf(id),
        isSpecial: (id) => tokenizer.isSpecial(id),
        idOf: () => null,
      },
    })
    try {
      const url = `${server.url}/v1/chat/completions`
      const response = await post(url, { messages, thinking_budget: 5 })
      expect(response.status).toBe(400)
      expect(await errorOf(response)).toMatchObject({
        param: 'thinking_budget',
        code: 'unsupported_parameter',
      })
      expect((await post(url, { messages, thinking_budget: -1, max_tokens: 2 })).status).toBe(200)
    } finally {
      await server.close()
    }
  })
})
