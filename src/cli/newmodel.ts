// What `widen` and `synth` share: a folder that must be new, room on its drive, the writing itself with
// progress and Ctrl-C, and nothing left behind unless it is whole.
import { existsSync, mkdirSync, readdirSync, rmdirSync, statfsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { systemReason } from '../model/error.js'
import {
  diskBytes,
  type NewCheckpoint,
  type NewShard,
  planShards,
  writeCheckpoint,
} from '../model/writer.js'
import { Failure, Status } from './failure.js'
import { Interrupts, statusOfSignal } from './interrupt.js'
import { Log } from './log.js'
import type { NewModelFlags } from './newmodelflags.js'
import { Progress, sizeText } from './progress.js'

/** Left free beside what is written. */
const HEADROOM = 0.05
/** Files that belong to a model and not to its weights. */
const companionNames = [
  'tokenizer.json',
  'tokenizer_config.json',
  'chat_template.jinja',
  'generation_config.json',
]

/** The companions that a folder has, by their paths. */
export function companionsIn(folder: string): string[] {
  return companionNames.map((name) => join(folder, name)).filter((path) => existsSync(path))
}

/** Throws a Failure unless OUT is a folder without files, or is nothing yet. */
export function refuseUsedFolder(out: string): void {
  try {
    if (!existsSync(out) || readdirSync(out).length === 0) return
  } catch (error) {
    throw new Failure(`${out}: cannot be a new model's folder: ${systemReason(error)}`)
  }
  throw new Failure(`${out}: is not empty; a new model needs a new or an empty folder`)
}

/** Writes the model into OUT and says what it became. Returns the exit status. */
export async function writeModel(
  out: string,
  { config, tensors }: NewCheckpoint,
  companions: readonly string[],
  flags: NewModelFlags,
): Promise<number> {
  const shards = planShards(tensors, flags.shardSize)
  const bytes = diskBytes(shards)
  refuseFullDrive(out, bytes)
  const isNew = !existsSync(out)
  const interrupts = new Interrupts()
  try {
    if (isNew) mkdirSync(out)
    const stop = new AbortController()
    const watch = new Watch(out, bytes, flags.quiet ?? false)
    const onlooker = { signal: stop.signal, onWritten: watch.written.bind(watch) }
    await interrupts
      .during(
        () => stop.abort(),
        () => writeCheckpoint(out, config, shards, companions, onlooker),
      )
      .finally(() => watch.end())
    watch.sum(shards)
    return Status.done
  } catch (error) {
    if (isNew) removeIfEmpty(out)
    if (interrupts.received !== null) return statusOfSignal(interrupts.received)
    if (!isFromSystem(error)) throw error
    throw new Failure(`${out}: cannot be written: ${systemReason(error)}`)
  }
}

/** Tells how far the writing is, and at the end what was written. */
class Watch {
  #doneBytes = 0
  readonly #startMs = performance.now()
  readonly #progress: Progress

  constructor(
    private readonly name: string,
    private readonly bytes: number,
    private readonly isQuiet: boolean,
  ) {
    this.#progress = new Progress(name, isQuiet)
  }

  get #seconds(): number {
    return (performance.now() - this.#startMs) / 1000
  }

  written(count: number): void {
    this.#doneBytes += count
    const { bytes } = this
    const doneBytes = this.#doneBytes
    this.#progress.show({ doneBytes, readBytes: doneBytes, bytes, seconds: this.#seconds })
  }

  end(): void {
    this.#progress.end()
  }

  sum(shards: readonly NewShard[]): void {
    const seconds = this.#seconds
    const sizeBytes = shards.reduce((sum, shard) => sum + shard.sizeBytes, 0)
    const holes = sizeBytes === this.bytes ? '' : ` (${sizeText(this.bytes)} on disk)`
    new Log(this.isQuiet).line(
      `${this.name}: ${sizeText(sizeBytes)}${holes}, in ${shards.length} ${shards.length === 1 ? 'file' : 'files'}, ` +
        `written in ${seconds.toFixed(1)} s, ${sizeText(this.bytes / seconds)}/s`,
    )
  }
}

function refuseFullDrive(out: string, bytes: number): void {
  const drive = existsSync(out) ? out : dirname(out)
  let freeBytes: number
  try {
    const { bavail, bsize } = statfsSync(drive)
    freeBytes = bavail * bsize
  } catch (error) {
    throw new Failure(`${out}: cannot be created: ${systemReason(error)}`)
  }
  const neededBytes = Math.ceil(bytes * (1 + HEADROOM))
  if (neededBytes <= freeBytes) return
  throw new Failure(
    `${out}: needs ${sizeText(neededBytes)}, ${HEADROOM * 100} % head room included, and ${sizeText(freeBytes)} are free`,
  )
}

/** Whatever somebody else has put there meanwhile stays. */
function removeIfEmpty(folder: string): void {
  try {
    rmdirSync(folder)
  } catch {
    // Not there, or not empty.
  }
}

function isFromSystem(error: unknown): boolean {
  return error instanceof Error && 'errno' in error
}
