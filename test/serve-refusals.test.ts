// What the server refuses, and how: always one JSON error in the shape that clients read, never a
// failure of the server. Two servers: one open to this machine, one with keys.
import { connect } from 'node:net'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { asks, errorOf, eventsOf, figureOf, post, type Running, startServer } from './serving.js'

let server: Running
let guarded: Running
const keys = ['first-key-1234', 'second-key-5678']
beforeAll(async () => {
  server = await startServer({ parallel: 2, queue: 2 })
  guarded = await startServer({ parallel: 1, keys })
})
afterAll(async () => {
  await Promise.all([server.close(), guarded.close()])
})

const hello = { messages: asks('Hello!'), max_tokens: 2 }

function ask(body: unknown, path = '/v1/chat/completions'): Promise<Response> {
  return post(server.url + path, body)
}

describe('a body that is wrong', () => {
  it.each<[what: string, body: unknown, param: string | null, message: RegExp]>([
    ['no messages', {}, 'messages', /messages must be a list/],
    ['an empty list', { messages: [] }, 'messages', /must not be empty/],
    ['a strange role', { messages: [{ role: 'cat', content: '' }] }, 'messages.0.role', /"cat"/],
    [
      'a picture',
      { messages: [{ role: 'user', content: [{ type: 'image_url', image_url: {} }] }] },
      'messages.0.content',
      /type text/,
    ],
    ['heat', { ...hello, temperature: 2.5 }, 'temperature', /from 0 to 2, found 2.5/],
    ['text for a number', { ...hello, top_p: 'all' }, 'top_p', /found "all"/],
    ['too many stops', { ...hello, stop: ['a', 'b', 'c', 'd', 'e'] }, 'stop', /at most 4/],
    ['an empty stop', { ...hello, stop: '' }, 'stop', /1 to 1024 characters/],
    ['a bias of no token', { ...hello, logit_bias: { x: 1 } }, 'logit_bias', /token ids/],
    ['a bias of a strange token', { ...hello, logit_bias: { 99999: 1 } }, 'logit_bias', /99999/],
    ['top_logprobs alone', { ...hello, top_logprobs: 3 }, 'top_logprobs', /logprobs to be true/],
    ['too long an answer', { ...hello, max_tokens: 4000 }, 'max_tokens', /context holds 2048/],
    ['too long a prompt', { messages: asks('a b '.repeat(2000)) }, null, /context holds 2048/],
    ['far too long a prompt', { messages: asks('a'.repeat(1e6)) }, 'messages', /at most 65536/],
    ['nothing but a number', 7, null, /JSON object, found 7/],
    ['no JSON', '{"messages": [', null, /no JSON/],
    ['a prototype', '{"__proto__": {"a": 1}, "messages": []}', null, /no JSON/],
    ['a deep nest', `${'['.repeat(5000)}${']'.repeat(5000)}`, null, /deeper than 64/],
  ])('%s', async (_what, body, param, message) => {
    const response = await ask(body)
    expect(response.status).toBe(400)
    const error = await errorOf(response)
    expect(error).toMatchObject({ type: 'invalid_request_error', param })
    expect(error.message).toMatch(message)
  })

  it('says by a code that the context is too short', async () => {
    const error = await errorOf(await ask({ ...hello, max_tokens: 4000 }))
    expect(error.code).toBe('context_length_exceeded')
  })

  it.each([
    ['functions', { functions: [] }],
    ['modalities', { modalities: ['text', 'audio'] }],
  ])('asks for %s, which is not supported', async (field, wish) => {
    const error = await errorOf(await ask({ ...hello, ...wish }))
    expect(error).toMatchObject({ param: field, code: 'unsupported_parameter' })
  })

  it('may name what is not supported where it changes nothing', async () => {
    const wish = { response_format: { type: 'text' }, tools: [], modalities: ['text'] }
    expect((await ask({ ...hello, ...wish })).status).toBe(200)
  })

  it('of completions is refused as well', async () => {
    const refusals: [Record<string, unknown>, RegExp][] = [
      [{}, /prompt must be text/],
      [{ prompt: [] }, /prompt must be text/],
      [{ prompt: '' }, /prompt is empty/],
      [{ prompt: [5, 99999] }, /token 99999/],
      [{ prompt: 'a', echo: true }, /echo is not supported/],
      [{ prompt: 'a', suffix: 'b' }, /suffix is not supported/],
      [{ prompt: 'a', best_of: 3 }, /best_of is not supported/],
      [{ prompt: 'a', n: 128 }, /takes 4/],
    ]
    for (const [body, message] of refusals) {
      const response = await ask(body, '/v1/completions')
      expect((await errorOf(response)).message).toMatch(message)
      expect(response.status).toBe(400)
    }
  })
})

