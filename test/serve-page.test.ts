// The page at `/` and the telemetry that feeds it: who may have them, and that a browser is allowed
// nothing from elsewhere.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Snapshot } from '../src/engine/telemetry.js'
import { errorOf, jsonOf, post, type Running, startServer } from './serving.js'

const key = 'a-key-of-the-tests'
const withKey = { headers: { authorization: `Bearer ${key}` } }
let server: Running
beforeAll(async () => {
  server = await startServer({ keys: [key] })
})
afterAll(() => server.close())

const files = ['/', '/page/page.css', '/page/page.js']

describe('the page', () => {
  it.each(files)('%s comes without a key and may load nothing from elsewhere', async (path) => {
    const response = await fetch(server.url + path)
    expect(response.status).toBe(200)
    const policy = response.headers.get('content-security-policy') ?? ''
    expect(policy).toMatch(/^default-src 'none';/)
    for (const source of policy.matchAll(/'?[\w-]+'?(?=;|$)/g)) {
      expect(["'none'", "'self'"]).toContain(source[0])
    }
    expect(policy).not.toMatch(/unsafe|http|\*|data:/)
    expect(response.headers.get('x-content-type-options')).toBe('nosniff')
    const text = await response.text()
    expect(text.length).toBeGreaterThan(500)
    expect(text).not.toMatch(/(?:https?:)?\/\/[a-z]/i)
  })

  it('names only what this server has, and no code or style stands in it', async () => {
    const html = await (await fetch(`${server.url}/`)).text()
    const named = [...html.matchAll(/(?:src|href)="([^"]*)"/g)].map((match) => match[1])
    expect(named.sort()).toEqual(files.slice(1))
    expect(html).not.toMatch(/<script>|<style|\son\w+=|style=/)
  })

  it('sets what a model says as text only', async () => {
    const script = await (await fetch(`${server.url}/page/page.js`)).text()
    expect(script).not.toMatch(/innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(/)
  })

  it('is no way to other files', async () => {
    for (const path of ['/page/', '/page/../server.js', '/page/%2e%2e/server.js', '/page/x']) {
      expect((await fetch(server.url + path, withKey)).status).toBe(404)
    }
  })
})

describe('telemetry', () => {
  it('needs the key', async () => {
    const response = await fetch(`${server.url}/telemetry`)
    expect(response.status).toBe(401)
    expect((await errorOf(response)).code).toBe('invalid_api_key')
    const cancel = await fetch(`${server.url}/telemetry/requests/1?slot=0`, { method: 'DELETE' })
    expect(cancel.status).toBe(401)
  })

  it('tells of what was done and nothing of what was said', async () => {
    const body = { prompt: 'a secret', max_tokens: 5, ignore_eos: true }
    expect((await post(`${server.url}/v1/completions`, body, withKey)).status).toBe(200)
    const response = await fetch(`${server.url}/telemetry?map=1&text=1`, withKey)
    expect(response.headers.get('cache-control')).toBe('no-store')
    const snapshot = await jsonOf<Snapshot>(response)
    expect(snapshot.state).toBe('ready')
    expect(snapshot.requests.rows).toMatchObject([{ number: 1, state: 'length', tokensDrawn: 5 }])
    expect(snapshot.engine?.tokensDrawn).toBe(5)
    expect(Buffer.from(snapshot.map?.resident ?? '', 'base64').length).toBe(5 * 32)
    expect(snapshot).not.toHaveProperty('said')
  })

  it('leaves the map out where it was not asked for', async () => {
    const snapshot = await jsonOf<Snapshot>(await fetch(`${server.url}/telemetry`, withKey))
    expect(snapshot).not.toHaveProperty('map')
  })

  it('tells what was answered where the server was started so', async () => {
    const telling = await startServer({ showsText: true })
    try {
      const body = { prompt: '1+1=', max_tokens: 5, ignore_eos: true, temperature: 0 }
      const answer = await jsonOf<{ choices: { text: string }[] }>(
        await post(`${telling.url}/v1/completions`, body),
      )
      const snapshot = await jsonOf<Snapshot>(await fetch(`${telling.url}/telemetry?text=1`))
      expect(snapshot.said).toBe(answer.choices[0]?.text)
      expect(snapshot.said?.length).toBeGreaterThan(0)
    } finally {
      await telling.close()
    }
  })

  it('is there while the model loads, without an engine', async () => {
    const loading = await startServer({ isLoaded: false })
    try {
      const snapshot = await jsonOf<Snapshot>(await fetch(`${loading.url}/telemetry`))
      expect(snapshot.state).toBe('loading')
      expect(snapshot).not.toHaveProperty('engine')
    } finally {
      await loading.close()
    }
  })

  it.each(['1?slot=9', '99?slot=0', 'x?slot=0', '1', '1.5?slot=0', '1?slot=-1'])(
    'cancels nothing that is not in work: %s',
    async (name) => {
      const url = `${server.url}/telemetry/requests/${name}`
      expect((await fetch(url, { method: 'DELETE', ...withKey })).status).toBe(404)
    },
  )
})
