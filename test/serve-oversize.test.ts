// Bodies that are longer than any may be: whoever sends one is told so, whether it sends its length or
// pieces, and whether it reads while it sends or only afterwards.
import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { asks, errorOf, post, type Running, startServer } from './serving.js'

const MIB = 2 ** 20
const sizes = [8 * MIB + 1, 24 * MIB]
const path = '/v1/chat/completions'

let server: Running
beforeAll(async () => {
  server = await startServer({ parallel: 1 })
})
afterAll(() => server.close())

function bodyOf(bytes: number): string {
  const [before, after] = ['{"messages":[{"role":"user","content":"', '"}]}']
  return before + 'a'.repeat(bytes - before.length - after.length) + after
}

/** What comes back to one who reads nothing before all is written; `isChunked`: it does not say how long. */
function writtenFirst(body: string, isChunked: boolean): Promise<string> {
  return new Promise((resolve, reject) => {
    const { hostname, port } = new URL(server.url)
    const length = isChunked ? 'transfer-encoding: chunked' : `content-length: ${body.length}`
    const head = `POST ${path} HTTP/1.1\r\nhost: ${hostname}\r\ncontent-type: application/json\r\n${length}\r\n\r\n`
    const socket = connect(Number(port), hostname)
    socket.on('error', reject)
    socket.pause()
    let text = ''
    socket.setEncoding('utf8').on('data', (part: string) => {
      text += part
    })
    socket.on('close', () => resolve(text))
    const whole = isChunked ? `${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n` : body
    socket.write(head)
    socket.write(whole, () => socket.resume())
  })
}

describe('a body that is too long', () => {
  it.each(sizes)('of %d bytes is refused so that its sender reads it', async (bytes) => {
    const body = bodyOf(bytes)
    for (const isChunked of [false, true]) {
      const said = await writtenFirst(body, isChunked)
      expect(said).toMatch(/^HTTP\/1\.1 413 .*connection: close.*larger than 8388608 bytes/is)
    }
    const response = await post(server.url + path, body)
    expect(response.status).toBe(413)
    expect((await errorOf(response)).message).toMatch(/larger than/)
  })

  it('is refused to the openai client and to curl', async () => {
    const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 0 })
    const asked = client.chat.completions.create({
      model: 'ring-tiny',
      messages: [{ role: 'user', content: 'a'.repeat(12 * MIB) }],
    })
    await expect(asked).rejects.toMatchObject({ status: 413 })
    const folder = mkdtempSync(join(tmpdir(), 'ring-'))
    try {
      const file = join(folder, 'body.json')
      writeFileSync(file, bodyOf(20 * MIB))
      const words = ['-s', '-H', 'content-type: application/json', '--data-binary', `@${file}`]
      const ask = (more: string[]) =>
        promisify(execFile)('curl', [...words, ...more, '-w', '%{http_code}', server.url + path])
      for (const more of [[], ['-H', 'transfer-encoding: chunked', '-H', 'expect:']])
        expect((await ask(more)).stdout).toMatch(/larger than .*413$/s)
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  it('of an endless sender is cut off in the end, and harms nobody', async () => {
    const { hostname, port } = new URL(server.url)
    const socket = connect(Number(port), hostname)
    const part = `${MIB.toString(16)}\r\n${'a'.repeat(MIB)}\r\n`
    socket.on('error', () => {})
    const gone = new Promise<void>((resolve) => socket.once('close', () => resolve()))
    socket.resume()
    socket.write(
      `POST ${path} HTTP/1.1\r\nhost: ${hostname}\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n`,
    )
    const send = () => {
      while (!socket.destroyed && socket.write(part)) {}
    }
    socket.on('drain', send)
    send()
    await gone
    const good = await post(server.url + path, { messages: asks('Hello!'), max_tokens: 2 })
    expect(good.status).toBe(200)
  })
})
