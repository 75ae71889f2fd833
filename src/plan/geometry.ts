// What a model amounts to for planning, from its config alone: bytes of each part of a layer, how often a
// token multiplies with them, and the sizes that the engine divides memory by. It knows no machine.
import type { WeightSizes } from '../engine/budget.js'
import {
  expertSpec,
  flat,
  layerSpec,
  type MlpSpec,
  outerSpec,
  type TensorSpec,
} from '../model/architecture.js'
import type { ModelConfig } from '../model/config.js'
import { type Weighed, weighSpec } from '../model/inventory.js'

/** Weights that are read together. */
export interface Part {
  /** With scales. */
  readonly bytes: number
  /** Multiply-adds of one token. */
  readonly products: number
}

export interface Geometry {
  readonly moeLayers: number
  readonly experts: number
  readonly topK: number
  readonly layers: number
  /** Of a layer with experts: all before its experts, the shared expert, and one routed expert. */
  readonly attention: Part
  readonly shared: Part
  readonly expert: Part
  /** Dense layers and the head, once a token. */
  readonly outer: Part
  /** Of keys and values that one position keeps in one layer, in bfloat16. */
  readonly kvBytesPerLayer: number
  /** Of scores and sums over one position in one layer. */
  readonly productsPerPosition: number
  /** A table of which a token reads one row. */
  readonly embeddingBytes: number
  readonly sizes: WeightSizes
}

/** What direct reads are made of; the engine's slots are widened to it. */
const blockBytes = 4096

/** Of a model that has layers with experts. */
export function geometryOf(config: ModelConfig): Geometry {
  const { layers, firstMoeLayer, experts, topK, heads, kvHeads, headDim } = config
  const moeLayers = layers - firstMoeLayer
  const weigh = (spec: TensorSpec) => weighSpec(spec, config)
  const { embedding, finalNorm, head } = outerSpec(config)
  const all = Array.from({ length: layers }, (_, layer) => layerSpec(config, layer))
  const denseLayers = all.slice(0, firstMoeLayer).flatMap((layer) => flat(layer))
  const { mlp, ...before } = all[firstMoeLayer] ?? layerSpec(config, firstMoeLayer)
  const expert = flat(expertSpec(config, firstMoeLayer, 0)).map(weigh)
  const resident = [
    ...flat({ embedding, finalNorm, head }),
    ...all.flatMap((layer) => flat(layer)).filter(({ required }) => required),
  ].map(weigh)
  return {
    moeLayers,
    experts,
    topK,
    layers,
    attention: partOf(flat({ ...before, mlp: null }), weigh),
    shared: partOf(mlp === null ? [] : flat(mlp satisfies MlpSpec), weigh),
    expert: partOf(flat(expertSpec(config, firstMoeLayer, 0)), weigh),
    outer: partOf([...denseLayers, finalNorm, head ?? embedding], weigh),
    kvBytesPerLayer: 2 * 2 * kvHeads * headDim,
    productsPerPosition: 2 * heads * headDim,
    embeddingBytes: head === null ? 0 : weigh(embedding).bytes,
    sizes: sizesOf(moeLayers * experts, expert, resident),
  }
}

function partOf(specs: readonly TensorSpec[], weigh: (spec: TensorSpec) => Weighed): Part {
  const weighed = specs.filter(({ required }) => required).map(weigh)
  return {
    bytes: sum(weighed.map(({ bytes }) => bytes)),
    products: sum(weighed.map(({ parameters }) => parameters)),
  }
}

function sizesOf(
  experts: number,
  expert: readonly Weighed[],
  resident: readonly Weighed[],
): WeightSizes {
  const widened = (bytes: number) => Math.ceil(bytes / blockBytes) * blockBytes + blockBytes
  return {
    experts,
    slotBytes: sum(expert.map((matrix) => widened(weightBytes(matrix)))),
    expertBytes: experts * sum(expert.map(weightBytes)),
    denseBytes: sum(resident.map(weightBytes)),
    scaleBytes: experts * sum(expert.map(scaleBytes)) + sum(resident.map(scaleBytes)),
  }
}

function isQuantised({ layout }: Weighed): boolean {
  return layout === 'block-fp8' || layout === 'channel-fp8'
}

function weightBytes(matrix: Weighed): number {
  return isQuantised(matrix) ? matrix.parameters : matrix.bytes
}

/** In memory scales are F32, whatever the files hold. */
function scaleBytes(matrix: Weighed): number {
  if (!isQuantised(matrix)) return 0
  const stored = matrix.bytes - matrix.parameters
  return matrix.layout === 'channel-fp8' ? 2 * stored : stored
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0)
}
