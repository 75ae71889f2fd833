/**
 * A larger model that computes the same: every hidden vector becomes k copies of the old one, the
 * inside of every MLP m copies, every query head k heads in a row within its group (keys, values and
 * the width of a head stay). Norms, attention and router then see the same numbers, so the routing
 * is that of the source, logits are its logits up to the order of summation, and an expert has k m
 * times the bytes (the Net2Wider idea). What is summed over copies is divided by their number, which
 * is exact because k and m are powers of two: FP8 bytes are only copied, the division goes into
 * their scales; of other types it goes into the exponent. Shapes are known at once, bytes are made
 * when asked for.
 */
import fs from 'node:fs'
import { join } from 'node:path'
import { type Dtype, type TensorSpec, tensorSpecs } from './architecture.js'
import type { Checkpoint, Matrix, Scale } from './checkpoint.js'
import { parseConfig } from './config.js'
import { ModelError } from './error.js'
import { parseObject } from './json.js'
import { type OpenFile, readText, withFile } from './window.js'
import { dtypeBytes, type NewCheckpoint, type NewTensor } from './writer.js'

/** How many copies; both powers of two. */
export interface Widening {
  readonly hidden: number
  readonly expert: number
}

/** Throws ModelError where the source cannot be widened exactly, or the result would be absurd. */
export function widen(source: Checkpoint, copies: Widening): NewCheckpoint {
  const config = widenedConfig(source.folder, copies)
  parseConfig(JSON.stringify(config), 'the widened config.json')
  return { config, tensors: new Widener(source, copies).tensors() }
}

const CONFIG_BYTES_LIMIT = 16 * 2 ** 20

function widenedConfig(folder: string, copies: Widening): Record<string, unknown> {
  const file = 'config.json'
  const config = parseObject(readText(join(folder, file), CONFIG_BYTES_LIMIT), file)
  const multiply = (key: string, times: number) => {
    const size = config[key]
    if (typeof size === 'number') config[key] = size * times
  }
  multiply('hidden_size', copies.hidden)
  multiply('num_attention_heads', copies.hidden)
  multiply('intermediate_size', copies.expert)
  multiply('moe_intermediate_size', copies.expert)
  multiply('moe_shared_expert_intermediate_size', copies.expert)
  // Prediction layers are not copied.
  multiply('num_nextn_predict_layers', 0)
  return config
}

/** `count` rows or columns of the source from `start` on, `times` times one after the other. */
interface Run {
  readonly start: number
  readonly count: number
  readonly times: number
}

/** Where each row (or column) of a widened matrix comes from. */
type Axis = readonly Run[]

function tiled(count: number, times: number): Axis {
  return [{ start: 0, count, times }]
}

function sizeOf(axis: Axis): number {
  return axis.reduce((sum, run) => sum + run.count * run.times, 0)
}

/** How one tensor is widened: where rows and columns come from, and what its values are divided by. */
interface Rule {
  readonly rows: Axis
  readonly columns: Axis
  readonly divisor: number
}

/** The most bytes made at once. */
const PIECE_BYTES = 4 * 2 ** 20

class Widener {
  readonly #hidden: Axis
  readonly #query: Axis
  readonly #qkv: Axis
  readonly #dense: Axis
  readonly #shared: Axis
  readonly #expert: Axis
  /** By size of a block: of each axis that FP8 matrices have, the source's block for every block. */
  readonly #blocks = new Map<number, Map<Axis, Int32Array>>()
  #read = new Uint8Array(0)
  #made = new Uint8Array(0)

