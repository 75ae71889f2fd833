/**
 * Which tensors a model of a given config consists of: their names, shapes and permitted types, and
 * the totals that follow. The one place that knows a tensor's name. It must not know any file. Names
 * and shapes are those of the public BailingMoeV2 modeling code; beware that `mlp.gate` is a router
 * and `mlp.gate_proj` a matrix of a dense MLP.
 */
import type { ModelConfig } from './config.js'

/** The stored types that a tensor can be computed with. */
export type Dtype = 'F8_E4M3' | 'BF16' | 'F32'

export interface TensorSpec {
  readonly name: string
  /** A vector [n] or a matrix [out, in], rows first. */
  readonly shape: readonly number[]
  /** -1 outside layers. */
  readonly layer: number
  /** Routed expert within the layer; -1 for all else. */
  readonly expert: number
  /** What it is for, the same in every layer: its field in LayerSpec, MlpSpec or OuterSpec. */
  readonly part: string
  /** Whether a checkpoint without it is incomplete, given what its config announces. */
  readonly required: boolean
  readonly dtypes: readonly Dtype[]
}

export interface MlpSpec {
  readonly gate: TensorSpec
  readonly up: TensorSpec
  readonly down: TensorSpec
}

export interface LayerSpec {
  readonly inputNorm: TensorSpec
  /** Rows: all query heads in order, then all key heads, then all value heads. */
  readonly qkv: TensorSpec
  readonly qkvBias: TensorSpec
  readonly queryNorm: TensorSpec
  readonly keyNorm: TensorSpec
  readonly attentionOut: TensorSpec
  readonly attentionOutBias: TensorSpec
  readonly postNorm: TensorSpec
  /** The MLP of a dense layer, or the shared expert; null in a layer with routed experts only. */
  readonly mlp: MlpSpec | null
  readonly router: TensorSpec | null
  readonly routerBias: TensorSpec | null
}

export interface OuterSpec {
  readonly embedding: TensorSpec
  readonly finalNorm: TensorSpec
  /** Null where the embedding serves as head. */
  readonly head: TensorSpec | null
}

/** Large matrices may be quantised; what the router and the norms compute must not be. */
const quantisable: readonly Dtype[] = ['F8_E4M3', 'BF16', 'F32']
const plain: readonly Dtype[] = ['BF16', 'F32']

export function outerSpec(config: ModelConfig): OuterSpec {
  const { hidden, vocabulary } = config
  const outer = { layer: -1, expert: -1, required: true }
  return {
    embedding: {
      ...outer,
      name: 'model.word_embeddings.weight',
      part: 'embedding',
      shape: [vocabulary, hidden],
      dtypes: plain,
    },
    finalNorm: {
      ...outer,
      name: 'model.norm.weight',
      part: 'finalNorm',
      shape: [hidden],
      dtypes: plain,
    },
    head: config.tiedEmbeddings
      ? null
      : {
          ...outer,
          name: 'lm_head.weight',
          part: 'head',
          shape: [vocabulary, hidden],
          dtypes: quantisable,
        },
  }
}

/** Everything of a layer but its routed experts. */
export function layerSpec(config: ModelConfig, layer: number): LayerSpec {
  const { hidden, heads, kvHeads, headDim, announces } = config
  const isMoe = layer >= config.firstMoeLayer
  const queryWidth = heads * headDim
  const qkvWidth = queryWidth + 2 * kvHeads * headDim
  const prefix = `model.layers.${layer}.`
  const tensor = (
    part: string,
    name: string,
    shape: readonly number[],
    dtypes = plain,
    required = true,
  ): TensorSpec => ({ name: prefix + name, part, shape, layer, expert: -1, required, dtypes })
  const optional = (part: string, name: string, width: number, announced: boolean) =>
    tensor(part, name, [width], plain, announced)
  const { queryKeyNorm, qkvBias, attentionOutBias, expertBias } = announces
  return {
    inputNorm: tensor('inputNorm', 'input_layernorm.weight', [hidden]),
    qkv: tensor('qkv', 'attention.query_key_value.weight', [qkvWidth, hidden], quantisable),
    qkvBias: optional('qkvBias', 'attention.query_key_value.bias', qkvWidth, qkvBias),
    queryNorm: optional('queryNorm', 'attention.query_layernorm.weight', headDim, queryKeyNorm),
    keyNorm: optional('keyNorm', 'attention.key_layernorm.weight', headDim, queryKeyNorm),
    attentionOut: tensor(
      'attentionOut',
      'attention.dense.weight',
      [hidden, queryWidth],
      quantisable,
    ),
    attentionOutBias: optional(
      'attentionOutBias',
      'attention.dense.bias',
      hidden,
      attentionOutBias,
    ),
    postNorm: tensor('postNorm', 'post_attention_layernorm.weight', [hidden]),
    mlp: residentMlp(config, layer),
    router: isMoe ? tensor('router', 'mlp.gate.weight', [config.experts, hidden]) : null,
    routerBias: isMoe
      ? optional('routerBias', 'mlp.gate.expert_bias', config.experts, expertBias)
      : null,
  }
}

