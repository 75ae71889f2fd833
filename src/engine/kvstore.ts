// KV on a drive, as the engine's thread sees it: blocks that were computed, or only those of sequences that
// give way, are copied out between steps and handed to a thread that writes them, as many as that takes;
// what a prompt lacks in memory is asked of it, and put into the sequence's blocks as it arrives, while
// others go on. It never waits for the drive unless it is told how long, and what does not come in time is
// computed.
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
  /**
   * Whose blocks are written: everybody's, or only those of sequences that give way before they are done.
   * The folder is then made when there is something to write. Absent: everybody's.
   */
  readonly kvDiskOf?: 'all' | 'parked' | undefined
}

export const defaultKvDiskBytes = 16 * 2 ** 30
/** A small part of what an NVMe drive writes, and more than a prompt of the largest model makes. */
const defaultKvDiskRate = 64e6

/** Throws ModelError where the folder cannot be used; it is made where it is missing. */
export function checkKvDir({ kvDir, kvDiskOf }: KvDiskWishes): void {
  if (kvDir === undefined || kvDiskOf === 'parked') return
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
  /** Tokens that were computed when it began. */
  readonly known: number
  /** Null: not known yet. */
  runs: readonly KvRun[] | null
  asked: number
  taken: number
  /** When something last arrived. */
  sinceMs: number
}

/** Called when a sequence may begin, with how many of its tokens came from the drive. */
export type OnReady = (sequence: Sequence, restored: number) => void

/**
 * Copies under way to the drive or from it, and their bytes at most, where one is not more. Where nobody
 * waits for a token they may take longer, and each turn shall save much of what others are about to take.
 */
const blocksUnderWay = 64
const bytesUnderWay = { all: 64 * 2 ** 20, parked: 256 * 2 ** 20 } as const
/** A drive that says nothing for so long is not waited for any more. */
const patienceMs = 10_000
/** What is left to write when the engine ends may take so long; of sequences that go on it saves much more. */
const closingMs = { all: 5000, parked: 30_000 } as const

