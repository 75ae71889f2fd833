/**
 * The published models, as far as one can have them without their weights: real configs and real
 * headers over hollow files. The expected figures are written out, not computed: they are those of
 * the published checkpoints (parameter counts, storage) or follow from their shapes by hand.
 */
import fs from 'node:fs'
import { describe, expect, it } from 'vitest'
import { type TensorSpec, totals } from '../src/model/architecture.js'
import { type Checkpoint, openCheckpoint } from '../src/model/checkpoint.js'
import { parseConfig } from '../src/model/config.js'
import { inventory, inventoryOfConfig } from '../src/model/inventory.js'
import { type HollowLayout, hollowFor, inTemporaryFolder, writeHollow } from './hollow.js'
import { fromRoot } from './paths.js'

const blockFp8 = { quant_method: 'fp8', fmt: 'e4m3', weight_block_size: [128, 128] }
const channelFp8 = {
  quant_method: 'compressed-tensors',
  format: 'float-quantized',
  ignore: ['lm_head'],
  config_groups: {
    group_0: { weights: { num_bits: 8, type: 'float', strategy: 'channel', symmetric: true } },
  },
}

function configJson(model: string, layout: HollowLayout): Record<string, unknown> {
  const json = JSON.parse(fs.readFileSync(fromRoot(`test/fixtures/configs/${model}.json`), 'utf8'))
  if (layout === 'block-fp8') json.quantization_config = blockFp8
  if (layout === 'channel-fp8') json.quantization_config = channelFp8
  return json
}

function configOf(model: string, layout: HollowLayout = 'bf16') {
  return parseConfig(JSON.stringify(configJson(model, layout)), 'config.json')
}

/** Opens the hollow checkpoint of a model and hands it to `use`. */
function withCheckpoint(
  model: string,
  layout: HollowLayout,
  place: (spec: TensorSpec) => string,
  use: (checkpoint: Checkpoint) => void,
): void {
  inTemporaryFolder((folder) => {
    const json = configJson(model, layout)
    writeHollow(hollowFor(json, configOf(model, layout), layout, place), folder)
    use(openCheckpoint(folder))
  })
}

const gigabytes = (bytes: number, digits = 2) => (bytes / 1e9).toFixed(digits)
const oneFile = () => 'model-00001-of-00001.safetensors'
const fileOfLayer = (spec: TensorSpec) => `model-${spec.layer + 1}.safetensors`
/** An expert's three matrices in three files. */
const scattered = (spec: TensorSpec) => `model-${spec.layer + 1}-${spec.part}.safetensors`

describe('Ring-1T', () => {
  it('has 999,705,328,640 parameters in 59,243 tensors', () => {
    expect(totals(configOf('ring-1t'))).toEqual({
      parameters: 999_705_328_640,
      activeParameters: 51_054_427_136,
      activeInnerParameters: 48_479_124_480,
      parametersPerExpert: 50_331_648,
      routedParameters: 979_252_543_488,
      expertCount: 19_456,
      moeLayers: 76,
      tensors: 59_243,
    })
  })

  it('reads rotary_dim and does without the width of the shared expert', () => {
    expect(configOf('ring-1t')).toMatchObject({ rotaryDim: 64, sharedWidth: 2048, context: 65536 })
  })

  it('opens per-channel FP8 with the matrices of an expert in three files', () => {
    withCheckpoint('ring-1t', 'channel-fp8', scattered, (checkpoint) => {
      const { gate, up, down } = checkpoint.layers[79]?.experts[255] ?? {}
      expect(new Set([gate?.file, up?.file, down?.file]).size).toBe(3)
      expect(down).toMatchObject({ rows: 8192, columns: 2048, scale: { kind: 'row', rows: 8192 } })
      const found = inventory(checkpoint)
      expect(found.parameters.total).toBe(999_705_328_640)
      expect(found.tensors).toEqual({ bound: 59_243, scales: 58_768, skipped: 0, unknown: 0 })
      expect(found.bytes.oneExpert).toBe(50_331_648 + 24_576)
      expect(gigabytes(found.bytes.total)).toBe('1002.92')
      expect(gigabytes(found.bytes.dense, 1)).toBe('23.2')
      expect(found.bytes.kvPerToken).toBe(327_680)
    })
  })

  it('is expected to take 1,002.68 GB in blocks and 1,999.4 GB in bfloat16', () => {
    const blocks = inventoryOfConfig(configOf('ring-1t', 'block-fp8'))
    expect(blocks.bytes.oneExpert).toBe(50_331_648 + 12_288)
    expect(gigabytes(blocks.bytes.total)).toBe('1002.68')
    const plain = inventoryOfConfig(configOf('ring-1t'))
    expect(plain.bytes.oneExpert).toBe(100_663_296)
    expect(gigabytes(plain.bytes.total, 1)).toBe('1999.4')
    expect(gigabytes(plain.bytes.dense, 1)).toBe('40.9')
  })
})