/** The three matrices of one routed expert. */
export function expertSpec(config: ModelConfig, layer: number, expert: number): MlpSpec {
  const prefix = `model.layers.${layer}.mlp.experts.${expert}.`
  return mlpSpec(prefix, layer, expert, config.hidden, config.expertWidth)
}

/** Every tensor of the model, layer by layer; biases and norms that the config does not announce included. */
export function* tensorSpecs(config: ModelConfig): Iterable<TensorSpec> {
  yield* flat(outerSpec(config))
  for (let layer = 0; layer < config.layers; layer += 1) {
    yield* flat(layerSpec(config, layer))
    for (let expert = 0; expert < expertsIn(config, layer); expert += 1) {
      yield* flat(expertSpec(config, layer, expert))
    }
  }
}

/** How many routed experts a layer has. */
export function expertsIn(config: ModelConfig, layer: number): number {
  return layer < config.firstMoeLayer ? 0 : config.experts
}

export interface Totals {
  readonly parameters: number
  /** Parameters that a token is multiplied with: all but the routed experts it is not sent to. */
  readonly activeParameters: number
  /** The same without embedding and head. */
  readonly activeInnerParameters: number
  readonly parametersPerExpert: number
  readonly routedParameters: number
  readonly expertCount: number
  readonly moeLayers: number
  /** Tensors that must be there, scales not counted. */
  readonly tensors: number
}

/**
 * Sums over the required tensors. Experts are counted by multiplication, never one by one, so an
 * absurd config costs no time.
 */
export function totals(config: ModelConfig): Totals {
  const outer = flat(outerSpec(config))
  const layers = Array.from({ length: config.layers }, (_, layer) => layerSpec(config, layer))
  const resident = [...outer, ...layers.flatMap(flat)].filter((spec) => spec.required)
  const moeLayers = config.layers - config.firstMoeLayer
  const expert = flat(expertSpec(config, config.firstMoeLayer, 0))
  const parametersPerExpert = elementsOf(expert)
  const expertCount = moeLayers * config.experts
  const residentParameters = elementsOf(resident)
  const activeParameters = residentParameters + moeLayers * config.topK * parametersPerExpert
  const outerMatrices = outer.filter((spec) => spec.part === 'embedding' || spec.part === 'head')
  return {
    parameters: residentParameters + expertCount * parametersPerExpert,
    activeParameters,
    activeInnerParameters: activeParameters - elementsOf(outerMatrices),
    parametersPerExpert,
    routedParameters: expertCount * parametersPerExpert,
    expertCount,
    moeLayers,
    tensors: resident.length + expertCount * expert.length,
  }
}

/** All specs of a record of specs, nested MLPs included, absent ones left out. */
export function flat(specs: OuterSpec | LayerSpec | MlpSpec): TensorSpec[] {
  const members: (TensorSpec | MlpSpec | null)[] = Object.values(specs)
  return members.flatMap((member) => {
    if (member === null) return []
    return 'shape' in member ? [member] : [member.gate, member.up, member.down]
  })
}

export function elementCount(spec: TensorSpec): number {
  return spec.shape.reduce((product, size) => product * size, 1)
}

function elementsOf(specs: readonly TensorSpec[]): number {
  return specs.reduce((sum, spec) => sum + elementCount(spec), 0)
}

function residentMlp(config: ModelConfig, layer: number): MlpSpec | null {
  const prefix = `model.layers.${layer}.mlp.`
  if (layer < config.firstMoeLayer) {
    return mlpSpec(prefix, layer, -1, config.hidden, config.denseWidth)
  }
  if (config.sharedWidth === 0) return null
  return mlpSpec(`${prefix}shared_experts.`, layer, -1, config.hidden, config.sharedWidth)
}

function mlpSpec(
  prefix: string,
  layer: number,
  expert: number,
  hidden: number,
  width: number,
): MlpSpec {
  const matrix = (part: string, rows: number, columns: number): TensorSpec => ({
    name: `${prefix}${part}_proj.weight`,
    part,
    shape: [rows, columns],
    layer,
    expert,
    required: true,
    dtypes: quantisable,
  })
  return {
    gate: matrix('gate', width, hidden),
    up: matrix('up', width, hidden),
    down: matrix('down', hidden, width),
  }
}
