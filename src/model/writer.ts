/**
 * Writes a checkpoint: safetensors files of a chosen size, index, config. Tensors come as descriptions
 * whose bytes are made only when their turn comes, so memory stays at a few megabytes whatever is
 * written. It must not know what the tensors mean. config.json comes last: a folder that has one is
 * whole. What failed half-way is removed, and only what this writer itself created.
 *
 * Inside a file tensors lie as the published tool lays them: wide types first, then by name. As
 * there, nothing but a multiple of 8 bytes is aligned.
 */
import fs from 'node:fs'
import { copyFile, type FileHandle, open, rm } from 'node:fs/promises'
import { basename, join } from 'node:path'
import type { Dtype } from './architecture.js'
import { ModelError } from './error.js'

export interface NewTensor {
  readonly name: string
  readonly dtype: Dtype
  readonly shape: readonly number[]
  /**
   * Makes the bytes, each piece valid until the next one is asked for. Null: a hole, which takes no
   * disk and reads as zeros.
   */
  readonly pieces: (() => Iterable<Uint8Array>) | null
}

/** What a checkpoint will be. */
export interface NewCheckpoint {
  /** Of config.json, keys that nobody here knows included. */
  readonly config: Readonly<Record<string, unknown>>
  readonly tensors: readonly NewTensor[]
}

export interface NewShard {
  readonly file: string
  /** With the eight bytes of its length before it. */
  readonly header: Buffer
  /** In the order in which they lie in the file. */
  readonly tensors: readonly NewTensor[]
  readonly sizeBytes: number
}

/** Who looks on while a checkpoint is written. */
export interface Onlooker {
  readonly signal: AbortSignal
  /** Called with the bytes that have been written since the last call; holes are not among them. */
  readonly onWritten: (bytes: number) => void
}

/** A reader refuses checkpoints of more files. */
const SHARDS_LIMIT = 16384
/** Smaller pieces are gathered to this much before they are written. */
const STAGING_BYTES = 2 ** 20

export const dtypeBytes: Readonly<Record<Dtype, number>> = { F8_E4M3: 1, BF16: 2, F32: 4 }

function tensorBytes({ dtype, shape }: NewTensor): number {
  return shape.reduce((product, size) => product * size, dtypeBytes[dtype])
}

/**
 * Divides the tensors among files, in the order given: a file ends before the tensor that would make
 * its data longer than `shardBytes`. A larger tensor has a file to itself.
 */
export function planShards(tensors: readonly NewTensor[], shardBytes: number): NewShard[] {
  const parts: NewTensor[][] = []
  let filledBytes = Number.POSITIVE_INFINITY
  for (const tensor of tensors) {
    const bytes = tensorBytes(tensor)
    if (filledBytes + bytes > shardBytes) {
      parts.push([])
      filledBytes = 0
    }
    parts.at(-1)?.push(tensor)
    filledBytes += bytes
  }
  if (parts.length > SHARDS_LIMIT) {
    throw new ModelError(
      `shards of ${shardBytes} bytes would make ${parts.length} files, and a checkpoint has at most ${SHARDS_LIMIT}; larger shards would do`,
    )
  }
  return parts.map((part, index) => shardOf(part, index + 1, parts.length))
}

/** What the shards take on disk: everything but the holes. */
export function diskBytes(shards: readonly NewShard[]): number {
  let bytes = 0
  for (const shard of shards) {
    bytes += shard.sizeBytes
    for (const tensor of shard.tensors) if (tensor.pieces === null) bytes -= tensorBytes(tensor)
  }
  return bytes
}

/**
 * Writes the shards, their index, copies of `companions` (paths of small files) and at last the
 * config into an existing folder. On any error, and when `signal` aborts, what was written is removed
 * and the error passed on: those of the file system come as they are.
 */
export async function writeCheckpoint(
  folder: string,
  config: NewCheckpoint['config'],
  shards: readonly NewShard[],
  companions: readonly string[],
  onlooker: Onlooker,
): Promise<void> {
  const created: string[] = []
  try {
    for (const shard of shards) {
      await create(join(folder, shard.file), created, (file) => writeShard(file, shard, onlooker))
    }
    const index = { metadata: { total_size: bodyBytes(shards) }, weight_map: weightMap(shards) }
    await createJson(join(folder, 'model.safetensors.index.json'), created, index)
    for (const companion of companions) {
      const copy = join(folder, basename(companion))
      await copyFile(companion, copy, fs.constants.COPYFILE_EXCL)
      created.push(copy)
    }
    onlooker.signal.throwIfAborted()
    await createJson(join(folder, 'config.json'), created, config)
  } catch (error) {
    for (const path of created) await rm(path, { force: true })
    throw error
  }
}

