// `verify`: reads every byte of a checkpoint's headers and tensors past the page cache, and either
// records the checksums of its blocks or compares them with the recorded ones. Files are cut into
// pieces, so that one huge file keeps several threads busy, and what a piece gave is noted at once: a
// run that ends early, in whatever way, is gone on with by the next one.
import { basename } from 'node:path'
import { Piscina } from 'piscina'
import { ModelError } from '../model/error.js'
import type { Environment } from '../model/locate.js'
import { readHeader } from '../model/safetensors.js'
import { openShards } from '../model/shards.js'
import { byPlace, type Difference, differences } from './difference.js'
import { Journal } from './journal.js'
import {
  identityOf,
  isSameFile,
  manifestFolder,
  readManifest,
  type Standing,
  writeManifest,
} from './manifest.js'
import type { FileIdentity, ManifestHead } from './manifestfile.js'
import { bytesIn, cutPieces, type Piece } from './pieces.js'
import type { FoundSums, Task, TaskResult } from './verifyworker.js'

export interface VerifyWishes {
  /** Record anew whatever stands. */
  readonly record: boolean
  readonly signal: AbortSignal
  readonly environment?: Environment
  /** Called once, before anything is read. */
  readonly onPlan: (plan: VerifyPlan) => void
  readonly onProgress: (progress: VerifyProgress) => void
}

export interface VerifyPlan {
  readonly bytes: number
  /** Of these, read by an earlier run that ended early. */
  readonly resumedBytes: number
  /** Where manifests are kept. */
  readonly folder: string
  /** Files that are recorded anew, because they have changed since they were recorded. */
  readonly changed: readonly { readonly file: string; readonly recorded: Date }[]
}

export interface VerifyProgress {
  readonly doneBytes: number
  readonly readBytes: number
  readonly bytes: number
  readonly seconds: number
}

export interface Verification {
  /** Whether every block has been read; otherwise the next run goes on. */
  readonly isComplete: boolean
  readonly files: number
  readonly bytes: number
  readonly readBytes: number
  readonly seconds: number
  readonly recordedFiles: number
  readonly comparedFiles: number
  /** When the oldest of the manifests compared with was recorded; null where there was none. */
  readonly since: Date | null
  readonly differing: readonly Difference[]
}

/** One file of the checkpoint, and what is known about it. */
interface Subject {
  readonly path: string
  readonly head: ManifestHead
  /** Of the extents. */
  readonly names: readonly string[]
  readonly standing: Standing
  readonly journal: Journal
  missingBlocks: number
}

/** A piece that is to be read, with the file it is of. */
interface Work {
  readonly subject: Subject
  readonly piece: Piece
}

/** A drive wants several reads under way, also where there are few processors. */
const THREADS = 8

/** Throws ModelError with one sentence for what cannot be read or kept. */
export async function verify(folder: string, wishes: VerifyWishes): Promise<Verification> {
  return new Run(folder, wishes).finish()
}

class Run {
  readonly #cache: string
  readonly #subjects: Subject[]
  readonly #works: Work[]
  readonly #bytes: number
  readonly #resumedBytes: number
  readonly #began = performance.now()
  /** Shared with the threads; see Task.stop. */
  readonly #stop = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT))
  readonly #differing: Difference[] = []
  #readBytes = 0

  constructor(
    folder: string,
    private readonly wishes: VerifyWishes,
  ) {
    const { environment = process.env, record } = wishes
    this.#cache = manifestFolder(environment)
    const { files } = openShards(folder)
    this.#subjects = files.map(({ path }) => subjectOf(path, this.#cache, record))
    this.#works = this.#subjects.flatMap((subject) => worksOf(subject))
    this.#bytes = this.#subjects.reduce((sum, { head }) => sum + bytesIn(head.extents), 0)
    const missing = this.#works.reduce((sum, { piece }) => sum + bytesIn(piece.spans), 0)
    this.#resumedBytes = this.#bytes - missing
  }

