/**
 * The one sentence that answers each way in which the files of a checkpoint can be wrong: missing,
 * cut, lying about ranges and shapes, disagreeing with the index or the config.
 */
import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { refusal, remove, rename, tensor } from './damage.js'
import { edge, ringTiny } from './paths.js'

const nothing = () => {}
const first = 'model-00001-of-00004.safetensors'
const qkv = 'model.layers.0.attention.query_key_value.weight'
const expert = 'model.layers.1.mlp.experts.7.down_proj.weight'

describe('files that are wrong', () => {
  it('a missing shard', () => {
    const message = refusal(ringTiny, (hollow) => hollow.shards.delete(first))
    expect(message).toMatch(/^model-00001-of-00004.safetensors: file not found, expected in /)
  })

  it('neither index nor single file', () => {
    expect(refusal(edge('bf16'), (hollow) => hollow.shards.clear())).toMatch(
      /^model.safetensors: expected it or model.safetensors.index.json, found neither in /,
    )
  })

  it('a truncated shard', () => {
    const message = refusal(ringTiny, nothing, (folder) => {
      fs.truncateSync(join(folder, first), 4_000_000)
    })
    expect(message).toMatch(
      /^model-00001-of-00004.safetensors: "[^"]+": expected data_offsets within the 3973760 bytes of data in the file, found \[\d+, \d+\]$/,
    )
  })

  it('a shard that ends within its header', () => {
    const message = refusal(ringTiny, nothing, (folder) => {
      fs.truncateSync(join(folder, first), 1000)
    })
    expect(message).toBe(
      `${first}: expected a header of at most the 992 bytes that follow its length, found length 26232`,
    )
  })

  it.each([
    ['beyond the file', 2n ** 40n, 'expected a header of at most the'],
    ['beyond 2^63', 2n ** 64n - 1n, 'found length 18446744073709551615'],
    ['of nothing', 0n, 'expected a header of 2 to 100000000 bytes, found length 0'],
  ])('a header length %s', (_, length, expected) => {
    const message = refusal(ringTiny, nothing, (folder) => {
      const bytes = Buffer.alloc(8)
      bytes.writeBigUInt64LE(length)
      const descriptor = fs.openSync(join(folder, first), 'r+')
      fs.writeSync(descriptor, bytes, 0, 8, 0)
      fs.closeSync(descriptor)
    })
    expect(message).toContain(`${first}: `)
    expect(message).toContain(expected)
  })

  it('a header above the limit, even if the file could hold it', () => {
    const message = refusal(edge('bf16'), nothing, (folder) => {
      const bytes = Buffer.alloc(8)
      bytes.writeBigUInt64LE(200_000_000n)
      fs.writeFileSync(join(folder, 'model.safetensors'), bytes)
      fs.truncateSync(join(folder, 'model.safetensors'), 300_000_000)
    })
    expect(message).toContain('expected a header of 2 to 100000000 bytes, found length 200000000')
  })

  it('an empty file, a folder and a pipe in place of a shard', () => {
    const path = (folder: string) => join(folder, 'model.safetensors')
    const replaced = (put: (path: string) => void) =>
      refusal(edge('bf16'), nothing, (folder) => {
        fs.rmSync(path(folder))
        put(path(folder))
      })
    expect(replaced((shard) => fs.writeFileSync(shard, ''))).toContain('found an empty file')
    expect(replaced((shard) => fs.mkdirSync(shard))).toContain('expected a file, found a folder')
    expect(replaced((shard) => execFileSync('mkfifo', [shard]))).toContain('found a pipe')
  })

  it('a tensor range outside the file', () => {
    const message = refusal(edge('bf16'), (hollow) => {
      tensor(hollow, qkv).data_offsets = [664_000, 664_000 + 16_384]
    })
    expect(message).toBe(
      `model.safetensors: "${qkv}": expected data_offsets within the 664768 bytes of data in the file, found [664000, 680384]`,
    )
  })

  it('overlapping tensor ranges', () => {
    const message = refusal(edge('bf16'), (hollow) => {
      tensor(hollow, qkv).data_offsets = [100_000, 116_384]
    })
    expect(message).toMatch(
      /^model.safetensors: "[^"]+": expected bytes of its own, found them shared with "/,
    )
  })

  it.each([
    ['negative', [-16_384, 0], 'data_offsets of two whole numbers from 0'],
    ['fractional', [0.5, 16_384.5], 'data_offsets of two whole numbers from 0'],
    ['falling', [16_384, 0], 'data_offsets in rising order, found [16384, 0]'],
    ['beyond 2^53', [2 ** 53, 2 ** 53 + 16_384], 'data_offsets of two whole numbers from 0'],
    ['incomplete', [0], 'data_offsets of two whole numbers from 0, found [0]'],
  ])('a %s tensor range', (_, range, expected) => {
    const message = refusal(edge('bf16'), (hollow) => {
      tensor(hollow, qkv).data_offsets = range
    })
    expect(message).toContain(`model.safetensors: "${qkv}": expected ${expected}`)
  })

  it('a tensor range of the wrong byte count', () => {
    const message = refusal(edge('bf16'), (hollow) => {
      tensor(hollow, qkv).shape = [128, 63]
    })
    expect(message).toBe(
      `model.safetensors: "${qkv}": expected 16128 bytes for BF16 [128, 63], found 16384`,
    )
  })

  it('a shape that overflows', () => {
    const message = refusal(edge('bf16'), (hollow) => {
      tensor(hollow, qkv).shape = [2 ** 32, 2 ** 32]
    })
    expect(message).toBe(
      `model.safetensors: "${qkv}": expected a shape of less than 2^53 bytes, found [4294967296, 4294967296]`,
    )
  })

  it('a shape that differs from the config', () => {
    const message = refusal(edge('bf16'), (hollow) => {
      tensor(hollow, qkv).shape = [64, 128]
    })
    expect(message).toBe(
      `model.safetensors: "${qkv}": expected shape [128, 64] as config.json makes it, found [64, 128]`,
    )
  })

  it.each(['F16', 'I8', 'F64', 'NEW_TYPE'])('a needed tensor of dtype %s', (dtype) => {
    const message = refusal(edge('bf16'), (hollow) => {
      const entry = tensor(hollow, qkv)
      entry.dtype = dtype
      if (dtype === 'I8') entry.data_offsets[1] = (entry.data_offsets[0] ?? 0) + 8192
      if (dtype === 'F64') entry.shape = [128, 16]
    })
    expect(message).toBe(
      `model.safetensors: "${qkv}": expected dtype F8_E4M3 or BF16 or F32, found "${dtype}"`,
    )
  })

  it('a quantised router', () => {
    const message = refusal(edge('bf16'), (hollow) => {
      const entry = tensor(hollow, 'model.layers.1.mlp.gate.weight')
      entry.dtype = 'F8_E4M3'
      entry.data_offsets[1] = (entry.data_offsets[0] ?? 0) + 1024
    })
    expect(message).toContain('expected dtype BF16 or F32, found "F8_E4M3"')
  })

  it('a missing tensor', () => {
    expect(refusal(edge('bf16'), (hollow) => remove(hollow, expert))).toBe(
      `model.safetensors: expected tensor ${expert} [64, 32], which config.json calls for, found none of that name`,
    )
  })

  it('a tensor that sits in a shard but that the index does not name', () => {
    expect(refusal(ringTiny, (hollow) => hollow.index?.delete(expert))).toBe(
      `model.safetensors.index.json: expected tensor ${expert} [256, 128], which config.json calls for, found none of that name`,
    )
  })

  it('a tensor that the index names but that sits in no shard', () => {
    const message = refusal(ringTiny, (hollow) => {
      for (const shard of hollow.shards.values()) shard.tensors.delete(expert)
    })
    expect(message).toContain(
      `expected tensor "${expert}", which model.safetensors.index.json places`,
    )
  })

  it.each(['../config.json', '/etc/hostname', '..', '.', '', 'a/b', 'a\\b', 'a\0b'])(
    'an index that names %j',
    (name) => {
      const message = refusal(ringTiny, (hollow) => hollow.index?.set(expert, name))
      expect(message).toMatch(
        /^model.safetensors.index.json: weight_map\..+ must name a file in the model's own folder, found "/,
      )
    },
  )

  it.each([
    ['{"weight_map": []}', 'weight_map must be an object, found []'],
    ['{"weight_map": {}}', 'weight_map must name 1 to 16384 files, found 0'],
    ['{"weight_map": {"a": 1}}', 'found 1'],
    ['[1]', 'expected a JSON object, found [1]'],
    ['', 'expected data, found an empty file'],
    ['weights', 'expected JSON'],
  ])('an index of %s', (text, expected) => {
    const message = refusal(ringTiny, nothing, (folder) => {
      fs.writeFileSync(join(folder, 'model.safetensors.index.json'), text)
    })
    expect(message).toMatch(/^model.safetensors.index.json: /)
    expect(message).toContain(expected)
  })
})

