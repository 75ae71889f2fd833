/**
 * A checkpoint as the engine needs it: for every matrix of the model the file, the byte offset, the
 * type and the scale that belongs to it. Reads headers only and keeps no file open; whoever reads
 * the weights opens the files by their paths. Quantisation is decided tensor by tensor, from what
 * lies there. An expert's three matrices may lie in different files, at any alignment.
 */
import type { Dtype, LayerSpec, MlpSpec, TensorSpec } from './architecture.js'
import { expertSpec, expertsIn, layerSpec, outerSpec } from './architecture.js'
import { type ConfigOptions, type ModelConfig, readConfig } from './config.js'
import { ModelError, shown } from './error.js'
import type { TensorEntry } from './safetensors.js'
import { type CheckpointFile, openShards, type Shards } from './shards.js'

/**
 * What an FP8 matrix is multiplied by, despite the name `weight_scale_inv` that one kind has:
 * 'block', element [row / blockRows][column / blockColumns], or 'row', one per output row.
 */
export interface Scale {
  readonly kind: 'block' | 'row'
  readonly file: number
  readonly offset: number
  readonly dtype: 'F32' | 'BF16'
  /** Of the scale itself, row-major: ceil(matrix rows / blockRows) by ceil(columns / blockColumns). */
  readonly rows: number
  readonly columns: number
  readonly blockRows: number
  readonly blockColumns: number
}

/** A stored matrix [rows, columns], row-major; a vector has one row. */
export interface Matrix {
  readonly name: string
  /** Index into Checkpoint.files. */
  readonly file: number
  /** Absolute byte offset in that file. */
  readonly offset: number
  readonly rows: number
  readonly columns: number
  readonly dtype: Dtype
  /** Null unless dtype is F8_E4M3, which always has one. */
  readonly scale: Scale | null
}

export interface Mlp {
  readonly gate: Matrix
  readonly up: Matrix
  readonly down: Matrix
}

export interface Layer {
  readonly inputNorm: Matrix
  readonly qkv: Matrix
  readonly qkvBias: Matrix | null
  readonly queryNorm: Matrix | null
  readonly keyNorm: Matrix | null
  readonly attentionOut: Matrix
  readonly attentionOutBias: Matrix | null
  readonly postNorm: Matrix
  /** Dense layers: the MLP. MoE layers: the shared expert, or null. */
  readonly mlp: Mlp | null
  readonly router: Matrix | null
  readonly routerBias: Matrix | null
  /** By expert index; empty in dense layers. */
  readonly experts: readonly Mlp[]
}

export interface Checkpoint {
  readonly folder: string
  readonly config: ModelConfig
  readonly files: readonly CheckpointFile[]
  readonly embedding: Matrix
  readonly finalNorm: Matrix
  /** The embedding itself where the config ties the two. */
  readonly head: Matrix
  readonly layers: readonly Layer[]
  readonly tensors: TensorCounts
}

/** What became of the tensors in the files. */
export interface TensorCounts {
  /** Weights, norms and biases that are used. */
  readonly bound: number
  readonly scales: number
  /** Of layers past the last one (multi-token prediction), which nobody reads. */
  readonly skipped: number
  /** Named by nothing that the model computes with, or not named by the index. */
  readonly unknown: number
}

/** Opens the checkpoint in `folder`. Throws ModelError with one sentence on anything that is amiss. */
export function openCheckpoint(folder: string, options: ConfigOptions = {}): Checkpoint {
  const config = readConfig(folder, options)
  const shards = openShards(folder)
  const binder = new Binder(config, shards)
  const outer = outerSpec(config)
  const embedding = binder.required(outer.embedding)
  const finalNorm = binder.required(outer.finalNorm)
  const head = outer.head === null ? embedding : binder.required(outer.head)
  const layers: Layer[] = []
  for (let layer = 0; layer < config.layers; layer += 1) {
    layers.push(bindLayer(binder, config, layer))
  }
  const tensors = binder.counts()
  return { folder, config, files: shards.files, embedding, finalNorm, head, layers, tensors }
}

