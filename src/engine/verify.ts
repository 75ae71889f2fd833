// `verify`: reads every byte of a checkpoint's headers and tensors past the page cache, and either
// records the checksums of its blocks or compares them with the recorded ones. Files are cut into
// pieces, so that one huge file keeps several threads busy, and what a piece gave is noted at once: a
// run that ends early, in whatever way, is gone on with by the next one. A file whose SHA-256 the hub has
// given goes through one thread, in order, until it has once been right: the same read serves both sums.
import { basename } from 'node:path'
import { Piscina } from 'piscina'
import { ModelError } from '../model/error.js'
import type { Environment } from '../model/locate.js'
import { readHeader } from '../model/safetensors.js'
import { openShards } from '../model/shards.js'
import { byPlace, type Difference, differences } from './difference.js'
import { hubSum } from './hubsum.js'
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
  /** Files that have the SHA-256 that the hub gave, compared now or when they were recorded. */
  readonly provenFiles: number
  /** Files that are not the hub's. They are not recorded. */
  readonly wrong: readonly WrongFile[]
  /** When the oldest of the manifests compared with was recorded; null where there was none. */
  readonly since: Date | null
  readonly differing: readonly Difference[]
}

/** A file with another SHA-256 than the hub gave, both in hexadecimal digits. */
export interface WrongFile {
  readonly file: string
  /** With all links followed: what is to be removed before it is fetched again. */
  readonly path: string
  readonly sha256: string
  readonly expected: string
}

/** One file of the checkpoint, and what is known about it. */
interface Subject {
  readonly path: string
  readonly head: ManifestHead
  /** Of the extents. */
  readonly names: readonly string[]
  readonly standing: Standing
  readonly journal: Journal
  /** The SHA-256 that the hub gave; null where it is not known. */
  readonly hubSum: string | null
  /** Whether that is still to be compared. */
  readonly isUnproven: boolean
  missingBlocks: number
}

/** Pieces that one thread reads, in order, with the file they are of. */
interface Work {
  readonly subject: Subject
  readonly pieces: readonly Piece[]
}

