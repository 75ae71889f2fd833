// KV on a drive, as the engine's thread sees it: blocks that were computed are copied out between steps
// and handed to a thread that writes them, as many as that takes; what a prompt lacks in memory is asked
// of it, and put into the sequence's blocks as it arrives, while others go on. It never waits for the
// drive, and what does not come in time is computed.
import fs from 'node:fs'
import { MessageChannel, type MessagePort, receiveMessageOnPort, Worker } from 'node:worker_threads'
import { type Device, isDeviceError } from '../../native/index.js'
import { ModelError } from '../model/error.js'
import { kvBlockTokens } from './kv.js'
import { kvHeadBytes, rootName, runName } from './kvfile.js'
import type { KvRun } from './kvfolder.js'
import type { FromKvThread, KvThreadData, ToKvThread } from './kvstorethread.js'
import { reasonOf } from './manifest.js'
import type { PrefixNode, PrefixTree } from './prefix.js'
import type { Sequence } from './sequence.js'

export interface KvDiskWishes {
  /** Where KV is kept on a drive; absent: nowhere. */
  readonly kvDir?: string | undefined
  /** Most bytes there. */
  readonly kvDiskBytes?: number | undefined
  /** Most bytes written in a second. */
  readonly kvDiskRate?: number | undefined
}

const defaultKvDiskBytes = 16 * 2 ** 30
/** A small part of what an NVMe drive writes, and more than a prompt of the largest model makes. */
const defaultKvDiskRate = 64e6

/** Throws ModelError where the folder cannot be used; it is made where it is missing. */
export function checkKvDir({ kvDir }: KvDiskWishes): void {
  if (kvDir === undefined) return
  try {
    // What lies there tells what was asked.
    fs.mkdirSync(kvDir, { recursive: true, mode: 0o700 })
    fs.accessSync(kvDir, fs.constants.R_OK | fs.constants.W_OK | fs.constants.X_OK)
  } catch (error) {
    throw new ModelError(`--kv-dir ${kvDir}: cannot be used: ${reasonOf(error)}`)
  }
}

/** What a store is made for. */
export interface KvStoreParts {
  readonly device: Device
  /** Everything that keys and values depend on besides tokens. */
  readonly identity: string
  readonly bytesPerToken: number
  /** Wakes this thread when something has arrived. */
  readonly wake: Int32Array
  /** [KvFigure.count] */
  readonly figures: Float64Array
  readonly log: (line: string) => void
}

/** A sequence whose beginning is being read. */
interface Fetch {
  readonly sequence: Sequence
  /** Null: not known yet. */
  runs: readonly KvRun[] | null
  asked: number
  taken: number
  /** When something last arrived. */
  sinceMs: number
}

/** Copies under way to the drive or from it, and their bytes at most, where one is not more. */
const blocksUnderWay = 64
const bytesUnderWay = 64 * 2 ** 20
/** A drive that says nothing for so long is not waited for any more. */
const patienceMs = 10_000
/** What is left to write when the engine ends may take so long. */
const closingMs = 5000

export class KvStore {
  readonly #parts: KvStoreParts
  readonly #worker: Worker
  readonly #port: MessagePort
  readonly #own = new Int32Array(new SharedArrayBuffer(8))
  readonly #most: number
  readonly #fileBytes: number
  readonly #root: string
  readonly #names = new WeakMap<PrefixNode, string>()
  readonly #fetches = new Map<number, Fetch>()
  /** Computed and not written, parents before children. */
  #unwritten: PrefixNode[] = []
  /** Room for a block each, free to be filled. */
  readonly #spare: Uint8Array<ArrayBuffer>[] = []
  #writing = 0
  #isWriting = true
  #lastId = 0