function bindLayer(binder: Binder, config: ModelConfig, layer: number): Layer {
  const spec = layerSpec(config, layer)
  const { queryNorm, keyNorm } = bindHeadNorms(binder, spec)
  const experts: Mlp[] = []
  for (let expert = 0; expert < expertsIn(config, layer); expert += 1) {
    experts.push(bindMlp(binder, expertSpec(config, layer, expert)))
  }
  return {
    inputNorm: binder.required(spec.inputNorm),
    qkv: binder.required(spec.qkv),
    qkvBias: binder.optional(spec.qkvBias),
    queryNorm,
    keyNorm,
    attentionOut: binder.required(spec.attentionOut),
    attentionOutBias: binder.optional(spec.attentionOutBias),
    postNorm: binder.required(spec.postNorm),
    mlp: spec.mlp === null ? null : bindMlp(binder, spec.mlp),
    router: spec.router === null ? null : binder.required(spec.router),
    routerBias: spec.routerBias === null ? null : binder.optional(spec.routerBias),
    experts,
  }
}

function bindMlp(binder: Binder, spec: MlpSpec): Mlp {
  return {
    gate: binder.required(spec.gate),
    up: binder.required(spec.up),
    down: binder.required(spec.down),
  }
}

/** Queries and keys are normalised both or neither. */
function bindHeadNorms(binder: Binder, spec: LayerSpec) {
  const queryNorm = binder.optional(spec.queryNorm)
  const keyNorm = binder.optional(spec.keyNorm)
  if ((queryNorm === null) !== (keyNorm === null)) {
    throw binder.missing(queryNorm === null ? spec.queryNorm : spec.keyNorm)
  }
  return { queryNorm, keyNorm }
}

const LAYER_NAME = /^model\.layers\.(\d+)\./

/** Finds the stored tensor for each spec and checks it; remembers how many it has handed out. */
class Binder {
  private bound = 0
  private scales = 0

  constructor(
    private readonly config: ModelConfig,
    private readonly shards: Shards,
  ) {}

  /** The tensor, which must be there. */
  required(spec: TensorSpec): Matrix {
    const entry = this.shards.tensors.get(spec.name)
    if (entry === undefined) throw this.missing(spec)
    return this.bind(spec, entry)
  }

  /** The tensor if it is there; its absence is an error only if the config announces it. */
  optional(spec: TensorSpec): Matrix | null {
    const entry = this.shards.tensors.get(spec.name)
    if (entry !== undefined) return this.bind(spec, entry)
    if (spec.required) throw this.missing(spec)
    return null
  }

  missing(spec: TensorSpec): ModelError {
    return new ModelError(
      `${this.shards.source}: expected tensor ${spec.name} [${spec.shape.join(', ')}], which config.json calls for, found none of that name`,
    )
  }

  counts(): TensorCounts {
    const { tensors, unnamed } = this.shards
    const spare = tensors.size - this.bound - this.scales
    let skipped = 0
    if (spare > 0) {
      for (const entry of tensors.values()) {
        const layer = Number(LAYER_NAME.exec(entry.name)?.[1] ?? -1)
        if (layer >= this.config.layers) skipped += 1
        else if (layer >= 0) this.refusePredictionLayer(entry, layer)
      }
    }
    return { bound: this.bound, scales: this.scales, skipped, unknown: spare - skipped + unnamed }
  }

