// The threads that follow grammars, as the main thread sees them: a few, started when they are wanted, so
// that a schema that is slow to compile keeps nobody waiting but those whose grammars lie in the same
// thread. A piece of work that takes too long, or harms the library, ends its thread: whoever wanted it
// is refused, and the others are followed anew from their first token by another thread. It knows no steps
// and no HTTP.
import { MessageChannel, type MessagePort, Worker } from 'node:worker_threads'
import type { ModelConfig } from '../model/config.js'
import { grammarsKept } from './grammar.js'
import { AtWork, type GrammarSeat, newSeat, refuse, ring } from './grammarseat.js'
import type { FromGrammarThread, GrammarThreadData, ToGrammarThread } from './grammarthread.js'

/** What of a model grammars are made for. */
export type GrammarModel = Pick<ModelConfig, 'vocabulary' | 'eosIds'>

const threadsMost = 2
/** For one piece of work; the first of a thread has its start in it. */
const patienceMs = 5_000
const lookEveryMs = 250
/** As often something is begun anew after others have ended its thread. */
const triesMost = 3

/** What is asked of a thread. */
interface Task {
  readonly schema: string
  readonly model: GrammarModel
  tries: number
  /** Where a sequence is to be followed. */
  readonly seat: GrammarSeat | null
  /** Hears why it cannot be done; null: it can. */
  readonly answer: (failure: string | null) => void
}

interface Thread {
  readonly worker: Worker
  readonly port: MessagePort
  readonly atWork: Int32Array
  /** What is asked of it and not over, by number. */
  readonly tasks: Map<number, Task>
  /** What it has compiled of late, or will. */
  readonly schemas: Set<string>
  /** What it had done when it was last seen to get on, and when. */
  seen: { done: number; sinceMs: number }
}

/** One sequence's place, as the engine has it. */
export interface Seated {
  readonly seat: GrammarSeat
  /** The sequence is over. */
  leave(): void
}

export class GrammarThreads {
  readonly #threads: Thread[] = []
  readonly #bell = new Int32Array(new SharedArrayBuffer(4))
  #lastNumber = 0
  #timer: NodeJS.Timeout | undefined
  #isClosed = false

  constructor(private readonly folder: string) {}

  /** Schemas that are being tried. */
  get trying(): number {
    const tasks = this.#threads.flatMap((thread) => [...thread.tasks.values()])
    return tasks.filter(({ seat }) => seat === null).length
  }

  /** Compiles a schema; returns why an answer cannot be held to it, or null. */
  tried(schema: string, model: GrammarModel): Promise<string | null> {
    return new Promise((answer) => {
      this.#begin(this.#next(), { schema, model, tries: 0, seat: null, answer })
    })
  }

  /** Has a sequence followed; `wake`: a word of the engine's thread that changes with every mask. */
  sit(schema: string, model: GrammarModel, tokensMost: number, wake: Int32Array): Seated {
    const seat = newSeat(model.vocabulary, tokensMost, this.#bell, wake)
    const number = this.#next()
    this.#begin(number, { schema, model, tries: 0, seat, answer: () => refuse(seat) })
    return { seat, leave: () => this.#leave(number) }
  }

  /** Ends all; what is still asked is refused. May be called again. */
  async close(): Promise<void> {
    this.#isClosed = true
    await Promise.all([...this.#threads].map((thread) => this.#end(thread, false)))
  }

  #next(): number {
    this.#lastNumber += 1
    return this.#lastNumber
  }

  #begin(number: number, task: Task): void {
    if (this.#isClosed) {
      task.answer(unable)
      return
    }
    const { schema, model, seat } = task
    const thread = this.#threadFor(schema, model)
    thread.tasks.set(number, task)
    const asked = { number, schema, stopIds: model.eosIds }
    this.#tell(
      thread,
      seat === null ? { ...asked, kind: 'try' } : { ...asked, kind: 'follow', seat },
    )
  }

  #leave(number: number): void {
    const thread = this.#threads.find(({ tasks }) => tasks.has(number))
    if (thread === undefined) return
    thread.tasks.delete(number)
    this.#tell(thread, { kind: 'leave', number })
  }

  #tell({ port }: Thread, message: ToGrammarThread): void {
    port.postMessage(message)
    ring(this.#bell)
  }

  /** Where its grammar lies, or the least is going on. */
  #threadFor(schema: string, { vocabulary }: GrammarModel): Thread {
    const knowing = this.#threads.find(({ schemas }) => schemas.has(schema))
    const [least] = [...this.#threads].sort((a, b) => a.tasks.size - b.tasks.size)
    const isFull = this.#threads.length >= threadsMost
    const isUsable = least !== undefined && (isFull || least.tasks.size === 0)
    const thread = knowing ?? (isUsable ? least : this.#start(vocabulary))
    thread.schemas.delete(schema)
    thread.schemas.add(schema)
    const [oldest] = thread.schemas
    if (thread.schemas.size > grammarsKept && oldest !== undefined) thread.schemas.delete(oldest)
    return thread
  }

  #start(vocabulary: number): Thread {
    const { port1, port2 } = new MessageChannel()
    const atWork = new Int32Array(new SharedArrayBuffer(AtWork.count * 4))
    const data: GrammarThreadData = {
      ...{ folder: this.folder, vocabulary, port: port2, bell: this.#bell, atWork },
    }
    const worker = new Worker(new URL('./grammarthread.js', import.meta.url), {
      workerData: data,
      transferList: [port2],
      execArgv: [],
      stdout: true,
      stderr: true,
    })
    // What the library says as it breaks quotes schemas, and is for nobody.
    worker.stdout.resume()
    worker.stderr.resume()
    const seen = { done: 0, sinceMs: performance.now() }
    const thread: Thread = {
      ...{ worker, port: port1, atWork, seen },
      ...{ tasks: new Map<number, Task>(), schemas: new Set<string>() },
    }
    port1.on('message', ({ number, failure }: FromGrammarThread) => {
      const task = thread.tasks.get(number)
      thread.tasks.delete(number)
      task?.answer(failure)
    })
    worker.on('error', () => void this.#end(thread, false))
    this.#threads.push(thread)
    this.#timer ??= setInterval(() => this.#look(), lookEveryMs).unref()
    return thread
  }

  /** Ends threads that do not get on with what they are at. */
  #look(): void {
    const nowMs = performance.now()
    for (const thread of [...this.#threads]) {
      const done = Atomics.load(thread.atWork, AtWork.done)
      const isAtWork = Atomics.load(thread.atWork, AtWork.number) !== 0
      if (!isAtWork || done !== thread.seen.done) thread.seen = { done, sinceMs: nowMs }
      else if (nowMs - thread.seen.sinceMs > patienceMs) void this.#end(thread, true)
    }
  }

  /** Ends a thread; what it was at is refused, all else is begun anew in another. */
  async #end(thread: Thread, isSlow: boolean): Promise<void> {
    const at = this.#threads.indexOf(thread)
    if (at < 0) return
    this.#threads.splice(at, 1)
    if (this.#threads.length === 0) {
      clearInterval(this.#timer)
      this.#timer = undefined
    }
    const guilty = Atomics.load(thread.atWork, AtWork.number)
    const ended = thread.worker.terminate()
    thread.port.close()
    for (const [number, task] of thread.tasks) {
      task.tries += 1
      if (number === guilty) task.answer(isSlow ? 'takes too long to compile' : unable)
      else if (task.tries > triesMost) task.answer(unable)
      else this.#begin(number, task)
    }
    await ended
  }
}

const unable = 'cannot be followed by this server'