  constructor(folder: string, wishes: KvDiskWishes, parts: KvStoreParts) {
    this.#parts = parts
    this.#root = rootName(parts.identity)
    const blockBytes = parts.bytesPerToken * kvBlockTokens
    this.#fileBytes = kvHeadBytes + blockBytes
    this.#most = Math.min(blocksUnderWay, Math.max(2, Math.floor(bytesUnderWay / blockBytes)))
    const { port1, port2 } = new MessageChannel()
    this.#port = port1
    const data: KvThreadData = {
      folder,
      bytesMost: wishes.kvDiskBytes ?? defaultKvDiskBytes,
      bytesPerSecond: wishes.kvDiskRate ?? defaultKvDiskRate,
      port: port2,
      own: this.#own,
      wake: parts.wake,
      figures: parts.figures,
    }
    this.#worker = new Worker(new URL('./kvstorethread.js', import.meta.url), {
      workerData: data,
      transferList: [port2],
      execArgv: [],
    })
    // It says itself what went wrong.
    this.#worker.on('error', () => {})
    this.#worker.unref()
    this.#port.unref()
  }

  /** A block was computed: it is written when there is room, if it is still there then. */
  offer(node: PrefixNode): void {
    if (this.#isWriting) this.#unwritten.push(node)
  }

  /** Asks for what the sequence's prompt lacks; false where it lacks nothing. */
  fetch(sequence: Sequence): boolean {
    const { path, tokens, reusable, computed } = sequence
    if (reusable <= computed || this.#hasEnded) return false
    const id = ++this.#lastId
    const parent = this.#nameOf(path.at(-1) ?? null)
    const wanted = tokens.slice(path.length * kvBlockTokens, reusable)
    this.#tell({ kind: 'find', id, parent, tokens: wanted })
    const fetch = { sequence, runs: null, asked: 0, taken: 0, sinceMs: performance.now() }
    this.#fetches.set(id, fetch)
    return true
  }

  /** The sequence has ended: what still arrives for it is not taken. */
  forget(sequence: Sequence): void {
    for (const [id, fetch] of this.#fetches)
      if (fetch.sequence === sequence) this.#fetches.delete(id)
  }

  /** Between steps: takes what has arrived, hands out what is to be written. `onReady`: it may begin. */
  turn(tree: PrefixTree, onReady: (sequence: Sequence) => void): void {
    for (let message = this.#receive(); message !== null; message = this.#receive())
      this.#take(message, tree, onReady)
    if (this.#fetches.size > 0) {
      const now = performance.now()
      for (const [id, { sinceMs, sequence }] of this.#fetches) {
        if (now - sinceMs < patienceMs && !this.#hasEnded) continue
        this.#parts.log('--kv-dir: what was asked for did not come, so the prompt is computed')
        this.#fetches.delete(id)
        onReady(sequence)
      }
    }
    this.#write()
  }

  /** Writes what is left, for a few seconds at most, and ends the thread. */
  close(): void {
    const begin = performance.now()
    const left = () => closingMs - (performance.now() - begin)
    this.#fetches.clear()
    this.#tell({ kind: 'hurry' })
    let isTold = false
    while (left() > 0 && !this.#hasEnded) {
      const seen = Atomics.load(this.#parts.wake, 0)
      for (let message = this.#receive(); message !== null; message = this.#receive())
        if (message.kind === 'wrote') this.#giveBack(message)
        else if (message.kind === 'told') this.#parts.log(message.line)
      this.#write()
      if (this.#unwritten.length === 0 && !isTold) {
        isTold = true
        this.#tell({ kind: 'close' })
      }
      if (isTold) Atomics.wait(this.#own, 1, 0, 20)
      else Atomics.wait(this.#parts.wake, 0, seen, 20)
    }
    this.#port.close()
    void this.#worker.terminate()
  }

  #take(message: FromKvThread, tree: PrefixTree, onReady: (sequence: Sequence) => void): void {
    if (message.kind === 'told') this.#parts.log(message.line)
    else if (message.kind === 'wrote') this.#giveBack(message)
    else {
      const fetch = this.#fetches.get(message.id)
      if (fetch === undefined) return
      fetch.sinceMs = performance.now()
      const isGoingOn =
        message.kind === 'found'
          ? this.#begin(fetch, message.runs)
          : this.#put(fetch, message.bytes, tree)
      if (isGoingOn) this.#ask(message.id, fetch)
      else {
        this.#fetches.delete(message.id)
        onReady(fetch.sequence)
      }
    }
  }

  /** Whether what was found is more than what is known. */
  #begin(fetch: Fetch, runs: readonly KvRun[]): boolean {
    fetch.runs = runs
    const { path, computed } = fetch.sequence
    const agreed = runs.reduce((sum, run) => sum + run.agreed, 0)
    return path.length * kvBlockTokens + agreed > computed
  }

  /** Puts the next block into the sequence; whether there are more. */
  #put(fetch: Fetch, bytes: Uint8Array | null, tree: PrefixTree): boolean {
    const { sequence, runs } = fetch
    const run = runs?.[fetch.taken]
    if (bytes === null || run === undefined) return false
    const content = bytes.subarray(kvHeadBytes)
    if (content.length !== run.count * this.#parts.bytesPerToken) return false
    const at = sequence.path.length
    const known = at * kvBlockTokens + run.agreed
    if (known > sequence.computed) {
      this.#parts.device.writeBlock(sequence.blocks[at] ?? -1, run.count, content)
      sequence.reuse(known)
    }
    tree.grow(sequence, false)
    fetch.taken += 1
    return fetch.taken < (runs?.length ?? 0)
  }

  #ask(id: number, fetch: Fetch): void {
    const runs = fetch.runs ?? []
    while (fetch.asked < runs.length && fetch.asked - fetch.taken < this.#most) {
      this.#tell({ kind: 'read', id, own: runs[fetch.asked]?.own ?? '' })
      fetch.asked += 1
    }
  }

  #write(): void {
    if (this.#unwritten.length === 0 || this.#writing >= this.#most) return
    let at = 0
    for (; at < this.#unwritten.length && this.#writing < this.#most; at += 1) {
      const node = this.#unwritten[at]
      if (node?.isKept && !this.#hasEnded && !this.#hand(node)) at = this.#unwritten.length
    }
    this.#unwritten = this.#unwritten.slice(at)
  }

  /** Copies a block out and gives it to the thread; false: the device gives none any more. */
  #hand({ block, parent, tokens }: PrefixNode): boolean {
    const bytes = this.#spare.pop() ?? new Uint8Array(this.#fileBytes)
    const length = kvHeadBytes + tokens.length * this.#parts.bytesPerToken
    try {
      this.#parts.device.readBlock(block, tokens.length, bytes.subarray(kvHeadBytes, length))
    } catch (error) {
      if (!isDeviceError(error)) throw error
      return false
    }
    this.#writing += 1
    this.#tell({ kind: 'write', parent: this.#nameOf(parent), tokens, bytes, length }, [
      bytes.buffer,
    ])
    return true
  }

  /** The thread is gone, of itself. */
  get #hasEnded(): boolean {
    return Atomics.load(this.#own, 1) !== 0
  }

  #giveBack({ bytes, isWriting }: Extract<FromKvThread, { kind: 'wrote' }>): void {
    this.#writing -= 1
    this.#isWriting &&= isWriting
    if (!this.#isWriting) this.#unwritten = []
    if (this.#spare.length < this.#most) this.#spare.push(bytes)
  }

  /** Null, or a node without tokens: where all texts begin. */
  #nameOf(node: PrefixNode | null): string {
    if (node === null || node.tokens.length === 0) return this.#root
    const known = this.#names.get(node)
    if (known !== undefined) return known
    const name = runName(this.#nameOf(node.parent), node.tokens)
    this.#names.set(node, name)
    return name
  }

  #receive(): FromKvThread | null {
    const received: { message: FromKvThread } | undefined = receiveMessageOnPort(this.#port)
    return received?.message ?? null
  }

  #tell(message: ToKvThread, transfer: ArrayBuffer[] = []): void {
    this.#port.postMessage(message, transfer)
    Atomics.add(this.#own, 0, 1)
    Atomics.notify(this.#own, 0)
  }
}