describe('a request that is wrong', () => {
  it('goes where there is nothing, or no method for it', async () => {
    for (const response of [
      await fetch(`${server.url}/v1/nothing`),
      await fetch(`${server.url}/v1/chat/completions`),
      await fetch(`${server.url}/v1/models/another`),
      await fetch(`${server.url}/v1/models/..%2f..%2fetc%2fpasswd`),
      await fetch(`${server.url}/%zz`),
    ]) {
      expect([400, 404]).toContain(response.status)
      expect((await errorOf(response)).type).toBe('invalid_request_error')
    }
    const refused = await errorOf(await ask({ input: 'a' }, '/v1/embeddings'))
    expect(refused.message).toMatch(/no embeddings/)
  })

  it('sends something else than JSON, as a page of another origin could', async () => {
    const body = JSON.stringify(hello)
    const headers = { 'content-type': 'text/plain', origin: 'https://example.org' }
    const response = await post(`${server.url}/v1/chat/completions`, body, { headers })
    expect(response.status).toBe(415)
    expect((await errorOf(response)).message).toMatch(/application\/json/)
    const preflight = await fetch(`${server.url}/v1/chat/completions`, { method: 'OPTIONS' })
    expect(preflight.status).toBe(404)
    expect(preflight.headers.get('access-control-allow-origin')).toBe(null)
  })

  it('is larger than any prompt', async () => {
    const response = await ask({ messages: asks('a'.repeat(9 * 2 ** 20)) })
    expect(response.status).toBe(413)
    expect((await errorOf(response)).message).toMatch(/larger than 8388608 bytes/)
  })

  it('has headers without end, or is no HTTP at all', async () => {
    const header = `GET /health HTTP/1.1\r\nhost: localhost\r\nx: ${'y'.repeat(20_000)}\r\n\r\n`
    expect(await spoken(header)).toMatch(/^HTTP\/1.1 431 .*"invalid_request_error"/s)
    expect(await spoken('Good morning!\r\n\r\n')).toMatch(/^HTTP\/1.1 400 .*no HTTP request/s)
  })

  it('names another host, as a page does that points its own name here', async () => {
    const words = 'GET /v1/models HTTP/1.1\r\nhost: evil.example:80\r\nconnection: close\r\n\r\n'
    expect(await spoken(words)).toMatch(/^HTTP\/1.1 403 .*foreign_host/s)
    const local = words.replace('evil.example:80', '[::1]:80')
    expect(await spoken(local)).toMatch(/^HTTP\/1.1 200 /)
  })
})

describe('a key', () => {
  const get = (path: string, authorization?: string) =>
    fetch(guarded.url + path, authorization === undefined ? {} : { headers: { authorization } })

  it('is asked for everywhere but at /health', async () => {
    expect((await get('/health')).status).toBe(200)
    for (const path of ['/v1/models', '/metrics', '/props', '/nothing']) {
      const response = await get(path)
      expect(response.status).toBe(401)
      expect(await errorOf(response)).toMatchObject({ code: 'invalid_api_key' })
    }
    const response = await post(`${guarded.url}/v1/chat/completions`, hello)
    expect(response.status).toBe(401)
  })

  it('opens when it is one of those given, and only whole', async () => {
    for (const key of keys) expect((await get('/v1/models', `Bearer ${key}`)).status).toBe(200)
    for (const wrong of [
      'Bearer first-key-123',
      'Bearer',
      'first-key-1234',
      'Basic first-key-1234',
    ])
      expect((await get('/v1/models', wrong)).status).toBe(401)
  })
})

describe('more requests than the server takes', () => {
  it('are told when to come again, and the others are answered', async () => {
    const leaving = new AbortController()
    const endless = { ...hello, max_tokens: 1900, ignore_eos: true, stream: true }
    const { signal } = leaving
    const url = `${server.url}/v1/chat/completions`
    await Promise.all([1, 2, 3, 4].map(() => post(url, endless, { signal })))
    expect(await figureOf(server.url, 'ring_num_requests_running')).toBe(2)
    expect(await figureOf(server.url, 'ring_num_requests_waiting')).toBe(2)
    const response = await ask(hello)
    expect(response.status).toBe(429)
    expect(Number(response.headers.get('retry-after'))).toBeGreaterThanOrEqual(1)
    expect(await errorOf(response)).toMatchObject({ type: 'rate_limit_error', code: 'queue_full' })
    leaving.abort()
    // Those that left are forgotten within a step or two.
    let status = 429
    for (let tries = 0; status === 429 && tries < 1000; tries += 1)
      status = (await ask(hello)).status
    expect(status).toBe(200)
  })
})

describe('the time a request may take', () => {
  it('ends it with 504, or an error in its stream, and no client tries that again', async () => {
    const hasty = await startServer({ parallel: 2, deadlineMs: 150 })
    try {
      const url = `${hasty.url}/v1/chat/completions`
      const endless = { messages: asks('Hello!'), ignore_eos: true }
      const whole = await post(url, endless)
      expect(whole.status).toBe(504)
      expect(whole.headers.get('x-should-retry')).toBe('false')
      expect(await errorOf(whole)).toMatchObject({ code: 'deadline_exceeded' })
      const events: string[] = []
      for await (const event of eventsOf(await post(url, { ...endless, n: 2, stream: true })))
        events.push(event)
      expect(JSON.parse(events.at(-1) ?? '')).toMatchObject({ error: { type: 'timeout_error' } })
      expect(events.filter((event) => event.includes('"error"')).length).toBe(1)
    } finally {
      await hasty.close()
    }
  })
})

/** What the server says to these bytes, until it closes the connection. */
function spoken(words: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const { hostname, port } = new URL(server.url)
    const socket = connect(Number(port), hostname, () => socket.write(words))
    let text = ''
    socket.setEncoding('utf8').on('data', (part: string) => {
      text += part
    })
    socket.on('error', reject).on('close', () => resolve(text))
  })
}