function shardOf(part: readonly NewTensor[], number: number, count: number): NewShard {
  const tensors = [...part].sort(bodyOrder)
  const entries: Record<string, unknown> = { __metadata__: { format: 'pt' } }
  let end = 0
  let largest = { begin: 0, bytes: 0 }
  for (const tensor of tensors) {
    const [begin, bytes] = [end, tensorBytes(tensor)]
    end = begin + bytes
    if (bytes > largest.bytes) largest = { begin, bytes }
    const { dtype, shape } = tensor
    entries[tensor.name] = { dtype, shape, data_offsets: [begin, end] }
  }
  const header = headerOf(JSON.stringify(entries), largest.begin)
  const name = (value: number) => String(value).padStart(5, '0')
  const file = `model-${name(number)}-of-${name(count)}.safetensors`
  return { file, header, tensors, sizeBytes: header.length + end }
}

/**
 * Wide types first, then by name; what does not fill whole 8 bytes goes to the end, so that all
 * before it keeps its phase.
 */
function bodyOrder(first: NewTensor, second: NewTensor): number {
  const raggedness = (tensor: NewTensor) => Number(tensorBytes(tensor) % 8 !== 0)
  return (
    raggedness(first) - raggedness(second) ||
    dtypeBytes[second.dtype] - dtypeBytes[first.dtype] ||
    (first.name < second.name ? -1 : 1)
  )
}

/**
 * The header, filled up with blanks so that the body begins at a multiple of 8, and the largest
 * tensor at an odd one: where all sizes are multiples of 4096, all matrices could otherwise lie on
 * whole blocks by accident, as they do not in published files.
 */
function headerOf(text: string, largestBegin: number): Buffer {
  const textBytes = Buffer.byteLength(text)
  const bodyStart = 8 + Math.ceil(textBytes / 8) * 8
  const isEven = (bodyStart + largestBegin) % 16 < 8
  const header = Buffer.alloc(bodyStart + (isEven ? 8 : 0), ' ')
  header.writeBigUInt64LE(BigInt(header.length - 8))
  header.write(text, 8)
  return header
}

function bodyBytes(shards: readonly NewShard[]): number {
  return shards.reduce((sum, { sizeBytes, header }) => sum + sizeBytes - header.length, 0)
}

function weightMap(shards: readonly NewShard[]): Record<string, string> {
  const places = shards.flatMap(({ file, tensors }) => tensors.map(({ name }) => [name, file]))
  return Object.fromEntries(places.sort(([first = ''], [second = '']) => (first < second ? -1 : 1)))
}

async function writeShard(file: FileHandle, shard: NewShard, onlooker: Onlooker): Promise<void> {
  const sink = new Sink(file, onlooker)
  await sink.put(shard.header)
  for (const tensor of shard.tensors) {
    const end = sink.position + tensorBytes(tensor)
    if (tensor.pieces === null) await sink.skipTo(end)
    else for (const piece of tensor.pieces()) await sink.put(piece)
    if (sink.position !== end) {
      throw new Error(`${tensor.name} ended at ${sink.position} instead of ${end}`)
    }
  }
  await sink.flush()
  await file.truncate(shard.sizeBytes)
}

/** The one place that writes bytes; gathers small pieces, because every write costs a turn of the loop. */
class Sink {
  position = 0
  readonly #staging = Buffer.allocUnsafe(STAGING_BYTES)
  #staged = 0

  constructor(
    private readonly file: FileHandle,
    private readonly onlooker: Onlooker,
  ) {}

  async put(bytes: Uint8Array): Promise<void> {
    if (this.#staged + bytes.length > STAGING_BYTES) await this.flush()
    if (bytes.length > STAGING_BYTES) await this.#write(bytes, this.position)
    else {
      this.#staging.set(bytes, this.#staged)
      this.#staged += bytes.length
    }
    this.position += bytes.length
  }

  async skipTo(position: number): Promise<void> {
    await this.flush()
    this.position = position
  }

  async flush(): Promise<void> {
    const bytes = this.#staging.subarray(0, this.#staged)
    await this.#write(bytes, this.position - this.#staged)
    this.#staged = 0
  }

  async #write(bytes: Uint8Array, position: number): Promise<void> {
    this.onlooker.signal.throwIfAborted()
    let done = 0
    while (done < bytes.length) {
      const left = bytes.length - done
      const { bytesWritten } = await this.file.write(bytes, done, left, position + done)
      done += bytesWritten
    }
    this.onlooker.onWritten(bytes.length)
  }
}

/** Creates a file that must not exist yet. */
async function create(
  path: string,
  created: string[],
  write: (file: FileHandle) => Promise<void>,
): Promise<void> {
  const file = await open(path, 'wx')
  created.push(path)
  try {
    await write(file)
  } finally {
    await file.close()
  }
}

async function createJson(path: string, created: string[], value: unknown): Promise<void> {
  await create(path, created, (file) => file.writeFile(`${JSON.stringify(value, null, 1)}\n`))
}