  constructor(
    private readonly source: Checkpoint,
    private readonly copies: Widening,
  ) {
    const { config } = source
    const { heads, headDim, kvHeads } = config
    this.#hidden = tiled(config.hidden, copies.hidden)
    this.#query = Array.from({ length: heads }, (_, head) => {
      return { start: head * headDim, count: headDim, times: copies.hidden }
    })
    const keysAndValues = { start: heads * headDim, count: 2 * kvHeads * headDim, times: 1 }
    this.#qkv = [...this.#query, keysAndValues]
    this.#dense = tiled(config.denseWidth, copies.expert)
    this.#shared = tiled(config.sharedWidth, copies.expert)
    this.#expert = tiled(config.expertWidth, copies.expert)
  }

  tensors(): NewTensor[] {
    const matrices = new Map(matricesOf(this.source).map((matrix) => [matrix.name, matrix]))
    const tensors: NewTensor[] = []
    for (const spec of tensorSpecs(this.source.config)) {
      const matrix = matrices.get(spec.name)
      if (matrix !== undefined) tensors.push(...this.#widened(spec, matrix))
    }
    return tensors
  }

  #ruleOf(spec: TensorSpec): Rule {
    const { experts, vocabulary, headDim, tiedEmbeddings } = this.source.config
    const k = this.copies.hidden
    const one = tiled(1, 1)
    const same = (size: number) => tiled(size, 1)
    const rule = (rows: Axis, columns: Axis, divisor = 1): Rule => ({ rows, columns, divisor })
    switch (spec.part) {
      case 'embedding':
        return rule(same(vocabulary), this.#hidden)
      case 'head':
        return rule(same(vocabulary), this.#hidden, k)
      case 'finalNorm':
        // An embedding that is the head as well cannot be divided, so what meets it is.
        return rule(one, this.#hidden, tiedEmbeddings ? k : 1)
      case 'inputNorm':
      case 'postNorm':
      case 'attentionOutBias':
        return rule(one, this.#hidden)
      case 'queryNorm':
      case 'keyNorm':
        return rule(one, same(headDim))
      case 'qkv':
        return rule(this.#qkv, this.#hidden, k)
      case 'qkvBias':
        return rule(one, this.#qkv)
      case 'attentionOut':
        return rule(this.#hidden, this.#query, k)
      case 'router':
        return rule(same(experts), this.#hidden, k)
      case 'routerBias':
        return rule(one, same(experts))
      case 'gate':
      case 'up':
        return rule(this.#widthOf(spec), this.#hidden, k)
      case 'down':
        return rule(this.#hidden, this.#widthOf(spec), this.copies.expert)
      default:
        throw new Error(`no rule widens ${spec.part}`)
    }
  }

  #widthOf({ layer, expert }: TensorSpec): Axis {
    if (expert >= 0) return this.#expert
    return layer < this.source.config.firstMoeLayer ? this.#dense : this.#shared
  }

  /** A matrix, and its scale if it has one. */
  #widened(spec: TensorSpec, matrix: Matrix): NewTensor[] {
    const rule = this.#ruleOf(spec)
    const { name, dtype, scale } = matrix
    const shape =
      spec.shape.length === 1 ? [sizeOf(rule.columns)] : [sizeOf(rule.rows), sizeOf(rule.columns)]
    const weight = { name, dtype, shape, pieces: () => this.#pieces(matrix, rule) }
    if (scale === null) return [weight]
    if (scale.kind === 'block') return [weight, this.#blockScale(matrix, scale, rule)]
    const rowScale = { ...scale, name: `${name}_scale` }
    const rowRule = { ...rule, columns: tiled(1, 1) }
    const pieces = () => this.#pieces(rowScale, rowRule)
    return [weight, { name: rowScale.name, dtype: scale.dtype, shape: [shape[0] ?? 0, 1], pieces }]
  }

  #blockScale(matrix: Matrix, scale: Scale, { rows, columns, divisor }: Rule): NewTensor {
    const name = `${matrix.name}_scale_inv`
    const fromRows = this.#blocksOf(rows, scale.blockRows, matrix.name)
    const fromColumns = this.#blocksOf(columns, scale.blockColumns, matrix.name)
    const make = () => {
      const old = this.#values(scale, name, divisor)
      const made = new Float32Array(fromRows.length * fromColumns.length)
      let at = 0
      for (const row of fromRows) {
        for (const column of fromColumns) made[at++] = old[row * scale.columns + column] ?? 0
      }
      return [new Uint8Array(made.buffer)]
    }
    return { name, dtype: 'F32', shape: [fromRows.length, fromColumns.length], pieces: make }
  }

  #values(scale: Scale, name: string, divisor: number): Float32Array {
    const bytes = new Uint8Array(scale.rows * scale.columns * dtypeBytes.F32)
    readBytes(this.#pathOf(scale.file), scale.offset, bytes)
    divide(bytes, 'F32', divisor, name)
    return new Float32Array(bytes.buffer)
  }

  /** Throws where a block of the widened axis would hold values of two blocks, which have two scales. */
  #blocksOf(axis: Axis, block: number, name: string): Int32Array {
    const known = this.#blocks.get(block) ?? new Map<Axis, Int32Array>()
    const found = known.get(axis)
    if (found !== undefined) return found
    const blocks = new Int32Array(Math.ceil(sizeOf(axis) / block)).fill(-1)
    let at = 0
    for (const { start, count, times } of axis) {
      for (let index = 0; index < count * times; index += 1, at += 1) {
        const from = Math.floor((start + (index % count)) / block)
        const into = Math.floor(at / block)
        if (blocks[into] === -1) blocks[into] = from
        if (blocks[into] === from) continue
        throw new ModelError(
          `${name}: cannot be widened exactly: a block of ${block} would mix two scales; widths, and heads x head_dim, must be multiples of ${block}`,
        )
      }
    }
    this.#blocks.set(block, known.set(axis, blocks))
    return blocks
  }

  /** The bytes of a widened matrix from top to bottom; a part of it is read when it is wanted. */
  *#pieces(matrix: Matrix | (Scale & { name: string }), rule: Rule): Iterable<Uint8Array> {
    const newRowBytes = sizeOf(rule.columns) * dtypeBytes[matrix.dtype]
    const rowsAtOnce = Math.max(1, Math.floor(PIECE_BYTES / newRowBytes))
    for (const { start, count, times } of rule.rows) {
      if (count <= rowsAtOnce) {
        const piece = this.#piece(matrix, rule, start, count)
        for (let time = 0; time < times; time += 1) yield piece
        continue
      }
      for (let time = 0; time < times; time += 1) {
        for (let row = 0; row < count; row += rowsAtOnce) {
          yield this.#piece(matrix, rule, start + row, Math.min(rowsAtOnce, count - row))
        }
      }
    }
  }

  /** Some rows of the source, widened; valid until the next call. */
  #piece(
    matrix: Matrix | (Scale & { name: string }),
    { columns, divisor }: Rule,
    first: number,
    count: number,
  ): Uint8Array {
    const { dtype } = matrix
    const oldRowBytes = matrix.columns * dtypeBytes[dtype]
    this.#read = atLeast(this.#read, count * oldRowBytes)
    this.#made = atLeast(this.#made, count * sizeOf(columns) * dtypeBytes[dtype])
    const rows = this.#read.subarray(0, count * oldRowBytes)
    readBytes(this.#pathOf(matrix.file), matrix.offset + first * oldRowBytes, rows)
    // The divisor of an FP8 matrix is in its scale.
    if (dtype !== 'F8_E4M3') divide(rows, dtype, divisor, matrix.name)
    return repeatColumns(rows, count, columns, dtypeBytes[dtype], this.#made)
  }

  #pathOf(file: number): string {
    const path = this.source.files[file]?.path
    if (path === undefined) throw new Error(`the checkpoint has no file ${file}`)
    return path
  }
}

/** Every stored matrix of a checkpoint, once. */
function matricesOf({ embedding, finalNorm, head, layers }: Checkpoint): Matrix[] {
  const matrices = [embedding, finalNorm, head]
  for (const { experts, mlp, ...single } of layers) {
    for (const matrix of Object.values(single)) if (matrix !== null) matrices.push(matrix)
    for (const { gate, up, down } of mlp === null ? experts : [mlp, ...experts]) {
      matrices.push(gate, up, down)
    }
  }
  return matrices
}

/** Each of the `rows` rows in `bytes` with its columns repeated, one after the other in `into`. */
function repeatColumns(
  bytes: Uint8Array,
  rows: number,
  columns: Axis,
  elementBytes: number,
  into: Uint8Array,
): Uint8Array {
  const oldRowBytes = bytes.length / rows
  let end = 0
  for (let row = 0; row < rows; row += 1) {
    for (const run of columns) {
      const begin = end
      const from = row * oldRowBytes + run.start * elementBytes
      const runBytes = run.count * elementBytes
      into.set(bytes.subarray(from, from + runBytes), begin)
      end = begin + runBytes * run.times
      // Copies double, because the number of copies is a power of two.
      for (let made = runBytes; made < end - begin; made *= 2) {
        into.copyWithin(begin + made, begin, begin + made)
      }
    }
  }
  return into.subarray(0, end)
}

/**
 * Divides by a power of two, in place and without rounding: only exponents change. Infinities and
 * NaN stay what they are. Throws where a value is so small that bits would be lost.
 */
function divide(bytes: Uint8Array, dtype: Exclude<Dtype, 'F8_E4M3'>, by: number, name: string) {
  if (by === 1) return
  const { buffer, byteOffset, length } = bytes
  const words =
    dtype === 'BF16'
      ? new Uint16Array(buffer, byteOffset, length / 2)
      : new Uint32Array(buffer, byteOffset, length / 4)
  const mantissaBits = dtype === 'BF16' ? 7 : 23
  const steps = Math.log2(by)
  const magnitude = 2 ** (mantissaBits + 8) - 1
  for (let index = 0; index < words.length; index += 1) {
    const word = words[index] ?? 0
    const exponent = (word >>> mantissaBits) & 255
    if (exponent === 255 || (word & magnitude) === 0) continue
    if (exponent <= steps) {
      throw new ModelError(`${name}: holds a value too small to be divided by ${by} exactly`)
    }
    words[index] = word - 2 ** mantissaBits * steps
  }
}

function atLeast(buffer: Uint8Array<ArrayBuffer>, bytes: number): Uint8Array<ArrayBuffer> {
  return buffer.length >= bytes ? buffer : new Uint8Array(bytes)
}

/** Fills `bytes` with those of a file from `offset` on. */
function readBytes(path: string, offset: number, bytes: Uint8Array): void {
  withFile(path, (file) => {
    let filled = 0
    while (filled < bytes.length) {
      const count = readSome(file, bytes.subarray(filled), offset + filled)
      if (count === 0) throw new ModelError(`${file.name}: became shorter while it was read`)
      filled += count
    }
  })
}

function readSome(file: OpenFile, into: Uint8Array, offset: number): number {
  try {
    return fs.readSync(file.descriptor, into, 0, into.length, offset)
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : 'unknown error'
    throw new ModelError(`${file.name}: reading ${into.length} bytes at ${offset} failed (${code})`)
  }
}