/** A drive wants several reads under way, also where there are few processors. */
const THREADS = 8
/** Beginning a thread takes as long as reading this: a checkpoint of less has one. */
const THREAD_BYTES = 64 * 2 ** 20

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
  readonly #wrong: WrongFile[] = []
  #recordedFiles = 0
  #provenFiles = 0
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
    const pieces = this.#works.flatMap((work) => work.pieces)
    const missing = pieces.reduce((sum, { spans }) => sum + bytesIn(spans), 0)
    this.#resumedBytes = this.#bytes - missing
  }

  async finish(): Promise<Verification> {
    const { signal, onPlan } = this.wishes
    onPlan(this.#plan())
    const stop = () => this.#end()
    signal.addEventListener('abort', stop)
    if (signal.aborted) stop()
    try {
      for (const subject of this.#subjects)
        if (subject.missingBlocks === 0) this.#settle(subject, null)
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

  /** Every lane takes the next work as it has done one; the first error ends them all. */
  async #read(): Promise<void> {
    const queue = this.#works.values()
    const worthwhile = Math.max(1, Math.ceil((this.#bytes - this.#resumedBytes) / THREAD_BYTES))
    const length = Math.min(THREADS, this.#works.length, worthwhile)
    const ends = await Promise.allSettled(Array.from({ length }, () => this.#lane(queue)))
    const failed = ends.find((end) => end.status === 'rejected')
    if (failed !== undefined) throw failed.reason
  }

  /** Each has a thread of its own, which keeps a file's SHA-256 from one piece to the next. */
  async #lane(queue: Iterator<Work>): Promise<void> {
    const thread = new Piscina<Task, TaskResult>({
      filename: new URL('./verifyworker.js', import.meta.url).href,
      minThreads: 1,
      maxThreads: 1,
      // Options of the main program (its input type, say) are not the threads'.
      execArgv: [],
    })
    try {
      for (let next = queue.next(); !next.done && !this.#isStopped(); next = queue.next()) {
        await this.#do(next.value, thread)
      }
    } catch (error) {
      this.#end()
      throw error
    } finally {
      await thread.destroy()
    }
  }

  async #do({ subject, pieces }: Work, thread: Piscina<Task, TaskResult>): Promise<void> {
    const { path, isUnproven, head } = subject
    for (const [index, { firstBlock, spans }] of pieces.entries()) {
      if (this.#isStopped()) return
      const [isFirst, isLast] = [index === 0, index === pieces.length - 1]
      const whole = isUnproven ? { isFirst, isLast, sizeBytes: head.identity.sizeBytes } : null
      const found = await thread.run({ path, spans, stop: this.#stop, whole })
      if ('refused' in found) throw new ModelError(found.refused)
      this.#note(subject, firstBlock, found)
    }
  }

  #end(): void {
    Atomics.store(this.#stop, 0, 1)
  }

  #isStopped(): boolean {
    return Atomics.load(this.#stop, 0) !== 0
  }

  #note(subject: Subject, firstBlock: number, { sums, bytes, sha256 }: FoundSums): void {
    if (sums.length === 0) return
    subject.journal.add(firstBlock, sums)
    subject.missingBlocks -= sums.length
    if (subject.missingBlocks === 0) this.#settle(subject, sha256)
    this.#readBytes += bytes
    this.wishes.onProgress({
      doneBytes: this.#resumedBytes + this.#readBytes,
      readBytes: this.#readBytes,
      bytes: this.#bytes,
      seconds: this.#seconds(),
    })
  }

  /** All blocks of a file are known: they are compared, or recorded. */
  #settle(subject: Subject, sha256: string | null): void {
    const { path, head, journal } = subject
    const hasChanged = !isSameFile(identityOf(path), head.identity)
    if (!hasChanged) this.#judge(subject, sha256)
    journal.remove()
    if (hasChanged) {
      throw new ModelError(`${basename(path)}: changed while it was read; run verify again`)
    }
  }

  #judge(subject: Subject, sha256: string | null): void {
    const { path, head, names, standing, journal, hubSum, isUnproven } = subject
    const file = basename(path)
    const { path: real } = head.identity
    const isWrong = isUnproven && sha256 !== hubSum
    if (isWrong) {
      this.#wrong.push({ file, path: real, sha256: sha256 ?? '', expected: hubSum ?? '' })
    }
    const found = { head, sums: journal.sums }
    const differing =
      standing.kind === 'fresh' ? differences(standing.manifest, found, { file, names }) : []
    this.#differing.push(...differing)
    // One that was proven before still is where none of its blocks differs.
    const isProven = hubSum !== null && !isWrong && (isUnproven || differing.length === 0)
    if (isProven) this.#provenFiles += 1
    const proof = isProven ? { sha256: hubSum } : {}
    if (standing.kind === 'fresh') {
      if (!isProven || !isUnproven || differing.length > 0) return
      const { manifest } = standing
      writeManifest(this.#cache, { ...manifest, head: { ...manifest.head, ...proof } })
    } else if (!isWrong) {
      const recorded = { ...head, recorded: journal.begun, ...proof }
      writeManifest(this.#cache, { head: recorded, sums: journal.sums })
      this.#recordedFiles += 1
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
      recordedFiles: this.#recordedFiles,
      comparedFiles: dates.length,
      provenFiles: this.#provenFiles,
      wrong: this.#wrong.sort((a, b) => (a.file < b.file ? -1 : 1)),
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
  const known = journal.known.reduce((sum, one) => sum + one, 0)
  const sum = hubSum(path)
  const proven = standing.kind === 'fresh' ? standing.manifest.head.sha256 : undefined
  const isUnproven = sum !== null && sum !== proven
  return {
    path,
    head,
    names: ['header', ...stored.map(({ name }) => name)],
    standing,
    journal,
    hubSum: sum,
    isUnproven,
    // What an earlier run has read is of no use to the sum of the whole file.
    missingBlocks: journal.known.length - (isUnproven ? 0 : known),
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
  const { head, journal, isUnproven } = subject
  if (!isUnproven) {
    return cutPieces(head.extents, journal.known).map((piece) => ({ subject, pieces: [piece] }))
  }
  return [{ subject, pieces: cutPieces(head.extents, new Uint8Array(journal.known.length)) }]
}
