/**
 * What config.json and generation_config.json may say, what follows from absent keys, and the one
 * sentence that answers each absurd value.
 */
import fs from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { type ConfigOptions, parseConfig, readConfig } from '../src/model/config.js'
import { ModelError } from '../src/model/error.js'
import { ropeFrequencies } from '../src/model/rope.js'
import { inTemporaryFolder } from './hollow.js'
import { edge, fromRoot, ringTiny } from './paths.js'

const base: Record<string, unknown> = JSON.parse(
  fs.readFileSync(fromRoot('test/fixtures/configs/ring-1t.json'), 'utf8'),
)

/** The 1T config with some keys changed; undefined takes a key away. */
function parse(changes: Record<string, unknown>, options?: ConfigOptions) {
  return parseConfig(JSON.stringify({ ...base, ...changes }), 'config.json', options)
}

function messageOf(run: () => unknown): string {
  try {
    run()
  } catch (error) {
    if (error instanceof ModelError) return error.message
    throw error
  }
  throw new Error('expected a ModelError, found none')
}

const refusal = (changes: Record<string, unknown>) => messageOf(() => parse(changes))

describe('a config', () => {
  it('gives the bundled model its figures', () => {
    expect(readConfig(ringTiny)).toMatchObject({
      layers: 6,
      hidden: 256,
      heads: 4,
      kvHeads: 2,
      headDim: 64,
      rotaryDim: 32,
      denseWidth: 512,
      expertWidth: 128,
      sharedWidth: 128,
      experts: 32,
      topK: 4,
      groups: 4,
      groupsKept: 2,
      firstMoeLayer: 1,
      routedScale: 2.5,
      epsilon: 1e-6,
      ropeTheta: 600_000,
      yarn: null,
      context: 2048,
      vocabulary: 1024,
      quantisation: 'block-fp8',
      bosId: 1017,
      padId: 1018,
    })
  })

  it('is chosen by architectures[0], never by model_type', () => {
    expect(parse({ model_type: 'anything' }).architecture).toBe('BailingMoeV2ForCausalLM')
    expect(refusal({ architectures: ['BailingMoeForCausalLM'] })).toBe(
      'config.json: architectures must begin with one of BailingMoeV2ForCausalLM, found "BailingMoeForCausalLM"',
    )
    expect(refusal({ architectures: undefined })).toContain('found nothing')
  })

  it('prefers rotary_dim, then partial_rotary_factor, then half a head', () => {
    expect(parse({ rotary_dim: 32, partial_rotary_factor: 1 }).rotaryDim).toBe(32)
    expect(parse({ rotary_dim: undefined, partial_rotary_factor: 0.25 }).rotaryDim).toBe(32)
    expect(parse({ rotary_dim: null, partial_rotary_factor: null }).rotaryDim).toBe(64)
  })

  it('finds what newer tools write inside rope_parameters', () => {
    const config = parse({
      rotary_dim: undefined,
      rope_theta: undefined,
      rope_parameters: { rope_type: 'default', rope_theta: 10_000, partial_rotary_factor: 1 },
    })
    expect(config).toMatchObject({ ropeTheta: 10_000, rotaryDim: 128, yarn: null })
  })

  it('takes one group, no dense layer and heads of hidden / heads when nothing is said', () => {
    const config = parse({
      n_group: undefined,
      topk_group: undefined,
      first_k_dense_replace: undefined,
      head_dim: undefined,
    })
    expect(config).toMatchObject({ groups: 1, groupsKept: 1, firstMoeLayer: 0, headDim: 128 })
  })

  it('makes one MLP of all shared experts', () => {
    expect(parse({ num_shared_experts: 2 }).sharedWidth).toBe(4096)
    expect(
      parse({ num_shared_experts: 2, moe_shared_expert_intermediate_size: 512 }).sharedWidth,
    ).toBe(1024)
    expect(parse({ num_shared_experts: 0 }).sharedWidth).toBe(0)
    expect(parse({ num_shared_experts: null }).sharedExperts).toBe(0)
  })

  it('accepts either norm_topk_prob, which the public code never reads', () => {
    expect(parse({ norm_topk_prob: false }).topK).toBe(8)
  })

  it('ends a generation at every eos id of both files', () => {
    expect(readConfig(ringTiny).eosIds).toEqual([1018, 1021])
    expect(readConfig(edge('bf16')).eosIds).toEqual([2, 3])
    inTemporaryFolder((folder) => {
      fs.writeFileSync(join(folder, 'config.json'), JSON.stringify(base))
      expect(readConfig(folder).eosIds).toEqual([156_892])
    })
  })

  it('has the block size that it names, and 128 x 128 when it names none', () => {
    const blocks = { quant_method: 'fp8', weight_block_size: [64, 32] }
    expect(parse({ quantization_config: blocks })).toMatchObject({
      quantisation: 'block-fp8',
      blockRows: 64,
      blockColumns: 32,
    })
    expect(parse({ quantization_config: { quant_method: 'fp8' } })).toMatchObject({
      blockRows: 128,
      blockColumns: 128,
    })
  })
})

