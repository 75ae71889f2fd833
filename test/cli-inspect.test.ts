// `inspect`: the figures of a checkpoint, of a bare config, and what of them fits this machine.
import { copyFileSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { command, copyOfTiny, lastObject, withFolder } from './command.js'
import { edge, fixtures } from './paths.js'

describe('inspect', () => {
  it('gives the bundled model in one object', async () => {
    const end = await command(['inspect', '--json', '--kv-type', 'f32', '--ctx-size', '1024'])
    expect(end).toMatchObject({ status: 0, stderr: '' })
    const number = expect.any(Number)
    expect(lastObject(end)).toEqual({
      model: 'ring-tiny',
      architecture: 'BailingMoeV2ForCausalLM',
      source: 'tensors',
      parameters: {
        total: 18362528,
        routed: 15728640,
        per_expert: 98304,
        active: 4599968,
        active_without_embeddings: 4075680,
      },
      layers: { total: 6, moe: 5, first_moe: 1 },
      experts: { total: 160, per_layer: 32, per_token_and_layer: 4, per_token: 20, shared: 1 },
      vocabulary: 1024,
      context: { positions: 2048, trained: 2048, yarn_factor: null },
      bytes: {
        total: 18936696,
        dense: 3204216,
        one_expert: 98328,
        all_experts: 15732480,
        token_cycle: 1966560,
        kv_per_token: 6144,
      },
      kv_type: 'f32',
      quantisation: { announced: 'block-fp8', layouts: expect.any(Array) },
      tensors: { bound: 547, scales: 510, skipped: 0, unknown: 0 },
      shards: { count: 4, bytes: 19058824 },
      machine: {
        cores: number,
        memory_bytes: number,
        free_bytes: number,
        cuda: expect.objectContaining({}),
      },
      fit: { context: 1024, kv_bytes: 6291456, dense_and_kv: true, experts: 160, share: 1 },
      gpu_fit: null,
    })
  })

  it('prints a table for people', async () => {
    const { status, stdout } = await command(['inspect', edge('mtp-extra')])
    expect(status).toBe(0)
    expect(stdout).toMatch(/^parameters +[\d.]+ thousand, [\d.]+ thousand active for a token$/m)
    expect(stdout).toMatch(/^tensors .* of prediction layers skipped$/m)
    expect(stdout).toMatch(/^fits in memory +dense weights, .* experts \(100 %\)$/m)
  })

  it('needs no more than config.json, and says that it had no more', async () => {
    await withFolder(async (folder) => {
      copyFileSync(join(fixtures, 'configs/ring-1t.json'), join(folder, 'config.json'))
      const end = await command(['inspect', folder, '--json'])
      const object = lastObject(end)
      expect(object).toMatchObject({ source: 'config', shards: null })
      expect(object.experts).toMatchObject({ total: 19456, per_token: 608 })
      const { stdout } = await command(['inspect', folder])
      expect(stdout).toContain('config.json alone')
      expect(stdout).toMatch(/^parameters +(?:999\.\d billion|1\.00 trillion), /m)
    })
  })

  it('takes an index without its shards for damage, not for a bare config', async () => {
    await withFolder(async (folder) => {
      const model = copyOfTiny(folder)
      for (const file of readdirSync(model)) {
        if (file.endsWith('.safetensors')) rmSync(join(model, file))
      }
      const { status, stdout, stderr } = await command(['inspect', model])
      expect([status, stdout]).toEqual([1, ''])
      expect(stderr).toMatch(/^ring-offload: model-00001-of-00004\.safetensors: file not found/)
    })
  })
})
