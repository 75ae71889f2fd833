// The life of a server: loading, clients that leave, an engine that is lost, and the end. What a signal
// does is shown on the built program; the rest on a server in this process.
import { copyFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { Engine } from '../dist/src/engine/engine.js'
import { command, copyOfTiny, ended, started, withFolder } from './command.js'
import { ringTiny } from './paths.js'
import {
  asks,
  chat,
  chunksOf,
  errorOf,
  eventsOf,
  figureOf,
  post,
  saidIn,
  startServer,
  until,
} from './serving.js'

const endless = { messages: asks('Hello!'), ignore_eos: true, stream: true, temperature: 0 }

describe('while the model is loaded', () => {
  it('says so, and answers from then on', async () => {
    let letOpen = () => {}
    const opened = new Promise<void>((resolve) => {
      letOpen = resolve
    })
    const open = async () => {
      await opened
      return Engine.open(ringTiny, { sequences: 1 })
    }
    const server = await startServer({ isLoaded: false, parallel: 1, open })
    try {
      const loading = server.service.keeper.load()
      const health = await fetch(`${server.url}/health`)
      expect(health.status).toBe(503)
      expect(await health.json()).toEqual({
        error: { message: 'Loading model', type: 'unavailable_error', param: null, code: 503 },
      })
      const early = await post(`${server.url}/v1/chat/completions`, endless)
      expect(early.status).toBe(503)
      expect(early.headers.get('retry-after')).toBe('5')
      expect((await fetch(`${server.url}/v1/models`)).status).toBe(200)
      expect(await figureOf(server.url, 'ring_engine_ready')).toBe(0)
      letOpen()
      await loading
      expect((await fetch(`${server.url}/health`)).status).toBe(200)
      expect((await chat(server.url, { messages: asks('12+9=?') })).choices[0]).toMatchObject({
        message: { content: '21' },
      })
    } finally {
      await server.close()
    }
  })
})

describe('a client that leaves', () => {
  it('frees its sequence, streamed or not, in work or waiting', async () => {
    const server = await startServer({ parallel: 1, queue: 3 })
    try {
      const url = `${server.url}/v1/chat/completions`
      for (const stream of [true, false]) {
        const leaving = new AbortController()
        const { signal } = leaving
        const left = [1, 2].map(() => post(url, { ...endless, stream }, { signal }))
        // It waits behind both, and is answered long before they would have been.
        await until(async () => (await figureOf(server.url, 'ring_num_requests_waiting')) === 1)
        const drawn = await figureOf(server.url, 'ring_generation_tokens_total')
        const next = chat(server.url, { messages: asks('12+9=?') })
        leaving.abort()
        await Promise.allSettled(left)
        expect((await next).choices[0]?.message.content).toBe('21')
        await until(async () => (await figureOf(server.url, 'ring_num_requests_running')) === 0)
        const after = await figureOf(server.url, 'ring_generation_tokens_total')
        expect(after - drawn).toBeLessThan(1000)
      }
      expect(server.lines.filter((line) => line.includes('refused with 499')).length).toBe(4)
    } finally {
      await server.close()
    }
  })
})

describe('an engine that is lost', () => {
  it('fails what it was doing, and is opened again with the reason logged', async () => {
    await withFolder(async (folder) => {
      const model = copyOfTiny(folder)
      const server = await startServer({ folder: model, parallel: 2 })
      try {
        const shard = 'model-00002-of-00004.safetensors'
        truncateSync(join(model, shard), 40_000)
        const url = `${server.url}/v1/chat/completions`
        const failed = await post(url, { ...endless, stream: false })
        expect(failed.status).toBe(500)
        // The file, not where it lies.
        expect((await errorOf(failed)).message).toMatch(/^model-00002.* cannot be read at byte/)
        copyFileSync(join(ringTiny, shard), join(model, shard))
        const told = await post(url, { ...endless, stream: false })
        expect(told.status).toBe(503)
        expect(told.headers.get('retry-after')).toBe('5')
        await until(async () => (await fetch(`${server.url}/health`)).status === 200)
        const answer = await chat(server.url, { messages: asks('12+9=?') })
        expect(answer.choices[0]?.message.content).toBe('21')
        expect(server.lines.join('\n')).toMatch(/engine was lost.*model-00002.*open again/s)
        expect(await figureOf(server.url, 'ring_engine_restarts_total')).toBe(1)
      } finally {
        await server.close()
      }
    })
  })
})

describe('an engine that is lost while nobody asks', () => {
  it('is opened again all the same', async () => {
    await withFolder(async (folder) => {
      const model = copyOfTiny(folder)
      const server = await startServer({ folder: model, parallel: 1 })
      try {
        const shard = 'model-00002-of-00004.safetensors'
        truncateSync(join(model, shard), 40_000)
        const url = `${server.url}/v1/chat/completions`
        expect((await post(url, { ...endless, stream: false })).status).toBe(500)
        copyFileSync(join(ringTiny, shard), join(model, shard))
        await until(async () => (await figureOf(server.url, 'ring_engine_restarts_total')) === 1)
        await until(async () => (await fetch(`${server.url}/health`)).status === 200)
        expect(server.lines.join('\n')).toMatch(/engine was lost.*model-00002.*open again/s)
      } finally {
        await server.close()
      }
    })
  })
})

describe('SIGTERM', () => {
  it('lets what is in work end, and then the program, with status 0', async () => {
    const server = await startProgram(['--parallel', '2'])
    const response = await post(`${server.url}/v1/chat/completions`, {
      ...endless,
      max_tokens: 400,
    })
    const events = eventsOf(response)
    await events.next()
    server.child.kill('SIGTERM')
    let last = ''
    let count = 0
    for await (const event of events) {
      last = event
      count += 1
    }
    expect(last).toBe('[DONE]')
    expect(count).toBeGreaterThan(200)
    const { status, stderr } = await server.end
    expect(status).toBe(0)
    expect(stderr).toContain('SIGTERM: what is in work may end, within 30 s')
    await expect(fetch(`${server.url}/health`)).rejects.toThrow()
  })

  it('ends what is still in work after --grace, and says so in the stream', async () => {
    const server = await startProgram(['--grace', '0'])
    const response = await post(`${server.url}/v1/chat/completions`, endless)
    server.child.kill('SIGTERM')
    const { chunks, isDone } = await chunksOf(response)
    expect(isDone).toBe(false)
    expect(chunks.at(-1)?.error).toMatchObject({ type: 'unavailable_error' })
    expect(saidIn(chunks.slice(0, -1)).reason ?? null).toBe(null)
    expect((await server.end).status).toBe(0)
  })
})

describe('what `serve` refuses before it listens', () => {
  it('is another machine without a key, an empty file of keys, a poor key, a taken port', async () => {
    await withFolder(async (folder) => {
      const empty = join(folder, 'keys')
      writeFileSync(empty, '\n\n')
      const taken = await startServer({ isLoaded: false })
      const { port } = new URL(taken.url)
      const [open, keyless, poor, busy] = await Promise.all([
        command(['serve', '--host', '0.0.0.0', '--port', '0']),
        command(['serve', '--api-key-file', empty]),
        command(['serve', '--port', '0'], { environment: { RING_API_KEY: 'short' } }),
        command(['serve', '--port', port]),
      ])
      await taken.close()
      expect(open).toMatchObject({ status: 2, stderr: expect.stringContaining('--insecure') })
      expect(keyless).toMatchObject({ status: 1, stderr: expect.stringContaining('holds no key') })
      expect(poor).toMatchObject({ status: 1, stderr: expect.stringContaining('8 characters') })
      expect(poor.stderr).not.toContain('short')
      expect(busy).toMatchObject({
        status: 1,
        stderr: `ring-offload: cannot listen on 127.0.0.1, port ${port}: address already in use\n`,
      })
    })
  })
})

/** `serve` on a free port, once its model is loaded. */
async function startProgram(words: readonly string[]) {
  const child = started(['serve', '--port', '0', ...words])
  const end = ended(child)
  let said = ''
  await new Promise<void>((resolve, reject) => {
    child.stderr.on('data', (text: string) => {
      said += text
      if (said.includes('ready: ')) resolve()
    })
    child.on('close', () => reject(new Error(said)))
  })
  const url = /listening on (\S+)/.exec(said)?.[1] ?? ''
  return { child, end, url }
}