  private bind(spec: TensorSpec, entry: TensorEntry): Matrix {
    const dtype = spec.dtypes.find((candidate) => candidate === entry.dtype)
    if (dtype === undefined) {
      throw this.wrong(entry, `dtype ${spec.dtypes.join(' or ')}`, entry.dtype)
    }
    if (!isSameShape(spec.shape, entry.shape)) {
      throw this.wrong(
        entry,
        `shape [${spec.shape.join(', ')}] as config.json makes it`,
        entry.shape,
      )
    }
    const [rows, columns] =
      spec.shape.length === 2 ? [spec.shape[0] ?? 0, spec.shape[1] ?? 0] : [1, spec.shape[0] ?? 0]
    const scale = this.scaleOf(entry, dtype, rows, columns)
    this.bound += 1
    return { name: spec.name, file: entry.file, offset: entry.offset, rows, columns, dtype, scale }
  }

  /** The scale beside a tensor: one for FP8, none for all else. */
  private scaleOf(entry: TensorEntry, dtype: Dtype, rows: number, columns: number): Scale | null {
    const { tensors } = this.shards
    const block = tensors.get(`${entry.name}_scale_inv`)
    const row = tensors.get(`${entry.name}_scale`)
    if (dtype !== 'F8_E4M3') {
      const stray = block ?? row
      if (stray === undefined) return null
      throw this.wrong(stray, `no scale for a tensor of dtype ${dtype}`, stray.dtype)
    }
    if (block !== undefined && row !== undefined) {
      throw this.wrong(row, 'one scale for the tensor', `${entry.name}_scale_inv as well`)
    }
    if (block !== undefined) return this.blockScale(block, rows, columns)
    if (row !== undefined) return this.rowScale(row, rows, columns)
    throw this.wrong(entry, 'a tensor of that name with _scale_inv or _scale', undefined)
  }

  private blockScale(entry: TensorEntry, rows: number, columns: number): Scale {
    const { blockRows, blockColumns } = this.config
    const shape = [Math.ceil(rows / blockRows), Math.ceil(columns / blockColumns)] as const
    if (entry.dtype !== 'F32') throw this.wrong(entry, 'dtype F32', entry.dtype)
    if (!isSameShape(shape, entry.shape)) {
      throw this.wrong(entry, `shape [${shape.join(', ')}]`, entry.shape)
    }
    this.scales += 1
    return {
      kind: 'block',
      file: entry.file,
      offset: entry.offset,
      dtype: 'F32',
      rows: shape[0],
      columns: shape[1],
      blockRows,
      blockColumns,
    }
  }

  private rowScale(entry: TensorEntry, rows: number, columns: number): Scale {
    const { dtype } = entry
    if (dtype !== 'F32' && dtype !== 'BF16') throw this.wrong(entry, 'dtype BF16 or F32', dtype)
    if (!isSameShape([rows, 1], entry.shape) && !isSameShape([rows], entry.shape)) {
      throw this.wrong(entry, `shape [${rows}, 1]`, entry.shape)
    }
    this.scales += 1
    return {
      kind: 'row',
      file: entry.file,
      offset: entry.offset,
      dtype,
      rows,
      columns: 1,
      blockRows: 1,
      blockColumns: columns,
    }
  }

  /**
   * One published variant of the configuration counts prediction layers among num_hidden_layers.
   * Run as ordinary layers they would give plausible nonsense.
   */
  private refusePredictionLayer(entry: TensorEntry, layer: number): void {
    if (!entry.name.endsWith('.eh_proj.weight')) return
    throw new ModelError(
      `config.json: num_hidden_layers must not count multi-token prediction layers, found ${this.config.layers} with layer ${layer} being one`,
    )
  }

  private wrong(entry: TensorEntry, expected: string, found: unknown): ModelError {
    const file = this.shards.files[entry.file]
    const place = file === undefined ? '' : `${fileName(file)}: `
    return new ModelError(
      `${place}${shown(entry.name)}: expected ${expected}, found ${shown(found)}`,
    )
  }
}

function fileName(file: CheckpointFile): string {
  return file.path.slice(file.path.lastIndexOf('/') + 1)
}

function isSameShape(wanted: readonly number[], found: readonly number[]): boolean {
  return wanted.length === found.length && wanted.every((size, axis) => size === found[axis])
}
