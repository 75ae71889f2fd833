// The thread that reads and writes KV on a drive: a plain loop over messages, so that the engine's
// thread never waits for the drive. What is looked for and read goes first; writing waits for its turn
// and keeps to a rate, since experts come from the same drive.
import { type MessagePort, receiveMessageOnPort, workerData } from 'node:worker_threads'
import { KvFolder, type KvRun } from './kvfolder.js'
import { KvFigure } from './stats.js'

export interface KvThreadData {
  readonly folder: string
  readonly bytesMost: number
  /** Whose blocks: everybody's, or those of sequences that give way and will ask for them. */
  readonly of: 'all' | 'parked'
  /** Of writing. */
  readonly bytesPerSecond: number
  readonly port: MessagePort
  /** Word 0 changes with every message to this thread, word 1 is 1 when it has ended. */
  readonly own: Int32Array
  /** The word that wakes the engine's thread. */
  readonly wake: Int32Array
  /** [KvFigure.count] */
  readonly figures: Float64Array
}

export type ToKvThread =
  | {
      readonly kind: 'find'
      readonly id: number
      readonly parent: string
      readonly tokens: Int32Array
    }
  | { readonly kind: 'read'; readonly id: number; readonly own: string }
  | {
      readonly kind: 'write'
      readonly parent: string
      readonly tokens: Int32Array
      readonly bytes: Uint8Array<ArrayBuffer>
      /** Of them, how many are the file. */
      readonly length: number
    }
  /** Nobody else wants the drive any more: write without a pause. */
  | { readonly kind: 'hurry' }
  /** Write what is left, then end. */
  | { readonly kind: 'close' }

export type FromKvThread =
  | { readonly kind: 'found'; readonly id: number; readonly runs: readonly KvRun[] }
  /** Null: gone or damaged. */
  | { readonly kind: 'read'; readonly id: number; readonly bytes: Uint8Array<ArrayBuffer> | null }
  /** Gives the bytes back, to be filled again; `isWriting`: whether more would be written. */
  | {
      readonly kind: 'wrote'
      readonly bytes: Uint8Array<ArrayBuffer>
      readonly isWriting: boolean
    }
  | { readonly kind: 'told'; readonly line: string }

type Write = Extract<ToKvThread, { kind: 'write' }>

const data = workerData as KvThreadData
const { folder, bytesMost, bytesPerSecond, port, own, wake, figures } = data
/** Other processes' files show after so long. */
const lookMs = 1000
const writes: Write[] = []
let isHurried = false
const kept = new KvFolder({
  folder,
  bytesMost,
  makesFolder: data.of === 'parked',
  lookMs,
  log: (line) => send({ kind: 'told', line }),
})

function send(message: FromKvThread, transfer: ArrayBuffer[] = []): void {
  port.postMessage(message, transfer)
  Atomics.add(wake, 0, 1)
  Atomics.notify(wake, 0)
}

function count(figure: number, amount: number): void {
  figures[figure] = (figures[figure] ?? 0) + amount
}

function publish(): void {
  const { files, bytes, damaged } = kept.figures
  figures[KvFigure.diskBlocks] = files
  figures[KvFigure.diskBytes] = bytes
  figures[KvFigure.damaged] = damaged
}

/** Answers everything that has arrived, and lists what is to be written; false: to be closed. */
function drain(): boolean {
  for (;;) {
    const received: { message: ToKvThread } | undefined = receiveMessageOnPort(port)
    if (received === undefined) return true
    const { message } = received
    if (message.kind === 'close') return false
    if (message.kind === 'hurry') isHurried = true
    else if (message.kind === 'write') writes.push(message)
    else if (message.kind === 'find') {
      const { id, parent, tokens } = message
      // What is asked for may wait to be written.
      if (data.of === 'parked') writeAll()
      send({ kind: 'found', id, runs: kept.find(parent, tokens) })
    } else {
      const bytes = kept.read(message.own)
      count(KvFigure.bytesRead, bytes?.length ?? 0)
      send({ kind: 'read', id: message.id, bytes }, bytes === null ? [] : [bytes.buffer])
    }
  }
}

/** Writes the oldest; returns its bytes. */
function writeOne(): number {
  const next = writes.shift()
  if (next === undefined) return 0
  const { parent, tokens, bytes, length } = next
  const before = kept.figures.bytes
  kept.write(parent, tokens, bytes.subarray(0, length))
  if (kept.figures.bytes > before) count(KvFigure.bytesWritten, length)
  send({ kind: 'wrote', bytes, isWriting: kept.isWriting }, [bytes.buffer])
  return length
}

function writeAll(): void {
  while (writes.length > 0) writeOne()
}

function work(): void {
  let freeMs = 0
  for (;;) {
    const seen = Atomics.load(own, 0)
    if (!drain()) break
    const pauseMs = isHurried ? 0 : freeMs - performance.now()
    if (writes.length > 0 && pauseMs <= 0) {
      const bytes = writeOne()
      freeMs = Math.max(freeMs, performance.now() - 1000) + (bytes / bytesPerSecond) * 1000
    } else Atomics.wait(own, 0, seen, writes.length > 0 ? pauseMs : undefined)
    publish()
  }
  writeAll()
  publish()
}

try {
  publish()
  work()
} catch (error) {
  // The folder's troubles are dealt with where they arise; this is a fault of ours, and costs speed only.
  send({ kind: 'told', line: `--kv-dir: is not used any more: ${String(error)}` })
}
port.close()
Atomics.store(own, 1, 1)
Atomics.notify(own, 1)