describe('Ring-flash-2.0', () => {
  it('has 102,889,705,216 parameters in 24,161 tensors', () => {
    expect(totals(configOf('ring-flash'))).toMatchObject({
      parameters: 102_889_705_216,
      parametersPerExpert: 12_582_912,
      expertCount: 7_936,
      tensors: 24_161,
    })
  })

  it('opens in bfloat16 with the float32 expert biases that are published', () => {
    withCheckpoint('ring-flash', 'bf16', fileOfLayer, (checkpoint) => {
      const found = inventory(checkpoint)
      expect(found.bytes.total).toBe(2 * 102_889_697_280 + 4 * 7_936)
      expect(found.layouts.find((entry) => entry.layout === 'f32')?.bytes).toBe(4 * 7_936)
      expect(found.bytes.oneExpert).toBe(25_165_824)
      expect(found.bytes.kvPerToken).toBe(65_536)
      expect(found.tensors).toEqual({ bound: 24_161, scales: 0, skipped: 0, unknown: 0 })
    })
  })

  it('is expected to take 104.23 GB in blocks and 104.31 GB per channel', () => {
    const blocks = inventoryOfConfig(configOf('ring-flash', 'block-fp8'))
    const channels = inventoryOfConfig(configOf('ring-flash', 'channel-fp8'))
    expect(gigabytes(blocks.bytes.total)).toBe('104.23')
    expect(gigabytes(channels.bytes.total)).toBe('104.31')
    expect(gigabytes(channels.bytes.dense)).toBe('4.35')
  })
})

describe('Ring-mini-2.0', () => {
  it('has 16,255,643,392 parameters in 14,813 tensors', () => {
    expect(totals(configOf('ring-mini'))).toMatchObject({
      parameters: 16_255_643_392,
      parametersPerExpert: 3_145_728,
      expertCount: 4_864,
      tensors: 14_813,
    })
  })

  it('opens in block FP8 from a single file', () => {
    withCheckpoint('ring-mini', 'block-fp8', oneFile, (checkpoint) => {
      const found = inventory(checkpoint)
      expect(checkpoint.files).toHaveLength(1)
      expect(found.parameters.total).toBe(16_255_643_392)
      expect(found.bytes.oneExpert).toBe(3_145_728 + 768)
      expect(gigabytes(found.bytes.total)).toBe('16.91')
      expect(gigabytes(found.bytes.dense)).toBe('1.61')
      expect(found.bytes.kvPerToken).toBe(40_960)
      // Far beyond 4 GiB, where 32-bit offsets would have wrapped around.
      expect(checkpoint.layers[19]?.experts[255]?.down.offset).toBeGreaterThan(16e9)
    })
  })

  it('uses 1.433 G parameters for a token, 0.789 G without embedding and head', () => {
    const { parameters } = inventoryOfConfig(configOf('ring-mini'))
    expect((parameters.active / 1e9).toFixed(3)).toBe('1.433')
    expect((parameters.activeWithoutEmbeddings / 1e9).toFixed(3)).toBe('0.789')
  })

  it('is expected to take 16.94 GB per channel and 32.51 GB in bfloat16', () => {
    const channels = inventoryOfConfig(configOf('ring-mini', 'channel-fp8'))
    expect(gigabytes(channels.bytes.total)).toBe('16.94')
    expect(gigabytes(inventoryOfConfig(configOf('ring-mini')).bytes.total)).toBe('32.51')
  })
})

describe('what a config leads one to expect', () => {
  it.each([
    ['ring-mini', 'channel-fp8'],
    ['ring-mini', 'block-fp8'],
    ['ring-mini', 'bf16'],
  ] as const)('is what the tensors of %s in %s then show', (model, layout) => {
    const expected = inventoryOfConfig(configOf(model, layout))
    withCheckpoint(model, layout, fileOfLayer, (checkpoint) => {
      const { parameters, bytes, experts, tensors } = inventory(checkpoint)
      expect({ parameters, bytes, experts, tensors }).toEqual({
        parameters: expected.parameters,
        bytes: expected.bytes,
        experts: expected.experts,
        tensors: expected.tensors,
      })
    })
  })
})
