// Weights that are damaged inside a file that is sound: bytes are changed in real copies. What can be
// seen when a model opens is refused then, with the tensor's name; an FP8 NaN code stays NaN, and the
// requests that meet it fail instead of being answered with numbers made of it.
import {
  closeSync,
  copyFileSync,
  mkdtempSync,
  openSync,
  readdirSync,
  rmSync,
  writeSync,
} from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openModel } from '../src/engine/open.js'
import { type Checkpoint, type Matrix, openCheckpoint } from '../src/model/checkpoint.js'
import { ModelError } from '../src/model/error.js'
import { driveOne } from './drive.js'
import { requestOf } from './models.js'
import { edge, ringTiny } from './paths.js'

const nanF32 = Buffer.from([0x00, 0x00, 0xc0, 0x7f])
const infinityF32 = Buffer.from([0x00, 0x00, 0x80, 0x7f])
const nanBf16 = Buffer.from([0xc0, 0x7f])
const nanE4m3 = Buffer.from([0x7f])

let folder: string

beforeEach(() => {
  folder = mkdtempSync(join(os.tmpdir(), 'ring-damaged-'))
})
afterEach(() => {
  rmSync(folder, { recursive: true })
})

/** A copy of a model with bytes changed where `find` points. */
function damage(
  source: string,
  find: (checkpoint: Checkpoint) => { file: number; offset: number } | null | undefined,
  bytes: Buffer,
): Checkpoint {
  for (const file of readdirSync(source)) copyFileSync(join(source, file), join(folder, file))
  const checkpoint = openCheckpoint(folder)
  const place = find(checkpoint)
  const path = checkpoint.files[place?.file ?? -1]?.path
  if (place === null || place === undefined || path === undefined) throw new Error('no such tensor')
  const descriptor = openSync(path, 'r+')
  writeSync(descriptor, bytes, 0, bytes.length, place.offset)
  closeSync(descriptor)
  return checkpoint
}

function refusal(): string {
  try {
    openModel(folder).close()
  } catch (error) {
    if (error instanceof ModelError) return error.message
    throw error
  }
  return 'opened'
}

const expertOf = (checkpoint: Checkpoint, layer: number, expert: number): Matrix | undefined =>
  checkpoint.layers[layer]?.experts[expert]?.down

describe('a model is refused, and the tensor named, for', () => {
  it('a NaN among the scales of a block-FP8 expert', () => {
    damage(ringTiny, (checkpoint) => expertOf(checkpoint, 4, 17)?.scale, nanF32)
    expect(refusal()).toBe(
      'model.layers.4.mlp.experts.17.down_proj.weight has a scale that is not a finite number',
    )
  })

  it('an infinity among the scales of a dense matrix', () => {
    damage(ringTiny, (checkpoint) => checkpoint.layers[2]?.qkv.scale, infinityF32)
    expect(refusal()).toBe(
      'model.layers.2.attention.query_key_value.weight has a scale that is not a finite number',
    )
  })

  it('a NaN among per-row BF16 scales', () => {
    damage(edge('channel-fp8'), (checkpoint) => expertOf(checkpoint, 1, 3)?.scale, nanBf16)
    expect(refusal()).toBe(
      'model.layers.1.mlp.experts.3.down_proj.weight has a scale that is not a finite number',
    )
  })

  it('a NaN in a norm, and in an expert bias', () => {
    damage(ringTiny, (checkpoint) => checkpoint.layers[0]?.postNorm, nanBf16)
    expect(refusal()).toMatch(/^model\.layers\.0\.post_attention_layernorm\.weight holds a value/)
    damage(ringTiny, (checkpoint) => checkpoint.layers[3]?.routerBias, nanF32)
    expect(refusal()).toMatch(/^model\.layers\.3\.mlp\.gate\.expert_bias holds a value/)
  })
})

describe('a request fails, and the layer is named, for', () => {
  const prompt = Array.from({ length: 60 }, (_, index) => (index * 29 + 7) % 900)

  it('an FP8 NaN code in an attention matrix', () => {
    damage(ringTiny, (checkpoint) => checkpoint.layers[3]?.qkv, nanE4m3)
    const { ending, emissions } = driveOne(folder, {}, requestOf(prompt, { maxTokens: 5 }))
    expect(emissions).toEqual([])
    expect(ending.reason).toBe('failed')
    expect(ending.message).toMatch(/not finite numbers reached layer 3/)
  })

  it('an FP8 NaN code in an expert, once a token is routed to it', () => {
    const everyExpert = requestOf(prompt, { routing: true })
    const { scored } = driveOne(ringTiny, {}, everyExpert).ending
    const used = scored?.experts[0] ?? 0 // the first MoE layer, first token, first choice
    damage(ringTiny, (checkpoint) => expertOf(checkpoint, 1, used), nanE4m3)
    const { ending } = driveOne(folder, {}, requestOf(prompt, { maxTokens: 5 }))
    expect(ending.reason).toBe('failed')
    expect(ending.message).toMatch(/not finite numbers reached layer 2/)
  })

  it('a NaN in the output head', () => {
    damage(ringTiny, (checkpoint) => checkpoint.head, nanBf16)
    const { ending } = driveOne(folder, {}, requestOf(prompt, { maxTokens: 5 }))
    expect(ending.reason).toBe('failed')
    expect(ending.message).toMatch(/logits are not finite/)
  })
})
