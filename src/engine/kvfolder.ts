// KV blocks in a folder, a file each: found by the tokens behind what is known, read whole or not at
// all, written beside and moved into place, and the least recently used ones removed when they are more
// bytes than allowed. Several processes may use one folder: files that come and go are noticed, and what
// is half written has another name. Nothing is flushed: what a power cut leaves is found to be damaged.
// All calls block; a thread of their own makes them.
import fs from 'node:fs'
import { join } from 'node:path'
import { kvBlockTokens } from './kv.js'
import {
  fileOf,
  isSound,
  type KvFileName,
  kvHeadBytes,
  parseFile,
  runName,
  sealFile,
  tokensIn,
} from './kvfile.js'

/** A file that begins with the tokens looked for. */
export interface KvRun {
  readonly own: string
  /** Tokens that it holds, and how many of them are those looked for. */
  readonly count: number
  readonly agreed: number
}

interface Entry extends KvFileName {
  readonly bytes: number
  usedMs: number
  /** Null until they were looked at. */
  tokens: Int32Array | null
}

export interface KvFolderWishes {
  readonly folder: string
  readonly bytesMost: number
  /** Whether the folder is made when something is to be written; else it is there. */
  readonly makesFolder?: boolean
  /** Files of other processes are looked for after so long at the earliest. */
  readonly lookMs: number
  readonly log: (line: string) => void
}

/** A half-written file is somebody's at work, unless it is older. */
const abandonedMs = 600_000
/** Removed at once, so that the order of use need not be found for every file. */
const removedShare = 0.05
/** Files that hold other ends of the same text are looked into up to so many. */
const endsLookedInto = 64

export class KvFolder {
  /** By own name. */
  readonly #entries = new Map<string, Entry>()
  readonly #children = new Map<string, Set<Entry>>()
  #bytes = 0
  #damaged = 0
  #hasToldForeign = false
  #lookedMs = 0
  #lookedAt = ''
  #isWriting = true
  #isMade: boolean

  constructor(private readonly wishes: KvFolderWishes) {
    this.#isMade = wishes.makesFolder !== true
    this.#look()
  }

  /** False: the drive took something no more. */
  get isWriting(): boolean {
    return this.#isWriting
  }