describe('YaRN', () => {
  const yarn = { type: 'yarn', factor: 4, original_max_position_embeddings: 32768 }

  it('extends the context to factor x original when that is more', () => {
    const config = parse({ max_position_embeddings: 32768, rope_scaling: yarn })
    expect(config).toMatchObject({ context: 131_072, trainedContext: 32768 })
  })

  it('keeps a max_position_embeddings that has been raised already', () => {
    expect(readConfig(edge('yarn'))).toMatchObject({ context: 128, trainedContext: 32 })
  })

  it('can be asked for by the user, over max_position_embeddings', () => {
    const config = parse({}, { ropeScaling: { factor: 2 } })
    expect(config).toMatchObject({ context: 131_072, trainedContext: 65_536 })
    expect(config.yarn).toMatchObject({ factor: 2, originalContext: 65_536 })
  })

  it('asked for by the user stretches the original that the config names, once', () => {
    const config = parse({ rope_scaling: yarn }, { ropeScaling: { factor: 8 } })
    expect(config).toMatchObject({ context: 262_144, trainedContext: 32_768 })
  })

  it('blends frequencies as the reference does', () => {
    const { inverse, magnitude } = ropeFrequencies(parse({ rope_scaling: yarn }))
    expect(magnitude).toBeCloseTo(1.138629436111989, 12)
    // Pairs 0 to 12 keep their frequency, from pair 21 on it is a quarter; reference in float32.
    const reference = new Map([
      [0, 1],
      [2, 0.4353770911693573],
      [12, 0.006810723803937435],
      [13, 0.0041194334626197815],
      [20, 8.157070260494947e-5],
      [21, 4.0367165638599545e-5],
      [31, 6.314747338365123e-7],
    ])
    for (const [pair, value] of reference) {
      expect(Math.abs((inverse[pair] ?? 0) / value - 1)).toBeLessThan(2 ** -22)
    }
  })

  it('leaves frequencies alone where there is none', () => {
    const { inverse, magnitude } = ropeFrequencies(readConfig(ringTiny))
    expect(magnitude).toBe(1)
    expect(inverse).toHaveLength(16)
    expect(inverse[15]).toBeCloseTo(600_000 ** (-30 / 32), 12)
  })

  it('refuses other kinds of scaling, and keys that would change the formula', () => {
    expect(refusal({ rope_scaling: { type: 'linear', factor: 2 } })).toBe(
      'config.json: rope_scaling.type must be "yarn" or "default", found "linear"',
    )
    expect(refusal({ rope_scaling: { ...yarn, mscale: 1 } })).toContain('rope_scaling.mscale')
    expect(refusal({ rope_scaling: { ...yarn, truncate: false } })).toContain('truncate must be')
  })

  it('refuses a factor that shrinks or is no number', () => {
    expect(refusal({ rope_scaling: { ...yarn, factor: 0.5 } })).toBe(
      'config.json: rope_scaling.factor must be a number from 1 to 1024, found 0.5',
    )
    expect(messageOf(() => parse({}, { ropeScaling: { factor: Number.NaN } }))).toBe(
      '--rope-scaling: factor must be a number from 1 to 1024, found NaN',
    )
  })
})

