/**
 * What a checkpoint amounts to, as figures for `inspect` and for planning memory. Pure data: it
 * prints nothing and knows no machine. From an open checkpoint every byte is counted as it lies in
 * the files; from a config alone it is what the announced quantisation would make of it.
 */
import type { Dtype, TensorSpec } from './architecture.js'
import { elementCount, expertSpec, flat, layerSpec, outerSpec, totals } from './architecture.js'
import type { Checkpoint, Layer, Matrix, Mlp, TensorCounts } from './checkpoint.js'
import type { ModelConfig } from './config.js'

export type Layout = 'block-fp8' | 'channel-fp8' | 'bf16' | 'f32'

export interface Inventory {
  readonly architecture: string
  /** Whether bytes were counted from the files or follow from the config. */
  readonly source: 'tensors' | 'config'
  readonly parameters: {
    readonly total: number
    readonly routed: number
    readonly perExpert: number
    /** Used for one token, embedding and head included. */
    readonly active: number
    readonly activeWithoutEmbeddings: number
  }
  readonly bytes: {
    readonly total: number
    /** Everything but the routed experts, scales included. */
    readonly dense: number
    /** The largest routed expert, scales included; 0 where there is none. */
    readonly oneExpert: number
    readonly allExperts: number
    /** Routed experts that one token is sent to, over all layers, each of the largest size. */
    readonly tokenCycle: number
    /** Weights that decoding one token reads: a row of the embedding, and its experts only. */
    readonly readPerToken: number
    /** Keys and values of one token in all layers, in bfloat16. */
    readonly kvPerToken: number
  }
  readonly experts: {
    readonly count: number
    readonly layers: number
    readonly perLayer: number
    readonly perToken: number
  }
  readonly tensors: TensorCounts
  /** Bytes with scales, by how tensors are stored; only layouts that occur. */
  readonly layouts: readonly { layout: Layout; tensors: number; bytes: number }[]
  /** Null for a config alone. */
  readonly shards: { readonly count: number; readonly sizeBytes: number } | null
}

/** The figures of an open checkpoint. */
export function inventory(checkpoint: Checkpoint): Inventory {
  const ledger = new Ledger()
  const { config, embedding, finalNorm, head, layers, files } = checkpoint
  for (const matrix of head === embedding ? [embedding, finalNorm] : [embedding, finalNorm, head]) {
    ledger.addDense(weighMatrix(matrix))
  }
  if (head !== embedding) ledger.lookupBytes = weighMatrix(embedding).bytes
  for (const layer of layers) {
    for (const matrix of denseMatrices(layer)) ledger.addDense(weighMatrix(matrix))
    for (const expert of layer.experts) ledger.addExperts(mlpMatrices(expert).map(weighMatrix), 1)
  }
  const sizeBytes = files.reduce((sum, file) => sum + file.sizeBytes, 0)
  return summarise(ledger, config, {
    source: 'tensors',
    tensors: checkpoint.tensors,
    shards: { count: files.length, sizeBytes },
  })
}

/** The figures that a config alone leads one to expect, tensors of the announced kinds only. */
export function inventoryOfConfig(config: ModelConfig): Inventory {
  const ledger = new Ledger()
  const weigh = (spec: TensorSpec) => weighSpec(spec, config)
  const outer = outerSpec(config)
  for (const spec of flat(outer)) ledger.addDense(weigh(spec))
  if (!config.tiedEmbeddings) ledger.lookupBytes = weigh(outer.embedding).bytes
  for (let layer = 0; layer < config.layers; layer += 1) {
    for (const spec of flat(layerSpec(config, layer))) {
      if (spec.required) ledger.addDense(weigh(spec))
    }
  }
  const { expertCount } = totals(config)
  const expert = flat(expertSpec(config, config.firstMoeLayer, 0)).map(weigh)
  if (expertCount > 0) ledger.addExperts(expert, expertCount)
  const { tensors, scales } = ledger
  return summarise(ledger, config, {
    source: 'config',
    tensors: { bound: tensors, scales, skipped: 0, unknown: 0 },
    shards: null,
  })
}

