// What the server says of prompts that it knew already: in usage, in figures, and after a restart over the
// same folder, with the same answers.
import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Engine } from '../dist/src/engine/engine.js'
import { ringTiny } from './paths.js'
import { asks, chat, figureOf, type Running, startServer } from './serving.js'

const body = { messages: asks('Is the sea salty? 31415'), max_tokens: 2, seed: 1 }

describe('a server', () => {
  let server: Running
  beforeAll(async () => {
    server = await startServer()
  })
  afterAll(() => server.close())

  it('tells how much of a prompt it knew already, of n answers once, and counts it', async () => {
    const name = 'ring_prefix_hit_tokens_total'
    const known = async (more: object) => {
      const before = await figureOf(server.url, name)
      const { usage } = await chat(server.url, { ...body, ...more })
      const counted = (await figureOf(server.url, name)) - before
      return { ...usage, cached: usage.prompt_tokens_details?.cached_tokens, counted }
    }
    const first = await known({})
    expect(first.cached).toBe(0)
    const second = await known({})
    expect(second.cached).toBe(second.prompt_tokens - 1)
    expect(second.counted).toBe(second.cached)
    const several = await known({ n: 3 })
    expect(several.cached).toBe(several.prompt_tokens - 1)
    expect(several.counted).toBe(3 * (several.prompt_tokens - 1))
    expect(await figureOf(server.url, 'ring_kv_blocks')).toBe(3 * 64)
    expect(await figureOf(server.url, 'ring_kv_blocks_used')).toBe(0)
  })
})

describe('a server that keeps KV in a folder', () => {
  const folder = mkdtempSync(join(os.tmpdir(), 'ring-serve-kv-'))
  afterAll(() => rmSync(folder, { recursive: true }))

  async function once(kvDir: string | undefined) {
    const open = () => Engine.open(ringTiny, { sequences: 2, kvDir })
    const server = await startServer({ open, parallel: 2 })
    const { choices, usage } = await chat(server.url, { ...body, logprobs: true, max_tokens: 12 })
    const read = await figureOf(server.url, 'ring_prefix_read_bytes_total')
    const files = await figureOf(server.url, 'ring_prefix_disk_blocks')
    await server.close()
    return { choices, cached: usage.prompt_tokens_details?.cached_tokens, read, files }
  }

  it('answers from it when it begins anew', async () => {
    const alone = await once(undefined)
    expect(alone).toMatchObject({ cached: 0, read: 0, files: 0 })
    const first = await once(folder)
    expect(first).toEqual({ ...alone, files: expect.any(Number) })
    const second = await once(folder)
    expect(second.choices).toEqual(alone.choices)
    expect(second.cached).toBeGreaterThan(20)
    expect(second.read).toBeGreaterThan(0)
    expect(second.files).toBeGreaterThan(0)
  })
})
