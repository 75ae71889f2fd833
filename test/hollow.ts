/**
 * Hollow checkpoints for tests: real configs, indexes and headers over files that consist of holes,
 * so that a model of a terabyte takes some megabytes of disk. A hollow model is made from an existing
 * folder or from a config, changed at will, and written to a temporary folder. It must not use the
 * code under test for the format of headers and indexes, only for the list of tensor names.
 */
import fs from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { type TensorSpec, tensorSpecs } from '../src/model/architecture.js'
import type { ModelConfig } from '../src/model/config.js'

/** One tensor of a header, as stored. Loosely typed where tests write nonsense. */
export interface HollowTensor {
  dtype: string
  shape: number[]
  data_offsets: number[]
}

export interface HollowShard {
  tensors: Map<string, HollowTensor>
  bodyBytes: number
}

export interface Hollow {
  config: Record<string, unknown>
  generation: Record<string, unknown> | null
  /** The tensor names and files of the index; null for a single file without one. */
  index: Map<string, string> | null
  shards: Map<string, HollowShard>
}

/** Calls `use` with a fresh temporary folder and removes it afterwards. */
export function inTemporaryFolder<Result>(use: (folder: string) => Result): Result {
  const folder = fs.mkdtempSync(join(os.tmpdir(), 'ring-'))
  try {
    return use(folder)
  } finally {
    fs.rmSync(folder, { recursive: true, force: true })
  }
}

/** The skeleton of a real checkpoint folder. */
export function hollowOf(folder: string): Hollow {
  const files = fs.readdirSync(folder)
  const shards = files.filter((file) => file.endsWith('.safetensors'))
  const index = files.includes('model.safetensors.index.json')
    ? readJson(join(folder, 'model.safetensors.index.json')).weight_map
    : null
  return {
    config: readJson(join(folder, 'config.json')),
    generation: readJson(join(folder, 'generation_config.json')),
    index: index === null ? null : new Map(Object.entries(index)),
    shards: new Map(shards.map((file) => [file, shardOf(join(folder, file))])),
  }
}

/** How the weights of a made-up checkpoint are stored. */
export type HollowLayout = 'bf16' | 'block-fp8' | 'channel-fp8'

/** A checkpoint of the given config, each tensor in the file that `place` names for it. */
export function hollowFor(
  json: Record<string, unknown>,
  config: ModelConfig,
  layout: HollowLayout,
  place: (spec: TensorSpec) => string,
): Hollow {
  const index = new Map<string, string>()
  const shards = new Map<string, HollowShard>()
  const add = (file: string, name: string, dtype: string, shape: number[], width: number) => {
    const shard = shards.get(file) ?? { tensors: new Map(), bodyBytes: 0 }
    const begin = shard.bodyBytes
    shard.bodyBytes += shape.reduce((product, size) => product * size, width)
    shard.tensors.set(name, { dtype, shape, data_offsets: [begin, shard.bodyBytes] })
    shards.set(file, shard)
    index.set(name, file)
  }
  for (const spec of tensorSpecs(config)) {
    if (!spec.required) continue
    const file = place(spec)
    const shape = [...spec.shape]
    const [rows = 1, columns = 1] = shape
    const isQuantised =
      layout !== 'bf16' && /(_proj|query_key_value|dense)\.weight$/.test(spec.name)
    if (!isQuantised) {
      const isFloat = spec.part === 'routerBias' && layout !== 'channel-fp8'
      add(file, spec.name, isFloat ? 'F32' : 'BF16', shape, isFloat ? 4 : 2)
      continue
    }
    add(file, spec.name, 'F8_E4M3', shape, 1)
    if (layout === 'channel-fp8') add(file, `${spec.name}_scale`, 'BF16', [rows, 1], 2)
    else {
      const blocks = [Math.ceil(rows / 128), Math.ceil(columns / 128)]
      add(file, `${spec.name}_scale_inv`, 'F32', blocks, 4)
    }
  }
  return { config: json, generation: null, index, shards }
}

/** Writes the files of a hollow checkpoint into an existing folder. */
export function writeHollow(hollow: Hollow, folder: string): string {
  fs.writeFileSync(join(folder, 'config.json'), JSON.stringify(hollow.config))
  if (hollow.generation !== null) {
    fs.writeFileSync(join(folder, 'generation_config.json'), JSON.stringify(hollow.generation))
  }
  if (hollow.index !== null) {
    const index = { metadata: {}, weight_map: Object.fromEntries(hollow.index) }
    fs.writeFileSync(join(folder, 'model.safetensors.index.json'), JSON.stringify(index))
  }
  for (const [file, shard] of hollow.shards) {
    writeShard(join(folder, file), headerText(shard), shard.bodyBytes)
  }
  return folder
}

export function headerText(shard: HollowShard): string {
  return JSON.stringify({ __metadata__: { format: 'pt' }, ...Object.fromEntries(shard.tensors) })
}

/** A shard with this header text and a body of zeros that takes no disk. */
export function writeShard(path: string, header: string | Uint8Array, bodyBytes: number): void {
  const text = Buffer.from(header)
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(text.length))
  fs.writeFileSync(path, Buffer.concat([length, text]))
  fs.truncateSync(path, 8 + text.length + bodyBytes)
}

/** The header bytes of a real shard, without the length before them. */
export function headerBytes(path: string): Buffer {
  const file = fs.readFileSync(path)
  return file.subarray(8, 8 + Number(file.readBigUInt64LE(0)))
}

function shardOf(path: string): HollowShard {
  const header = headerBytes(path)
  const { __metadata__: _, ...tensors } = JSON.parse(header.toString())
  const bodyBytes = fs.statSync(path).size - 8 - header.length
  return { tensors: new Map(Object.entries(tensors)), bodyBytes }
}

function readJson(path: string) {
  return JSON.parse(fs.readFileSync(path, 'utf8'))
}