describe('scales that are wrong', () => {
  const source = edge('partial-fp8')

  it('none beside an FP8 tensor', () => {
    expect(refusal(source, (hollow) => remove(hollow, `${qkv}_scale_inv`))).toContain(
      `"${qkv}": expected a tensor of that name with _scale_inv or _scale, found nothing`,
    )
  })

  it('both kinds beside an FP8 tensor', () => {
    const message = refusal(source, (hollow) => {
      const file = hollow.index?.get(qkv) ?? ''
      const entry = { dtype: 'F32', shape: [0], data_offsets: [0, 0] }
      hollow.shards.get(file)?.tensors.set(`${qkv}_scale`, entry)
      hollow.index?.set(`${qkv}_scale`, file)
    })
    expect(message).toContain(`"${qkv}_scale": expected one scale for the tensor, found`)
  })

  it('one beside a tensor that is not FP8', () => {
    const message = refusal(source, (hollow) => {
      rename(hollow, `${qkv}_scale_inv`, 'model.layers.0.input_layernorm.weight_scale')
    })
    expect(message).toContain('expected no scale for a tensor of dtype BF16, found "F32"')
  })

  it('blocks that do not cover the matrix', () => {
    const message = refusal(source, (hollow) => {
      const entry = tensor(hollow, `${qkv}_scale_inv`)
      entry.shape = [entry.shape[1] ?? 0, entry.shape[0] ?? 0]
    })
    expect(message).toContain(`"${qkv}_scale_inv": expected shape [4, 2], found [2, 4]`)
  })

  it('a count of rows that is not the matrix’s', () => {
    const message = refusal(edge('channel-fp8'), (hollow) => {
      tensor(hollow, `${qkv}_scale`).shape = [64, 2]
    })
    expect(message).toContain(`"${qkv}_scale": expected shape [128, 1], found [64, 2]`)
  })

  it('a dtype that no scale has', () => {
    const message = refusal(edge('channel-fp8'), (hollow) => {
      tensor(hollow, `${qkv}_scale`).dtype = 'F16'
    })
    expect(message).toContain(`"${qkv}_scale": expected dtype BF16 or F32, found "F16"`)
  })
})

