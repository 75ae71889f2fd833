// A checkpoint as the device takes it: the tensor tables of the contract, packed. Native knows
// tensors by row only; the names stay here, so that an error about a row can be told to a person.
import {
  Dtype,
  ExpertTensor,
  LayerTensor,
  OuterTensor,
  ScaleKind,
  TensorField,
} from '../../native/index.js'
import type { Checkpoint, Layer, Matrix } from '../model/checkpoint.js'
import { dtypeBytes } from '../model/writer.js'

export interface TensorTables {
  readonly tensors: Float64Array
  readonly expertTensors: Float64Array
  /** CRC32C of the blocks of the tensors that have any; see TensorField.checksums. */
  readonly checksums: Uint32Array
  /** Name of a row, counted over both tables, the dense one first. */
  nameOf(row: number): string
}

const dtypes = { F8_E4M3: Dtype.f8_e4m3, BF16: Dtype.bf16, F32: Dtype.f32 } as const

/** Checksums of a checkpoint's tensors, block after block, and where those of one begin. */
export interface TensorChecksums {
  readonly blocks: Uint32Array
  /** Index of the first block of the tensor of so many bytes at this place; -1: none were recorded of it. */
  firstOf(file: number, offset: number, bytes: number): number
}

const noChecksums: TensorChecksums = { blocks: new Uint32Array(0), firstOf: () => -1 }

export function packTensors(checkpoint: Checkpoint, checksums = noChecksums): TensorTables {
  const dense = denseRows(checkpoint)
  const experts = expertRows(checkpoint)
  return {
    tensors: packRows(dense, checksums),
    expertTensors: packRows(experts, checksums),
    checksums: checksums.blocks,
    nameOf: (row) =>
      (row < dense.length ? dense[row] : experts[row - dense.length])?.name ?? `tensor ${row}`,
  }
}

function denseRows(checkpoint: Checkpoint): (Matrix | null)[] {
  const rows: (Matrix | null)[] = new Array(
    OuterTensor.count + checkpoint.layers.length * LayerTensor.count,
  ).fill(null)
  rows[OuterTensor.embedding] = checkpoint.embedding
  rows[OuterTensor.final_norm] = checkpoint.finalNorm
  rows[OuterTensor.head] = checkpoint.head
  for (const [index, layer] of checkpoint.layers.entries()) {
    const first = OuterTensor.count + index * LayerTensor.count
    for (const [field, matrix] of layerRows(layer)) rows[first + field] = matrix
  }
  return rows
}

function layerRows(layer: Layer): [number, Matrix | null][] {
  return [
    [LayerTensor.input_norm, layer.inputNorm],
    [LayerTensor.qkv, layer.qkv],
    [LayerTensor.qkv_bias, layer.qkvBias],
    [LayerTensor.query_norm, layer.queryNorm],
    [LayerTensor.key_norm, layer.keyNorm],
    [LayerTensor.attention_out, layer.attentionOut],
    [LayerTensor.attention_out_bias, layer.attentionOutBias],
    [LayerTensor.post_norm, layer.postNorm],
    [LayerTensor.gate, layer.mlp?.gate ?? null],
    [LayerTensor.up, layer.mlp?.up ?? null],
    [LayerTensor.down, layer.mlp?.down ?? null],
    [LayerTensor.router, layer.router],
    [LayerTensor.router_bias, layer.routerBias],
  ]
}

function expertRows(checkpoint: Checkpoint): Matrix[] {
  const rows: Matrix[] = []
  for (const layer of checkpoint.layers) {
    for (const expert of layer.experts) {
      const first = rows.length
      rows[first + ExpertTensor.gate] = expert.gate
      rows[first + ExpertTensor.up] = expert.up
      rows[first + ExpertTensor.down] = expert.down
    }
  }
  return rows
}

function packRows(rows: readonly (Matrix | null)[], checksums: TensorChecksums): Float64Array {
  const table = new Float64Array(rows.length * TensorField.count)
  for (const [index, matrix] of rows.entries()) {
    const row = table.subarray(index * TensorField.count, (index + 1) * TensorField.count)
    if (matrix === null) row[TensorField.file] = -1
    else packRow(row, matrix, checksums)
  }
  return table
}

function packRow(row: Float64Array, matrix: Matrix, checksums: TensorChecksums): void {
  row[TensorField.file] = matrix.file
  row[TensorField.offset] = matrix.offset
  row[TensorField.rows] = matrix.rows
  row[TensorField.columns] = matrix.columns
  row[TensorField.dtype] = dtypes[matrix.dtype]
  const bytes = matrix.rows * matrix.columns * dtypeBytes[matrix.dtype]
  row[TensorField.checksums] = checksums.firstOf(matrix.file, matrix.offset, bytes)
  const { scale } = matrix
  if (scale === null) return
  row[TensorField.scale_kind] = ScaleKind[scale.kind]
  row[TensorField.scale_file] = scale.file
  row[TensorField.scale_offset] = scale.offset
  row[TensorField.scale_dtype] = dtypes[scale.dtype]
  row[TensorField.block_rows] = scale.blockRows
  row[TensorField.block_columns] = scale.blockColumns
}