export class KvStore {
  readonly #parts: KvStoreParts
  /** Milliseconds that writing a token's keys and values is given. */
  readonly msPerToken: number
  readonly #of: 'all' | 'parked'
  /** Null: nothing was asked of it yet. */
  #worker: Worker | null = null
  readonly #data: KvThreadData
  readonly #port: MessagePort
  readonly #own = new Int32Array(new SharedArrayBuffer(8))
  readonly #most: number
  readonly #fileBytes: number
  readonly #root: string
  readonly #names = new WeakMap<PrefixNode, string>()
  readonly #fetches = new Map<number, Fetch>()
  /** To be written, parents before children: of sequences that gave way, and all that was computed. */
  readonly #parked: PrefixNode[] = []
  readonly #computed: PrefixNode[] = []
  /** Those that were handed out, or came from the drive. */
  readonly #handed = new WeakSet<PrefixNode>()
  /** Sequences that gave way and were worth keeping. */
  readonly #kept = new WeakSet<Sequence>()
  /** Whether an earlier run may have left something. */
  readonly #wasThere: boolean
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
    this.#of = wishes.kvDiskOf ?? 'all'
    const most = Math.floor(bytesUnderWay[this.#of] / blockBytes)
    this.#most = Math.min(blocksUnderWay, Math.max(2, most))
    const bytesPerSecond = wishes.kvDiskRate ?? defaultKvDiskRate
    this.msPerToken = (parts.bytesPerToken / bytesPerSecond) * 1000
    this.#wasThere = fs.existsSync(folder)
    const { port1, port2 } = new MessageChannel()
    this.#port = port1
    this.#port.unref()
    this.#data = {
      ...{ folder, bytesPerSecond, of: this.#of },
      bytesMost: wishes.kvDiskBytes ?? defaultKvDiskBytes,
      port: port2,
      own: this.#own,
      wake: parts.wake,
      figures: parts.figures,
    }
    if (this.#of === 'all') this.#start()
  }

  /** A block was computed: it is written when there is room, if it is still there then. */
  offer(node: PrefixNode): void {
    if (this.#isWriting && this.#of === 'all') this.#computed.push(node)
  }

  /**
   * The sequence gives way and goes on later: what is not written of its whole blocks goes before all else,
   * the first of them at once, since others will take its room.
   */
  keep(sequence: Sequence): void {
    const { path } = sequence
    if (!this.#isWriting || path.length === 0) return
    this.#kept.add(sequence)
    this.#parked.push(...path.filter((node) => !this.#handed.has(node)))
    this.#write()
  }

  /** Asks for what the sequence lacks of its known tokens; false where nothing of it can be there. */
  fetch(sequence: Sequence): boolean {
    const { path, tokens, reusable, computed } = sequence
    if (reusable <= computed || this.#hasEnded || !this.#mayHave(sequence)) return false
    const id = ++this.#lastId
    const parent = this.#nameOf(path.at(-1) ?? null)
    const wanted = tokens.slice(path.length * kvBlockTokens, reusable)
    this.#tell({ kind: 'find', id, parent, tokens: wanted })
    const begun = { runs: null, asked: 0, taken: 0, sinceMs: performance.now() }
    this.#fetches.set(id, { sequence, known: computed, ...begun })
    return true
  }

  /** Where only those are written that gave way, an answer to a question about others is known. */
  #mayHave(sequence: Sequence): boolean {
    const goesOn = (sequence.request.drawnBefore?.length ?? 0) > 0
    return this.#of === 'all' || this.#kept.has(sequence) || (this.#wasThere && goesOn)
  }

  /** The sequence has ended: what still arrives for it is not taken. */
  forget(sequence: Sequence): void {
    for (const [id, fetch] of this.#fetches)
      if (fetch.sequence === sequence) this.#fetches.delete(id)
  }

  /** Between steps: takes what has arrived, waiting so long for more of it, and hands out what is to be written. */
  turn(tree: PrefixTree, onReady: OnReady, patience = 0): void {
    const untilMs = performance.now() + patience
    for (;;) {
      const seen = Atomics.load(this.#parts.wake, 0)
      for (let message = this.#receive(); message !== null; message = this.#receive())
        this.#take(message, tree, onReady)
      const leftMs = untilMs - performance.now()
      if (this.#fetches.size === 0 || leftMs <= 0 || this.#hasEnded) break
      Atomics.wait(this.#parts.wake, 0, seen, leftMs)
    }
    if (this.#fetches.size > 0) {
      const now = performance.now()
      for (const [id, { sinceMs, sequence, known }] of this.#fetches) {
        if (now - sinceMs < patienceMs && !this.#hasEnded) continue
        this.#parts.log('--kv-dir: what was asked for did not come, so the prompt is computed')
        this.#fetches.delete(id)
        onReady(sequence, sequence.computed - known)
      }
    }
    this.#write()
  }

  /** Writes what is left, for a few seconds at most, and ends the thread. */
  close(): void {
    const begin = performance.now()
    const left = () => closingMs[this.#of] - (performance.now() - begin)
    this.#fetches.clear()
    if (this.#worker === null) {
      this.#port.close()
      return
    }
    this.#tell({ kind: 'hurry' })
    let isTold = false
    while (left() > 0 && !this.#hasEnded) {
      const seen = Atomics.load(this.#parts.wake, 0)
      for (let message = this.#receive(); message !== null; message = this.#receive())
        if (message.kind === 'wrote') this.#giveBack(message)
        else if (message.kind === 'told') this.#parts.log(message.line)
      this.#write()
      if (this.#parked.length + this.#computed.length === 0 && !isTold) {
        isTold = true
        this.#tell({ kind: 'close' })
      }
      if (isTold) Atomics.wait(this.#own, 1, 0, 20)
      else Atomics.wait(this.#parts.wake, 0, seen, 20)
    }
    this.#port.close()
    void this.#worker.terminate()
  }

  #start(): void {
    this.#worker = new Worker(new URL('./kvstorethread.js', import.meta.url), {
      workerData: this.#data,
      transferList: [this.#data.port],
      execArgv: [],
    })
    // It says itself what went wrong.
    this.#worker.on('error', () => {})
    this.#worker.unref()
  }

  #take(message: FromKvThread, tree: PrefixTree, onReady: OnReady): void {
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
        onReady(fetch.sequence, fetch.sequence.computed - fetch.known)
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
    const node = sequence.path[at]
    if (node !== undefined) this.#handed.add(node)
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
    for (const nodes of [this.#parked, this.#computed]) {
      if (nodes.length === 0) continue
      let at = 0
      for (; at < nodes.length && this.#writing < this.#most; at += 1) {
        const node = nodes[at]
        if (node === undefined || !node.isKept || this.#handed.has(node)) continue
        if (!this.#hasEnded && !this.#hand(node)) at = nodes.length
      }
      nodes.splice(0, at)
    }
  }

  /** Copies a block out and gives it to the thread; false: the device gives none any more. */
  #hand(node: PrefixNode): boolean {
    const { block, parent, tokens } = node
    const bytes = this.#spare.pop() ?? new Uint8Array(this.#fileBytes)
    const length = kvHeadBytes + tokens.length * this.#parts.bytesPerToken
    try {
      this.#parts.device.readBlock(block, tokens.length, bytes.subarray(kvHeadBytes, length))
    } catch (error) {
      if (!isDeviceError(error)) throw error
      return false
    }
    this.#writing += 1
    this.#handed.add(node)
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
    if (!this.#isWriting) {
      this.#parked.length = 0
      this.#computed.length = 0
    }
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
    if (this.#worker === null) this.#start()
    this.#port.postMessage(message, transfer)
    Atomics.add(this.#own, 0, 1)
    Atomics.notify(this.#own, 0)
  }
}
