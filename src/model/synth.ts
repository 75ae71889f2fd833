/**
 * A checkpoint of any shape with random weights, for what needs a model's size and not its knowledge.
 * Weights are normal around zero and never zero, spread so that a token's numbers neither grow nor
 * fade on their way through the layers; norms are about 1; routers favour no expert much, so all of
 * them are used. The bytes of a tensor follow from seed and name alone: a model cut to fewer layers
 * has the same first layers, however its files are cut. Sparse: the large matrices are holes, which
 * read as zeros; norms, biases, routers and scales are there.
 */
import { type TensorSpec, tensorSpecs } from './architecture.js'
import { type ModelConfig, parseConfig } from './config.js'
import { ModelError } from './error.js'
import { around, bfloat16Of, codeSpread, normalBfloat16, normalCodes, Stream } from './random.js'
import type { NewCheckpoint, NewTensor } from './writer.js'

export interface SynthWishes {
  readonly seed: number
  readonly sparse?: boolean | undefined
  /** Only so many of the first layers. */
  readonly layers?: number | undefined
  /** Absent: what the config announces. */
  readonly dtype?: 'fp8' | 'bf16' | undefined
}

/** `raw` is the object of a config.json. Throws ModelError where it describes no model we know. */
export function synth(raw: Readonly<Record<string, unknown>>, wishes: SynthWishes): NewCheckpoint {
  const whole = parseConfig(JSON.stringify(raw), 'config.json')
  const json = { ...cut(raw, whole, wishes.layers), ...quantisationOf(whole, wishes.dtype) }
  const config = parseConfig(JSON.stringify(json), 'config.json')
  const tensors: NewTensor[] = []
  for (const spec of tensorSpecs(config)) {
    if (spec.required) tensors.push(...made(spec, config, wishes))
  }
  return { config: json, tensors }
}

/** The config of the model's first layers, without prediction layers, which nobody would find. */
function cut(
  raw: Readonly<Record<string, unknown>>,
  { layers, firstMoeLayer }: ModelConfig,
  wanted = layers,
): Record<string, unknown> {
  if (wanted > layers) {
    throw new ModelError(`--layers ${wanted}: this model has ${layers} layers`)
  }
  return {
    ...raw,
    num_hidden_layers: wanted,
    first_k_dense_replace: Math.min(firstMoeLayer, wanted),
    ...('num_nextn_predict_layers' in raw ? { num_nextn_predict_layers: 0 } : {}),
  }
}

/** FP8 is in blocks, unless the config announces the other kind. */
function quantisationOf(
  { quantisation, blockRows, blockColumns }: ModelConfig,
  dtype: SynthWishes['dtype'],
) {
  if (dtype === 'bf16') return { quantization_config: undefined }
  if (dtype === undefined || quantisation !== 'none') return {}
  const weight_block_size = [blockRows, blockColumns]
  const kind = { quant_method: 'fp8', fmt: 'e4m3', activation_scheme: 'dynamic' }
  return { quantization_config: { ...kind, weight_block_size } }
}

/** How far biases are from zero: enough to matter, too little to decide. */
const BIAS_SPREAD = 0.02
/** Scales differ between blocks, as those of trained weights do. */
const SCALE_SPREAD = 0.25

/** A tensor, and its scale where the published tools would give it one. */
function made(spec: TensorSpec, config: ModelConfig, { seed, sparse }: SynthWishes): NewTensor[] {
  const { name, shape, part } = spec
  const stream = () => new Stream(seed, name)
  const count = shape.reduce((product, size) => product * size, 1)
  if (shape.length === 1) {
    if (part === 'routerBias' && config.quantisation !== 'channel-fp8') {
      const pieces = () => [bytesOf(around(0, BIAS_SPREAD, count, stream()))]
      return [{ name, dtype: 'F32', shape, pieces }]
    }
    const centre = part.endsWith('Norm') ? 1 : 0
    const spread = centre === 1 ? 0.1 : BIAS_SPREAD
    const pieces = () => [bytesOf(bfloat16Of(around(centre, spread, count, stream())))]
    return [{ name, dtype: 'BF16', shape, pieces }]
  }
  const isHole = (sparse ?? false) && part !== 'router'
  const spread = part === 'embedding' ? 1 : 1 / Math.sqrt(shape[1] ?? 1)
  const isQuantised = spec.dtypes.includes('F8_E4M3') && part !== 'head'
  if (config.quantisation === 'none' || !isQuantised) {
    const pieces = isHole ? null : () => normalBfloat16(spread, count, stream())
    return [{ name, dtype: 'BF16', shape, pieces }]
  }
  const pieces = isHole ? null : () => normalCodes(count, stream())
  return [{ name, dtype: 'F8_E4M3', shape, pieces }, scaleOf(spec, config, spread, seed)]
}

function scaleOf(spec: TensorSpec, config: ModelConfig, spread: number, seed: number): NewTensor {
  const [rows = 1, columns = 1] = spec.shape
  const isChannel = config.quantisation === 'channel-fp8'
  const name = `${spec.name}${isChannel ? '_scale' : '_scale_inv'}`
  const shape = isChannel
    ? [rows, 1]
    : [Math.ceil(rows / config.blockRows), Math.ceil(columns / config.blockColumns)]
  const count = (shape[0] ?? 1) * (shape[1] ?? 1)
  const mean = spread / codeSpread
  const values = () => around(mean, mean * SCALE_SPREAD, count, new Stream(seed, name))
  return isChannel
    ? { name, dtype: 'BF16', shape, pieces: () => [bytesOf(bfloat16Of(values()))] }
    : { name, dtype: 'F32', shape, pieces: () => [bytesOf(values())] }
}

function bytesOf({ buffer, byteOffset, byteLength }: Float32Array | Uint16Array): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength)
}
