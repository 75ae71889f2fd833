/**
 * Which files a checkpoint is made of, and where each of its tensors lies. It must not know which
 * tensors a model needs. With an index, the index decides: a tensor that sits in a file without
 * being named there does not exist. Without one, the single model.safetensors is everything.
 */
import fs from 'node:fs'
import { join } from 'node:path'
import { ModelError, shown } from './error.js'
import { isRecord, parseObject } from './json.js'
import { readHeader, type TensorEntry } from './safetensors.js'
import { readText } from './window.js'

export interface CheckpointFile {
  readonly path: string
  readonly sizeBytes: number
}

export interface Shards {
  /** The file that says which tensors there are. */
  readonly source: string
  readonly files: readonly CheckpointFile[]
  /** By tensor name; an entry's `file` is an index into `files`. */
  readonly tensors: ReadonlyMap<string, TensorEntry>
  /** Tensors that sit in the files but that the index does not name. */
  readonly unnamed: number
}

const INDEX_FILE = 'model.safetensors.index.json'
const SINGLE_FILE = 'model.safetensors'

/** The index of a 1T checkpoint is about 13 MB. */
const INDEX_BYTES_LIMIT = 128 * 2 ** 20
/** Published models have up to some hundreds. */
const SHARDS_LIMIT = 16384

/** Reads the headers of all files of the checkpoint in `folder`, and no data. */
export function openShards(folder: string): Shards {
  if (fs.existsSync(join(folder, INDEX_FILE))) return openIndexed(folder)
  if (!fs.existsSync(join(folder, SINGLE_FILE))) {
    throw new ModelError(`${SINGLE_FILE}: expected it or ${INDEX_FILE}, found neither in ${folder}`)
  }
  const { path, sizeBytes, tensors } = readHeader(join(folder, SINGLE_FILE), 0)
  return {
    source: SINGLE_FILE,
    files: [{ path, sizeBytes }],
    tensors: new Map(tensors.map((tensor) => [tensor.name, tensor])),
    unnamed: 0,
  }
}

function openIndexed(folder: string): Shards {
  const shardOf = parseIndex(readText(join(folder, INDEX_FILE), INDEX_BYTES_LIMIT), INDEX_FILE)
  const names = [...new Set(shardOf.values())].sort()
  if (names.length === 0 || names.length > SHARDS_LIMIT) {
    throw new ModelError(
      `${INDEX_FILE}: weight_map must name 1 to ${SHARDS_LIMIT} files, found ${names.length}`,
    )
  }
  const files: CheckpointFile[] = []
  const tensors = new Map<string, TensorEntry>()
  let unnamed = 0
  for (const name of names) {
    const header = readHeader(join(folder, name), files.length)
    files.push({ path: header.path, sizeBytes: header.sizeBytes })
    for (const tensor of header.tensors) {
      if (shardOf.get(tensor.name) === name) tensors.set(tensor.name, tensor)
      else unnamed += 1
    }
  }
  for (const [tensor, shard] of shardOf) {
    if (tensors.has(tensor)) continue
    throw new ModelError(
      `${shard}: expected tensor ${shown(tensor)}, which ${INDEX_FILE} places there, found none of that name`,
    )
  }
  return { source: INDEX_FILE, files, tensors, unnamed }
}

/** Tensor name to file name, from the text of an index; `file` names the text in errors. */
function parseIndex(text: string, file: string): Map<string, string> {
  const weightMap = parseObject(text, file).weight_map
  if (!isRecord(weightMap)) {
    throw new ModelError(`${file}: weight_map must be an object, found ${shown(weightMap)}`)
  }
  const shardOf = new Map<string, string>()
  for (const [tensor, shard] of Object.entries(weightMap)) {
    if (typeof shard !== 'string' || !isPlainName(shard)) {
      throw new ModelError(
        `${file}: weight_map.${shown(tensor)} must name a file in the model's own folder, found ${shown(shard)}`,
      )
    }
    shardOf.set(tensor, shard)
  }
  return shardOf
}

/** Whether a name can only mean a file directly in the folder it is joined to. */
function isPlainName(name: string): boolean {
  return name !== '' && name !== '.' && name !== '..' && !/[/\\\0]/.test(name)
}