function summarise(
  ledger: Ledger,
  config: ModelConfig,
  found: Pick<Inventory, 'source' | 'tensors' | 'shards'>,
): Inventory {
  const { moeLayers, expertCount, parametersPerExpert, routedParameters } = totals(config)
  const perToken = moeLayers * config.topK
  const active = ledger.denseParameters + perToken * parametersPerExpert
  const outerMatrices = (config.tiedEmbeddings ? 1 : 2) * config.vocabulary * config.hidden
  return {
    architecture: config.architecture,
    ...found,
    parameters: {
      total: ledger.denseParameters + routedParameters,
      routed: routedParameters,
      perExpert: parametersPerExpert,
      active,
      activeWithoutEmbeddings: active - outerMatrices,
    },
    bytes: {
      total: ledger.denseBytes + ledger.expertBytes,
      dense: ledger.denseBytes,
      oneExpert: ledger.largestExpertBytes,
      allExperts: ledger.expertBytes,
      tokenCycle: perToken * ledger.largestExpertBytes,
      readPerToken: ledger.denseBytes - ledger.lookupBytes + perToken * ledger.largestExpertBytes,
      kvPerToken: 2 * config.layers * config.kvHeads * config.headDim * dtypeBytes.BF16,
    },
    experts: { count: expertCount, layers: moeLayers, perLayer: config.experts, perToken },
    layouts: ledger.layouts(),
  }
}

/** One tensor on the scales. */
export interface Weighed {
  readonly layout: Layout
  readonly parameters: number
  /** Weights and scale. */
  readonly bytes: number
}

/** Running sums; an expert can be entered many times at once. */
class Ledger {
  denseParameters = 0
  /** Of the dense bytes, a table of which a token reads one row. */
  lookupBytes = 0
  denseBytes = 0
  expertBytes = 0
  largestExpertBytes = 0
  tensors = 0
  scales = 0
  private readonly byLayout = new Map<Layout, { tensors: number; bytes: number }>()

  addDense(tensor: Weighed): void {
    this.denseParameters += tensor.parameters
    this.denseBytes += tensor.bytes
    this.enter(tensor, 1)
  }

  addExperts(matrices: readonly Weighed[], count: number): void {
    const bytes = matrices.reduce((sum, matrix) => sum + matrix.bytes, 0)
    this.expertBytes += bytes * count
    this.largestExpertBytes = Math.max(this.largestExpertBytes, bytes)
    for (const matrix of matrices) this.enter(matrix, count)
  }

  layouts(): { layout: Layout; tensors: number; bytes: number }[] {
    return [...this.byLayout].map(([layout, sums]) => ({ layout, ...sums }))
  }

  private enter({ layout, bytes }: Weighed, count: number): void {
    const sums = this.byLayout.get(layout) ?? { tensors: 0, bytes: 0 }
    sums.tensors += count
    sums.bytes += bytes * count
    this.byLayout.set(layout, sums)
    this.tensors += count
    if (layout === 'block-fp8' || layout === 'channel-fp8') this.scales += count
  }
}

const dtypeBytes: Readonly<Record<Dtype, number>> = { F8_E4M3: 1, BF16: 2, F32: 4 }

function weighMatrix({ rows, columns, dtype, scale }: Matrix): Weighed {
  const parameters = rows * columns
  const weightBytes = parameters * dtypeBytes[dtype]
  if (scale === null) {
    return { layout: dtype === 'F32' ? 'f32' : 'bf16', parameters, bytes: weightBytes }
  }
  const scaleBytes = scale.rows * scale.columns * dtypeBytes[scale.dtype]
  const layout = scale.kind === 'block' ? 'block-fp8' : 'channel-fp8'
  return { layout, parameters, bytes: weightBytes + scaleBytes }
}

/**
 * How the published tools would store a tensor: the head stays bfloat16 in both FP8 kinds, and the
 * expert bias is float32 except in per-channel checkpoints, which hold no float32 at all.
 */
export function weighSpec(spec: TensorSpec, config: ModelConfig): Weighed {
  const parameters = elementCount(spec)
  const [rows = 1, columns = 1] = spec.shape
  const isQuantised = spec.dtypes.includes('F8_E4M3') && spec.part !== 'head'
  if (config.quantisation === 'none' || !isQuantised) {
    const isFloat = spec.part === 'routerBias' && config.quantisation !== 'channel-fp8'
    const bytes = parameters * (isFloat ? dtypeBytes.F32 : dtypeBytes.BF16)
    return { layout: isFloat ? 'f32' : 'bf16', parameters, bytes }
  }
  if (config.quantisation === 'channel-fp8') {
    return { layout: 'channel-fp8', parameters, bytes: parameters + rows * dtypeBytes.BF16 }
  }
  const blocks = Math.ceil(rows / config.blockRows) * Math.ceil(columns / config.blockColumns)
  return { layout: 'block-fp8', parameters, bytes: parameters + blocks * dtypeBytes.F32 }
}

function denseMatrices(layer: Layer): Matrix[] {
  const { experts: _, mlp, ...others } = layer
  const single = Object.values(others).filter((matrix) => matrix !== null)
  return mlp === null ? single : [...single, ...mlpMatrices(mlp)]
}

function mlpMatrices(mlp: Mlp): Matrix[] {
  return [mlp.gate, mlp.up, mlp.down]
}
