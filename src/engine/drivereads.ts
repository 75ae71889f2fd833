// How fast a drive gives bytes: random reads at several sizes and depths, through the reader that experts
// are read with. A large file that lies there already is read; where there is none, one is written and
// unnamed at once, so that nothing is left of it however this ends. It knows no drive, only a folder.
import { randomFillSync } from 'node:crypto'
import fs from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import {
  type DriveRate,
  isDeviceError,
  MathKind,
  measureDrive,
  measureProducts,
  Rung,
} from '../../native/index.js'
import { ModelError } from '../model/error.js'
import type { DriveMeasure } from './machine.js'
import { reasonOf } from './manifest.js'

const MIB = 2 ** 20

/** How much work a measurement is; all of it are upper bounds. */
export interface ReadEffort {
  /** Of a file that is written; larger ones that lie there are read instead. */
  readonly fileBytes: number
  readonly writeSeconds: number
  /** Of each size and depth, twice. */
  readonly probeBytes: number
  readonly probeSeconds: number
  /** For the rate that lasts: rounds without a pause between them. */
  readonly lastingRounds: number
  /** Of reading beside computing, and as many of computing alone. */
  readonly besideRounds: number
  readonly roundSeconds: number
}

const defaultEffort: ReadEffort = {
  fileBytes: 1024 * MIB,
  writeSeconds: 20,
  probeBytes: 512 * MIB,
  probeSeconds: 0.7,
  lastingRounds: 5,
  besideRounds: 3,
  roundSeconds: 0.9,
}

const sizes = [128 * 1024, MIB, 4 * MIB]
const depths = [1, 4, 16]
const deepest = 16
/** More than any drive gives in a round. */
const endlessBytes = 2 ** 40
/** A drive that has given nothing by then is asked once more, with so much more patience. */
const patience = 10
/** Less than this fits into the memory of many a drive, and is no measure. */
const leastBytes = 64 * MIB
/** Cores that seem to compute faster beside reads were held up before. */
const shareMost = 1
/** Of the free space, what a written file may take. */
const freeShare = 0.1
/** Entries that are looked at in search of a large file. */
const entriesMost = 5000

/**
 * Reads from the drive under a folder, alone and while so many threads compute; takes some ten seconds, and blocks
 * for at most one at a time. Throws ModelError where there is nothing to read, the signal's reason when it is aborted.
 */
export async function measureReads(
  folder: string,
  threads: number,
  signal: AbortSignal,
  effort: ReadEffort = defaultEffort,
): Promise<Measured> {
  const existing = largeFileIn(folder, effort.fileBytes)
  if (existing !== null) return await measured(existing, threads, effort, signal)
  const written = await writtenIn(folder, effort, signal)
  try {
    const path = `/proc/self/fd/${written.handle.fd}`
    return await measured({ path, sizeBytes: written.sizeBytes }, threads, effort, signal)
  } finally {
    await written.handle.close()
  }
}

/** What is known of a drive once it was read. */
type Measured = Pick<DriveMeasure, 'reader' | 'rates' | 'bytesPerSecond' | 'beside'>

interface ReadableFile {
  readonly path: string
  readonly sizeBytes: number
}

async function measured(
  file: ReadableFile,
  threads: number,
  effort: ReadEffort,
  signal: AbortSignal,
): Promise<Measured> {
  const probe = async (
    point: Point,
    bytes: number,
    seconds: number,
    seed: number,
    besideThreads = 0,
  ) => {
    await setImmediate()
    signal.throwIfAborted()
    const io = { rung: Rung.automatic, depth: 0, chunkBytes: 0, faults: [] }
    const asked = { files: [file], io, ...point, bytes, seconds, seed, besideThreads }
    try {
      return measureDrive(asked)
    } catch (error) {
      if (!isDeviceError(error) || error.code !== 'bad_argument') throw error
      return measureDrive({ ...asked, bytes: patience * bytes, seconds: patience * seconds })
    }
  }
  const rates = await burstRates((point, seed) => {
    const bytes = Math.min(effort.probeBytes, point.chunkBytes * 2048)
    return probe(point, bytes, effort.probeSeconds, seed)
  })
  const deep = rates.filter(({ depth }) => depth === deepest)
  const { chunkBytes, depth } = deep.reduce((best, one) =>
    one.bytesPerSecond > best.bytesPerSecond ? one : best,
  )
  let [sum, reader] = [0, '']
  // The first round may still be a burst, and does not count.
  for (let round = 0; round <= effort.lastingRounds; round += 1) {
    const rate = await probe({ chunkBytes, depth }, endlessBytes, effort.roundSeconds, round + 1)
    if (round > 0) sum += rate.bytesPerSecond
    reader = rate.reader
  }
  const beside = await besideComputing(threads, effort, (round) =>
    probe({ chunkBytes, depth }, endlessBytes, effort.roundSeconds, round, threads),
  )
  return { reader, rates, bytesPerSecond: Math.round(sum / effort.lastingRounds), beside }
}

