/**
 * Opening a checkpoint: which tensors are found where, and how presence and layout are decided
 * tensor by tensor.
 */
import fs from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { openCheckpoint } from '../src/model/checkpoint.js'
import { openChanged, remove, tensor } from './damage.js'
import { inTemporaryFolder } from './hollow.js'
import { edge, ringTiny } from './paths.js'

const first = 'model-00001-of-00004.safetensors'
const qkv = 'model.layers.0.attention.query_key_value.weight'
const dense = 'model.layers.0.attention.dense.weight'

describe('a checkpoint', () => {
  it('opens with every expert of every layer', () => {
    const { layers, files, tensors } = openCheckpoint(ringTiny)
    expect(files.map((file) => file.sizeBytes)).toEqual([4732920, 4754704, 4770536, 4800664])
    expect(layers.map((layer) => layer.experts.length)).toEqual([0, 32, 32, 32, 32, 32])
    expect(tensors).toEqual({ bound: 547, scales: 510, skipped: 0, unknown: 0 })
  })

  it('says where the bytes of a matrix are', () => {
    const { embedding, files } = openCheckpoint(edge('bf16'))
    expect(embedding).toEqual({
      name: 'model.word_embeddings.weight',
      file: 0,
      offset: 8 + 14328 + 599_232,
      rows: 512,
      columns: 64,
      dtype: 'BF16',
      scale: null,
    })
    expect(files[0]?.path).toBe(join(edge('bf16'), 'model.safetensors'))
  })

  it('has partial blocks at the edges of its scales', () => {
    const { layers } = openCheckpoint(edge('partial-fp8'))
    expect(layers[0]?.mlp?.gate).toMatchObject({
      rows: 328,
      columns: 200,
      scale: { kind: 'block', dtype: 'F32', rows: 3, columns: 2, blockRows: 128 },
    })
  })

  it('has one scale per row where they lie beside the weights under the other name', () => {
    const { layers } = openCheckpoint(edge('channel-fp8'))
    expect(layers[1]?.experts[15]?.down.scale).toMatchObject({
      kind: 'row',
      dtype: 'BF16',
      rows: 96,
      columns: 1,
      blockRows: 1,
      blockColumns: 48,
    })
    expect(layers[1]?.routerBias?.dtype).toBe('BF16')
  })

  it('takes scales per row as vectors and as float32 too', () => {
    const { layers } = openChanged(edge('channel-fp8'), (hollow) => {
      tensor(hollow, `${qkv}_scale`).shape = [128]
      const scale = tensor(hollow, `${dense}_scale`)
      scale.dtype = 'F32'
      const shard = hollow.shards.get('model-00001-of-00002.safetensors')
      if (shard === undefined) throw new Error('no first shard')
      scale.data_offsets = [shard.bodyBytes, shard.bodyBytes + 4 * 96]
      shard.bodyBytes += 4 * 96
    })
    expect(layers[0]?.qkv.scale?.kind).toBe('row')
    expect(layers[0]?.attentionOut.scale?.dtype).toBe('F32')
  })

  it('decides layouts tensor by tensor, whatever the config announces', () => {
    const { layers } = openChanged(edge('channel-fp8'), (hollow) => {
      delete hollow.config.quantization_config
    })
    expect(layers[0]?.qkv.dtype).toBe('F8_E4M3')
  })

  it('uses the embedding as head where the config ties them', () => {
    const { embedding, head, layers } = openCheckpoint(edge('tied-bias'))
    expect(head).toBe(embedding)
    expect(layers[0]?.qkvBias).toMatchObject({ rows: 1, columns: 128 })
    expect(layers[0]?.attentionOutBias).toMatchObject({ rows: 1, columns: 64 })
    expect(layers[1]?.mlp).toMatchObject({ gate: { rows: 64 } })
  })

  it('skips the layers of multi-token prediction', () => {
    const { layers, tensors } = openCheckpoint(edge('mtp-extra'))
    expect(layers).toHaveLength(2)
    expect(tensors).toEqual({ bound: 71, scales: 58, skipped: 116, unknown: 0 })
  })

  it('counts what it has no use for', () => {
    const { tensors } = openChanged(ringTiny, (hollow) => {
      const entry = { dtype: 'I4_ODD', shape: [3], data_offsets: [0, 0] }
      hollow.shards.get(first)?.tensors.set('something.else', entry)
      hollow.shards.get(first)?.tensors.set('named.something', entry)
      hollow.index?.set('named.something', first)
    })
    expect(tensors).toEqual({ bound: 547, scales: 510, skipped: 0, unknown: 2 })
  })

  it('does without what neither config nor files have', () => {
    const { layers } = openChanged(edge('bf16'), (hollow) => {
      hollow.config.use_qk_norm = false
      hollow.config.moe_router_enable_expert_bias = false
      hollow.config.num_shared_experts = 0
      for (const layer of [0, 1, 2]) {
        remove(hollow, `model.layers.${layer}.attention.query_layernorm.weight`)
        remove(hollow, `model.layers.${layer}.attention.key_layernorm.weight`)
        remove(hollow, `model.layers.${layer}.mlp.gate.expert_bias`)
      }
    })
    expect(layers[1]).toMatchObject({ queryNorm: null, keyNorm: null, routerBias: null, mlp: null })
  })

  it('opens through links, as the Hugging Face cache has them', () => {
    inTemporaryFolder((folder) => {
      for (const file of fs.readdirSync(edge('bf16'))) {
        fs.symlinkSync(join(edge('bf16'), file), join(folder, file))
      }
      expect(openCheckpoint(folder).layers).toHaveLength(3)
    })
  })
})