  async finish(): Promise<Verification> {
    const { signal, onPlan } = this.wishes
    onPlan(this.#plan())
    const stop = () => this.#end()
    signal.addEventListener('abort', stop)
    if (signal.aborted) stop()
    try {
      for (const subject of this.#subjects) if (subject.missingBlocks === 0) this.#settle(subject)
      await this.#read()
    } finally {
      signal.removeEventListener('abort', stop)
    }
    return this.#verification()
  }

  #plan(): VerifyPlan {
    const changed = this.#subjects.flatMap(({ path, standing }) =>
      standing.kind === 'stale' ? [{ file: basename(path), recorded: standing.recorded }] : [],
    )
    const [bytes, resumedBytes] = [this.#bytes, this.#resumedBytes]
    return { bytes, resumedBytes, folder: this.#cache, changed }
  }

  /** Every thread takes the next piece as it has done one; the first error ends them all. */
  async #read(): Promise<void> {
    if (this.#works.length === 0) return
    const threads = Math.min(THREADS, this.#works.length)
    const pool = new Piscina<Task, TaskResult>({
      filename: new URL('./verifyworker.js', import.meta.url).href,
      minThreads: threads,
      maxThreads: threads,
      // Options of the main program (its input type, say) are not the threads'.
      execArgv: [],
    })
    const queue = this.#works.values()
    try {
      const lanes = Array.from({ length: threads }, () => this.#lane(pool, queue))
      const ends = await Promise.allSettled(lanes)
      const failed = ends.find((end) => end.status === 'rejected')
      if (failed !== undefined) throw failed.reason
    } finally {
      await pool.destroy()
    }
  }

  async #lane(pool: Piscina<Task, TaskResult>, queue: Iterator<Work>): Promise<void> {
    try {
      for (let next = queue.next(); !next.done && !this.#isStopped(); next = queue.next()) {
        const { subject, piece } = next.value
        const found = await pool.run({ path: subject.path, spans: piece.spans, stop: this.#stop })
        if ('refused' in found) throw new ModelError(found.refused)
        this.#note(subject, piece.firstBlock, found)
      }
    } catch (error) {
      this.#end()
      throw error
    }
  }

  #end(): void {
    Atomics.store(this.#stop, 0, 1)
  }

  #isStopped(): boolean {
    return Atomics.load(this.#stop, 0) !== 0
  }

  #note(subject: Subject, firstBlock: number, { sums, bytes }: FoundSums): void {
    if (sums.length === 0) return
    subject.journal.add(firstBlock, sums)
    subject.missingBlocks -= sums.length
    if (subject.missingBlocks === 0) this.#settle(subject)
    this.#readBytes += bytes
    this.wishes.onProgress({
      doneBytes: this.#resumedBytes + this.#readBytes,
      readBytes: this.#readBytes,
      bytes: this.#bytes,
      seconds: this.#seconds(),
    })
  }

  /** All blocks of a file are known: they are compared, or recorded. */
  #settle({ path, head, names, standing, journal }: Subject): void {
    const file = basename(path)
    const hasChanged = !isSameFile(identityOf(path), head.identity)
    if (!hasChanged && standing.kind === 'fresh') {
      const found = { head, sums: journal.sums }
      this.#differing.push(...differences(standing.manifest, found, { file, names }))
    } else if (!hasChanged) {
      const recorded = { ...head, recorded: journal.begun }
      writeManifest(this.#cache, { head: recorded, sums: journal.sums })
    }
    journal.remove()
    if (hasChanged) {
      throw new ModelError(`${file}: changed while it was read; run verify again`)
    }
  }

  #seconds(): number {
    return (performance.now() - this.#began) / 1000
  }

  #verification(): Verification {
    const settled = this.#subjects.filter((subject) => subject.missingBlocks === 0)
    const dates = settled.flatMap(({ standing }) =>
      standing.kind === 'fresh' ? [standing.manifest.head.recorded.getTime()] : [],
    )
    return {
      isComplete: settled.length === this.#subjects.length,
      files: this.#subjects.length,
      bytes: this.#bytes,
      readBytes: this.#readBytes,
      seconds: this.#seconds(),
      recordedFiles: settled.length - dates.length,
      comparedFiles: dates.length,
      since: dates.length === 0 ? null : new Date(Math.min(...dates)),
      differing: this.#differing.sort(byPlace),
    }
  }
}

function subjectOf(path: string, cache: string, record: boolean): Subject {
  const identity = identityOf(path)
  const { tensors, sizeBytes } = readHeader(path, 0)
  const stored = tensors.filter(({ bytes }) => bytes > 0).sort((a, b) => a.offset - b.offset)
  const headerBytes = stored[0]?.offset ?? sizeBytes
  const extents = Float64Array.from([
    ...[0, headerBytes],
    ...stored.flatMap(({ offset, bytes }) => [offset, bytes]),
  ])
  const head: ManifestHead = { identity, recorded: new Date(), extents }
  const standing: Standing = record ? { kind: 'absent' } : standingOf(cache, identity)
  const journal = Journal.open(cache, head)
  return {
    path,
    head,
    names: ['header', ...stored.map(({ name }) => name)],
    standing,
    journal,
    missingBlocks: journal.known.length - journal.known.reduce((sum, known) => sum + known, 0),
  }
}

function standingOf(cache: string, identity: FileIdentity): Standing {
  try {
    return readManifest(cache, identity)
  } catch (error) {
    if (!(error instanceof ModelError)) throw error
    throw new ModelError(`${error.message}; verify --record replaces it`)
  }
}

function worksOf(subject: Subject): Work[] {
  const { head, journal } = subject
  return cutPieces(head.extents, journal.known).map((piece) => ({ subject, piece }))
}