/** Means of rounds, each behind one of computing alone. */
async function besideComputing(
  threads: number,
  { besideRounds, roundSeconds }: ReadEffort,
  read: (round: number) => Promise<DriveRate>,
): Promise<DriveMeasure['beside']> {
  let [bytes, share] = [0, 0]
  for (let round = 0; round < besideRounds; round += 1) {
    const alone = { threads, math: MathKind.f32, tokens: [1], seconds: roundSeconds / 3 }
    const [aloneBytesPerSecond = 1] = measureProducts(alone)
    const { bytesPerSecond, weightBytesPerSecond } = await read(round + 1)
    bytes += bytesPerSecond / besideRounds
    share += weightBytesPerSecond / aloneBytesPerSecond / besideRounds
  }
  return { bytesPerSecond: Math.round(bytes), computing: Math.min(share, shareMost) }
}

interface Point {
  readonly chunkBytes: number
  readonly depth: number
}

/** Forwards, then backwards, so that what drifts meanwhile meets all alike; the mean of both. */
async function burstRates(
  probe: (point: Point, seed: number) => Promise<DriveRate>,
): Promise<DriveMeasure['rates']> {
  const points = sizes.flatMap((chunkBytes) => depths.map((depth) => ({ chunkBytes, depth })))
  const rates = points.map((point) => ({ ...point, bytesPerSecond: 0 }))
  for (const one of [...rates, ...rates.toReversed()]) {
    const { chunkBytes, depth } = one
    const { bytesPerSecond } = await probe({ chunkBytes, depth }, rates.indexOf(one) + 1)
    // Of the same bytes twice: what they take is added, not how fast they were.
    const before = one.bytesPerSecond
    one.bytesPerSecond =
      before === 0 ? bytesPerSecond : Math.round(2 / (1 / before + 1 / bytesPerSecond))
  }
  return rates
}

/**
 * The largest file of at least so many bytes among the first that are found under a folder, on its drive;
 * none with holes, which would be read from nowhere.
 */
export function largeFileIn(folder: string, leastBytes: number): ReadableFile | null {
  const { dev } = fs.statSync(folder)
  let largest: ReadableFile | null = null
  let left = entriesMost
  for (const folders = [folder]; folders.length > 0 && left > 0; ) {
    const here = folders.shift() ?? folder
    for (const entry of entriesOf(here)) {
      left -= 1
      if (left < 0) break
      const path = join(here, entry.name)
      const status = fs.lstatSync(path, { throwIfNoEntry: false })
      if (status?.dev !== dev) continue
      if (status.isDirectory()) folders.push(path)
      const isWhole = status.isFile() && status.blocks * 512 >= status.size
      const isLarger = status.size > (largest?.sizeBytes ?? leastBytes - 1)
      if (isWhole && isLarger && isReadable(path)) largest = { path, sizeBytes: status.size }
    }
  }
  return largest
}

function entriesOf(folder: string): fs.Dirent[] {
  try {
    return fs.readdirSync(folder, { withFileTypes: true })
  } catch {
    return []
  }
}

function isReadable(path: string): boolean {
  try {
    fs.accessSync(path, fs.constants.R_OK)
    return true
  } catch {
    return false
  }
}

/** A file without a name, flushed to the drive. */
async function writtenIn(
  folder: string,
  { fileBytes, writeSeconds }: ReadEffort,
  signal: AbortSignal,
): Promise<{ readonly handle: FileHandle; readonly sizeBytes: number }> {
  const { bavail, bsize } = fs.statfsSync(folder)
  const bytes = Math.min(fileBytes, Math.floor((bavail * bsize * freeShare) / MIB) * MIB)
  if (bytes < leastBytes) throw new ModelError(`${folder}: too little free space to measure with`)
  const handle = await unnamedIn(folder)
  try {
    const sizeBytes = await fill(handle, bytes, performance.now() + 1000 * writeSeconds, signal)
    await handle.sync()
    return { handle, sizeBytes }
  } catch (error) {
    await handle.close()
    signal.throwIfAborted()
    throw new ModelError(`${folder}: no file to measure with can be written: ${reasonOf(error)}`)
  }
}

async function unnamedIn(folder: string): Promise<FileHandle> {
  const path = join(folder, `.ring-offload-${process.pid}.measure`)
  try {
    const descriptor = fs.openSync(path, 'wx+', 0o600)
    fs.unlinkSync(path)
    return await open(`/proc/self/fd/${descriptor}`, 'r+').finally(() => fs.closeSync(descriptor))
  } catch (error) {
    throw new ModelError(
      `${folder}: has no large file, and ${basename(path)} cannot be written: ${reasonOf(error)}`,
    )
  }
}

/** Bytes that no drive can shorten; returns how many there was time for. */
async function fill(
  handle: FileHandle,
  bytes: number,
  until: number,
  signal: AbortSignal,
): Promise<number> {
  const piece = randomFillSync(Buffer.allocUnsafe(16 * MIB))
  let done = 0
  while (done < bytes && (done < leastBytes || performance.now() < until)) {
    signal.throwIfAborted()
    // Of two pieces no block is the same.
    for (let at = 0; at < piece.length; at += 4096) piece.writeDoubleLE(done + at, at)
    const { bytesWritten } = await handle.write(
      piece,
      0,
      Math.min(piece.length, bytes - done),
      done,
    )
    done += bytesWritten
  }
  return done
}
