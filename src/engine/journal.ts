// What a run of `verify` has found out about one file so far, so that a run that was killed at any
// instant can be gone on with: a head as a manifest has it, then records, each appended whole when a
// piece has been read. A record that was cut short, and whatever follows it, does not count. What is
// older than a day does not either: a person who asks again after that wants the bytes read again.
import fs from 'node:fs'
import { crc32 } from 'node:zlib'
import { ModelError } from '../model/error.js'
import { isSameFile, manifestPath, readBounded, reasonOf, replaceFile } from './manifest.js'
import {
  decodeHead,
  encodeHead,
  firstBlocks,
  isSameExtents,
  type ManifestHead,
} from './manifestfile.js'

const RESUMED_WITHIN_MS = 24 * 60 * 60 * 1000

/** First block and number of blocks stand before the sums, a CRC-32 of all of it behind them. */
const WORD = Uint32Array.BYTES_PER_ELEMENT
const FRAME_WORDS = 3

export class Journal {
  private constructor(
    private readonly path: string,
    readonly sums: Uint32Array,
    /** 1 for each block whose sum is known. */
    readonly known: Uint8Array,
    /** When the first of the sums may have been made. */
    readonly begun: Date,
  ) {}

  /** Goes on with what stands about the same file with the same extents, or begins. */
  static open(folder: string, head: ManifestHead): Journal {
    const path = manifestPath(folder, head.identity.path, 'journal')
    const blocks = firstBlocks(head.extents).at(-1) ?? 0
    const sums = new Uint32Array(blocks)
    const known = new Uint8Array(blocks)
    const start = recallable(path, head)
    // A power cut costs no more than what was read.
    if (start === null) replaceFile(path, encodeHead(head), false)
    try {
      // What is torn at the end would hide whatever is appended behind it.
      if (start !== null) fs.truncateSync(path, replay(start.records, sums, known) + start.end)
      const begun = start?.begun ?? head.recorded
      return new Journal(path, sums, known, begun)
    } catch (error) {
      throw new ModelError(`${path}: cannot be written: ${reasonOf(error)}`)
    }
  }

  /** Notes the sums of consecutive blocks. */
  add(firstBlock: number, sums: Uint32Array): void {
    const words = new Uint32Array(sums.length + FRAME_WORDS)
    words[0] = firstBlock
    words[1] = sums.length
    words.set(sums, 2)
    const bytes = new Uint8Array(words.buffer)
    words[words.length - 1] = crc32(bytes.subarray(0, bytes.length - WORD))
    try {
      fs.appendFileSync(this.path, bytes)
    } catch (error) {
      throw new ModelError(`${this.path}: cannot be written: ${reasonOf(error)}`)
    }
    this.sums.set(sums, firstBlock)
    this.known.fill(1, firstBlock, firstBlock + sums.length)
  }

  /** What it holds is kept elsewhere now. */
  remove(): void {
    fs.rmSync(this.path, { force: true })
  }
}

/** The records of an earlier run, where they begin in the file, and when that run began. */
interface Start {
  readonly records: Buffer
  readonly end: number
  readonly begun: Date
}

/** What can be gone on with, or null. */
function recallable(path: string, head: ManifestHead): Start | null {
  try {
    if (!fs.existsSync(path)) return null
    if (Date.now() - fs.statSync(path).mtimeMs > RESUMED_WITHIN_MS) return null
    const bytes = readBounded(path)
    const { head: theirs, end } = decodeHead(bytes, path)
    const isSame = isSameFile(theirs.identity, head.identity) && isSameExtents(theirs, head)
    return isSame ? { records: bytes.subarray(end), end, begun: theirs.recorded } : null
  } catch (error) {
    // Whatever else lies there is of no use and is written over.
    if (error instanceof ModelError) return null
    throw error
  }
}

/** Takes over the sums of all whole records; returns how many bytes those have. */
function replay(records: Buffer, sums: Uint32Array, known: Uint8Array): number {
  let place = 0
  while (place + FRAME_WORDS * WORD <= records.length) {
    const first = records.readUInt32LE(place)
    const count = records.readUInt32LE(place + WORD)
    const end = place + (count + FRAME_WORDS) * WORD
    if (count === 0 || first + count > sums.length || end > records.length) break
    if (records.readUInt32LE(end - WORD) !== crc32(records.subarray(place, end - WORD))) break
    for (let index = 0; index < count; index += 1) {
      sums[first + index] = records.readUInt32LE(place + (2 + index) * WORD)
    }
    known.fill(1, first, first + count)
    place = end
  }
  return place
}
