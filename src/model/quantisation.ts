/**
 * How the weights of a checkpoint are said to be quantised (`quantization_config`). It must not
 * decide how any tensor is read: what a tensor is and which scale lies beside it decides that.
 * Its use is to refuse early what the tensors could not be read as, and to give the block size.
 */
import { ModelError, shown } from './error.js'
import { byName, type Kind, kind, nullish, object, oneOf, parseFields, whole } from './fields.js'
import { isRecord } from './json.js'

export interface Quantisation {
  readonly quantisation: 'none' | 'block-fp8' | 'channel-fp8'
  /** Rows and columns of a matrix that share one block scale; 128 each in all published models. */
  readonly blockRows: number
  readonly blockColumns: number
}

const BLOCK = 128

export function readQuantisation(raw: Record<string, unknown>, file: string): Quantisation {
  const announced = raw.quantization_config ?? null
  if (announced === null) {
    return { quantisation: 'none', blockRows: BLOCK, blockColumns: BLOCK }
  }
  if (!isRecord(announced)) {
    throw new ModelError(
      `${file}: quantization_config must be an object, found ${shown(announced)}`,
    )
  }
  const path = ['quantization_config']
  if (announced.quant_method === 'fp8') {
    const keys = parseFields(block, announced, file, path)
    const [blockRows = BLOCK, blockColumns = BLOCK] = keys.weight_block_size ?? []
    return { quantisation: 'block-fp8', blockRows, blockColumns }
  }
  if (announced.quant_method === 'compressed-tensors') {
    parseFields(channel, announced, file, path)
    return { quantisation: 'channel-fp8', blockRows: BLOCK, blockColumns: BLOCK }
  }
  throw new ModelError(
    `${file}: quantization_config.quant_method must be "fp8" or "compressed-tensors", found ${shown(announced.quant_method)}`,
  )
}

const block = object({
  fmt: nullish(oneOf('e4m3')),
  weight_block_size: nullish(twoSizes()),
})

/** compressed-tensors describes groups of layers, each with its own kind of weights. */
const channel = object({
  config_groups: nullish(
    byName(
      object({
        weights: object({
          num_bits: oneOf(8),
          type: oneOf('float'),
          strategy: oneOf('channel'),
          symmetric: nullish(oneOf(true)),
        }),
      }),
    ),
  ),
})

function twoSizes(): Kind<number[]> {
  const size = whole(1, 65536)
  return kind(
    (value) => Array.isArray(value) && value.length === 2 && value.every((item) => size.is(item)),
    'must be two whole numbers from 1 to 65536',
  )
}