  get figures(): { readonly files: number; readonly bytes: number; readonly damaged: number } {
    return { files: this.#entries.size, bytes: this.#bytes, damaged: this.#damaged }
  }

  /** What follows `parent`: whole blocks one after the other, then the one that agrees the longest. */
  find(parent: string, tokens: Int32Array): KvRun[] {
    this.#look()
    const runs: KvRun[] = []
    let at = 0
    for (; at + kvBlockTokens <= tokens.length; at += kvBlockTokens) {
      const own = runName(parent, tokens.subarray(at, at + kvBlockTokens))
      if (!this.#entries.has(own)) break
      runs.push({ own, count: kvBlockTokens, agreed: kvBlockTokens })
      parent = own
    }
    const end = this.#longest(parent, tokens.subarray(at))
    if (end !== null) runs.push(end)
    return runs
  }

  /** A whole file, its keys and values from kvHeadBytes on; null where it is gone or damaged. */
  read(own: string): Uint8Array<ArrayBuffer> | null {
    const entry = this.#entries.get(own)
    if (entry === undefined) return null
    const path = this.#pathOf(entry)
    let bytes: Uint8Array<ArrayBuffer>
    try {
      bytes = readBytes(path, entry.bytes)
    } catch {
      // Removed by another process, most likely.
      this.#drop(entry)
      return null
    }
    if (!isSound(bytes, entry)) {
      this.#tellDamaged(entry)
      return null
    }
    entry.usedMs = Date.now()
    this.#attempt(() => fs.utimesSync(path, entry.usedMs / 1000, entry.usedMs / 1000))
    return bytes
  }

  /** Keeps a block; the first kvHeadBytes of its bytes are overwritten. False: it is not there now. */
  write(parent: string, tokens: Int32Array, bytes: Uint8Array): boolean {
    this.#look()
    const own = runName(parent, tokens)
    if (this.#entries.has(own)) return true
    if (!this.#isWriting || bytes.length > this.wishes.bytesMost) return false
    const name = { parent, own, count: tokens.length }
    sealFile(bytes, parent, tokens)
    const partial = join(this.wishes.folder, `${own}.${process.pid}.partial`)
    try {
      this.#makeRoom(bytes.length)
      this.#make()
      fs.writeFileSync(partial, bytes, { mode: 0o600 })
      fs.renameSync(partial, this.#pathOf(name))
    } catch (error) {
      this.#attempt(() => fs.rmSync(partial, { force: true }))
      this.#isWriting = false
      const reason = error instanceof Error ? error.message : String(error)
      this.wishes.log(`--kv-dir: no more KV is written, what is there is still read: ${reason}`)
      return false
    }
    this.#removeWithin(parent, tokens)
    this.#add({ ...name, bytes: bytes.length, usedMs: Date.now(), tokens: tokens.slice() })
    return true
  }

  /** What is in it are texts, so it is nobody else's to read. */
  #make(): void {
    if (!this.#isMade) fs.mkdirSync(this.wishes.folder, { recursive: true, mode: 0o700 })
    this.#isMade = true
  }

  /** Ends of texts that these tokens go on from: they are told by them now. */
  #removeWithin(parent: string, tokens: Int32Array): void {
    for (const entry of [...(this.#children.get(parent) ?? [])]) {
      const known = entry.tokens
      if (known === null || known.length >= tokens.length) continue
      if (agreement(known, tokens) < known.length) continue
      this.#attempt(() => fs.rmSync(this.#pathOf(entry), { force: true }))
      this.#drop(entry)
    }
  }

  #longest(parent: string, tokens: Int32Array): KvRun | null {
    const ends = [...(this.#children.get(parent) ?? [])]
    ends.sort((one, other) => other.usedMs - one.usedMs)
    let best: KvRun | null = null
    for (const entry of ends.slice(0, endsLookedInto)) {
      entry.tokens ??= this.#tokensOf(entry)
      const agreed = entry.tokens === null ? 0 : agreement(entry.tokens, tokens)
      if (agreed > (best?.agreed ?? 0)) best = { own: entry.own, count: entry.count, agreed }
    }
    return best
  }

  #tokensOf(entry: Entry): Int32Array | null {
    let tokens: Int32Array | null = null
    try {
      tokens = tokensIn(readBytes(this.#pathOf(entry), kvHeadBytes), entry)
    } catch {
      // Too short, or gone.
    }
    if (tokens === null) this.#tellDamaged(entry)
    return tokens
  }

  /** Takes note of files that have come and gone since. */
  #look(): void {
    const { folder, lookMs } = this.wishes
    const now = performance.now()
    if (this.#lookedAt !== '' && now - this.#lookedMs < lookMs) return
    this.#lookedMs = now
    try {
      const changed = String(fs.statSync(folder, { bigint: true }).mtimeNs)
      if (changed === this.#lookedAt) return
      this.#lookedAt = changed
      this.#list(fs.readdirSync(folder))
    } catch {
      // Gone or unreadable: what was known is found missing where it is read.
    }
  }

  #list(files: readonly string[]): void {
    const gone = new Set(this.#entries.keys())
    let foreign = 0
    for (const file of files) {
      const name = parseFile(file)
      if (name === null) {
        if (file.endsWith('.partial')) this.#removeAbandoned(file)
        else foreign += 1
      } else if (!gone.delete(name.own)) {
        const stat = fs.statSync(join(this.wishes.folder, file), { throwIfNoEntry: false })
        if (stat === undefined) continue
        this.#add({ ...name, bytes: stat.size, usedMs: stat.mtimeMs, tokens: null })
      }
    }
    for (const own of gone) {
      const entry = this.#entries.get(own)
      if (entry !== undefined) this.#drop(entry)
    }
    if (foreign > 0 && !this.#hasToldForeign) {
      this.#hasToldForeign = true
      this.wishes.log(`--kv-dir: ${foreign} files in it are not KV and are left alone`)
    }
  }

  #removeAbandoned(file: string): void {
    const path = join(this.wishes.folder, file)
    const stat = fs.statSync(path, { throwIfNoEntry: false })
    if (stat !== undefined && Date.now() - stat.mtimeMs > abandonedMs)
      this.#attempt(() => fs.rmSync(path, { force: true }))
  }

  /** Removes the least recently used ends of texts until so many bytes more may come. */
  #makeRoom(bytes: number): void {
    const { bytesMost } = this.wishes
    if (this.#bytes + bytes <= bytesMost) return
    const target = Math.max(0, bytesMost - bytes - removedShare * bytesMost)
    // A beginning is as good as the best of its ends, and goes after all of them.
    const uses = new Map<Entry, { ms: number; depth: number }>()
    for (const entry of this.#entries.values()) this.#raise(uses, entry)
    const order = [...uses].sort(
      ([, one], [, other]) => one.ms - other.ms || other.depth - one.depth,
    )
    for (const [entry] of order) {
      if (this.#bytes <= target) return
      fs.rmSync(this.#pathOf(entry), { force: true })
      this.#drop(entry)
    }
  }

  #raise(uses: Map<Entry, { ms: number; depth: number }>, entry: Entry): void {
    const line: Entry[] = []
    for (
      let at: Entry | undefined = entry;
      at !== undefined && line.length <= this.#entries.size;
      at = this.#entries.get(at.parent)
    )
      line.push(at)
    for (const [up, one] of line.entries()) {
      const use = uses.get(one)
      const ms = Math.max(use?.ms ?? one.usedMs, one.usedMs, entry.usedMs)
      uses.set(one, { ms, depth: line.length - up })
    }
  }

  #tellDamaged(entry: Entry): void {
    this.#damaged += 1
    if (this.#damaged === 1)
      this.wishes.log(`--kv-dir: ${fileOf(entry)} is damaged; it is removed, and computed anew`)
    this.#attempt(() => fs.rmSync(this.#pathOf(entry), { force: true }))
    this.#drop(entry)
  }

  #add(entry: Entry): void {
    this.#entries.set(entry.own, entry)
    const siblings = this.#children.get(entry.parent)
    if (siblings === undefined) this.#children.set(entry.parent, new Set([entry]))
    else siblings.add(entry)
    this.#bytes += entry.bytes
  }

  #drop(entry: Entry): void {
    if (!this.#entries.delete(entry.own)) return
    const siblings = this.#children.get(entry.parent)
    siblings?.delete(entry)
    if (siblings?.size === 0) this.#children.delete(entry.parent)
    this.#bytes -= entry.bytes
  }

  #pathOf(name: KvFileName): string {
    return join(this.wishes.folder, fileOf(name))
  }

  /** What may fail without harm. */
  #attempt(work: () => void): void {
    try {
      work()
    } catch {
      // Another process has been there first, or the folder is read-only by now.
    }
  }
}

function agreement(one: Int32Array, other: Int32Array): number {
  const most = Math.min(one.length, other.length)
  let count = 0
  while (count < most && one[count] === other[count]) count += 1
  return count
}

/** The first bytes of a file; throws where it has fewer. */
function readBytes(path: string, count: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(count)
  const descriptor = fs.openSync(path, 'r')
  try {
    for (let at = 0; at < count; ) {
      const read = fs.readSync(descriptor, bytes, at, count - at, at)
      if (read === 0) throw new Error('the file is shorter than it was')
      at += read
    }
    return bytes
  } finally {
    fs.closeSync(descriptor)
  }
}