describe('a config that disagrees with the tensors', () => {
  it.each([
    ['use_qkv_bias', 'model.layers.0.attention.query_key_value.bias'],
    ['use_bias', 'model.layers.0.attention.dense.bias'],
  ])('%s without the tensor', (key, name) => {
    const message = refusal(edge('bf16'), (hollow) => {
      hollow.config[key] = true
    })
    expect(message).toContain(`expected tensor ${name}`)
  })

  it('use_qk_norm without the tensors, or with one of the two', () => {
    const name = 'model.layers.0.attention.key_layernorm.weight'
    expect(refusal(edge('bf16'), (hollow) => remove(hollow, name))).toContain(name)
    const half = refusal(edge('bf16'), (hollow) => {
      hollow.config.use_qk_norm = false
      remove(hollow, name)
    })
    expect(half).toContain(`expected tensor ${name}`)
  })

  it('an announced expert bias that is absent', () => {
    const name = 'model.layers.1.mlp.gate.expert_bias'
    expect(refusal(edge('bf16'), (hollow) => remove(hollow, name))).toContain(name)
  })

  it('more layers than there are', () => {
    const message = refusal(edge('bf16'), (hollow) => {
      hollow.config.num_hidden_layers = 4
    })
    expect(message).toContain('expected tensor model.layers.3.')
  })

  it('a prediction layer counted among the layers', () => {
    const message = refusal(edge('mtp-extra'), (hollow) => {
      hollow.config.num_hidden_layers = 3
    })
    expect(message).toBe(
      'config.json: num_hidden_layers must not count multi-token prediction layers, found 3 with layer 2 being one',
    )
  })

  it('untied embeddings without a head', () => {
    const message = refusal(edge('tied-bias'), (hollow) => {
      hollow.config.tie_word_embeddings = false
    })
    expect(message).toContain('expected tensor lm_head.weight [512, 64]')
  })
})