describe('an absurd value is refused by its key', () => {
  it.each([
    [
      'hidden_size',
      -3,
      'config.json: hidden_size must be a whole number from 1 to 1048576, found -3',
    ],
    ['hidden_size', 2.5, 'hidden_size must be a whole number from 1 to 1048576, found 2.5'],
    [
      'hidden_size',
      undefined,
      'hidden_size must be a whole number from 1 to 1048576, found nothing',
    ],
    ['hidden_size', '8192', 'hidden_size must be a whole number from 1 to 1048576, found "8192"'],
    ['num_hidden_layers', 0, 'num_hidden_layers must be a whole number from 1 to 1024, found 0'],
    ['num_hidden_layers', 1e9, 'num_hidden_layers must be'],
    ['vocab_size', 2 ** 25, 'vocab_size must be'],
    ['num_experts', 65536, 'num_experts must be a whole number from 1 to 65535'],
    ['num_experts_per_tok', 129, 'num_experts_per_tok must be at most the 128 experts'],
    ['n_group', 7, 'n_group must be a divisor of num_experts (256), found 7'],
    ['n_group', 256, 'n_group must be at most half of num_experts (256), found 256'],
    ['topk_group', 9, 'topk_group must be at most n_group (8), found 9'],
    ['first_k_dense_replace', 81, 'first_k_dense_replace must be at most num_hidden_layers (80)'],
    ['num_key_value_heads', 7, 'num_attention_heads must be a multiple of num_key_value_heads (7)'],
    ['rotary_dim', 63, 'rotary_dim must make the rotated dimensions an even number from 2'],
    ['rotary_dim', 130, 'found 130'],
    ['rms_norm_eps', 0, 'rms_norm_eps must be a number above 0'],
    ['rope_theta', undefined, 'rope_theta must be a number above 1'],
    ['max_position_embeddings', -1, 'max_position_embeddings must be'],
    ['tie_word_embeddings', 'no', 'tie_word_embeddings must be true or false, found "no"'],
    ['eos_token_id', [156_892, 157_184], 'eos_token_id must be ids from 0 to 157183'],
    ['pad_token_id', -1, 'pad_token_id must be a whole number from 0 to 157183, found -1'],
    ['norm_head', true, 'norm_head must be false, found true'],
    ['score_function', 'softmax', 'score_function must be "sigmoid", found "softmax"'],
    ['hidden_act', 'gelu', 'hidden_act must be "silu", found "gelu"'],
    ['rope_scaling', 'yarn', 'rope_scaling must be an object, found "yarn"'],
    ['quantization_config', 8, 'quantization_config must be an object, found 8'],
    ['quantization_config', { quant_method: 'gptq' }, 'must be "fp8" or "compressed-tensors"'],
    [
      'quantization_config',
      { quant_method: 'fp8', weight_block_size: [128] },
      'quantization_config.weight_block_size must be two whole numbers',
    ],
    [
      'quantization_config',
      {
        quant_method: 'compressed-tensors',
        config_groups: { group_0: { weights: { num_bits: 4, type: 'int', strategy: 'group' } } },
      },
      'quantization_config.config_groups.group_0.weights.num_bits must be 8, found 4',
    ],
  ])('%s %j', (key, value, expected) => {
    expect(refusal({ [key]: value })).toContain(expected)
  })

  it('sizes that are possible one by one but not together', () => {
    const huge = { hidden_size: 2 ** 20, moe_intermediate_size: 2 ** 22, num_experts: 32768 }
    expect(refusal(huge)).toContain('must make at most 2^50 parameters')
    const heads = { hidden_size: 2 ** 20, num_attention_heads: 4096, head_dim: 4096 }
    expect(refusal({ ...heads, num_hidden_layers: 1024 })).toContain('at most 2^50 parameters')
  })
})

describe('text that is no config', () => {
  it.each([
    ['an empty text', '', 'expected JSON'],
    ['half an object', '{', 'expected JSON'],
    ['a list', '[]', 'expected a JSON object, found []'],
    ['null', 'null', 'expected a JSON object, found null'],
    ['a hundred thousand brackets', '['.repeat(100_000), 'expected JSON'],
  ])('%s', (_, text, expected) => {
    expect(messageOf(() => parseConfig(text, 'config.json'))).toContain(`config.json: ${expected}`)
  })

  it('a missing config.json names the folder', () => {
    inTemporaryFolder((folder) => {
      expect(messageOf(() => readConfig(folder))).toBe(
        `config.json: file not found, expected in ${folder}`,
      )
    })
  })

  it('a damaged generation_config.json is named', () => {
    inTemporaryFolder((folder) => {
      fs.writeFileSync(join(folder, 'config.json'), JSON.stringify(base))
      fs.writeFileSync(join(folder, 'generation_config.json'), '{"eos_token_id": [1, -2]}')
      expect(messageOf(() => readConfig(folder))).toBe(
        'generation_config.json: eos_token_id must be ids from 0 to 157183, found [1, -2]',
      )
    })
  })
})
