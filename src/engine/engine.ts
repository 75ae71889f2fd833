// The engine's face on the main thread: open a model, generate, score, close. It owns the thread that
// steps, hands out the numbered slots by which requests are cancelled, and turns what that thread
// reports into async iterators. Text is not known here: tokens in, tokens out.
import { MessageChannel, type MessagePort, receiveMessageOnPort, Worker } from 'node:worker_threads'
import { Control } from '../../native/index.js'
import { ModelError } from '../model/error.js'
import { SequenceField } from './activity.js'
import type { GrammarSeat } from './grammarseat.js'
import type { GrammarThreads, Seated } from './grammarthreads.js'
import { Learner } from './learner.js'
import type { Emission, Ending } from './loop.js'
import type { OpenWishes } from './open.js'
import {
  CancelFlag,
  type EngineFacts,
  type FromWorker,
  type ToWorker,
  type WorkerData,
} from './protocol.js'
import type { Request } from './sequence.js'
import { FillFigure } from './stats.js'

export interface EngineWishes extends Omit<OpenWishes, 'control' | 'wake' | 'log'> {
  /** Record routing into this file. */
  readonly tracePath?: string | undefined
  /** Of the time, from 0 to below 1, what sequences that draw keep while prompts are read. */
  readonly drawShare?: number | undefined
  /**
   * Of the sequences that there is room for, how many share a step at first; how many then is found by trying.
   * Absent: always all.
   */
  readonly sequencesAtFirst?: number | undefined
  /** Holds answers to grammars; absent: no request may have one. They outlive the engine. */
  readonly grammars?: GrammarThreads | undefined
  /** Requests that wait in the engine's thread, so that no step waits for this one; absent: none. */
  readonly waiting?: number | undefined
}

/** A request in work: iterate it for its tokens, then read `ending`. */
export class Generation implements AsyncIterable<Emission> {
  readonly ending: Promise<Ending>
  readonly #arrived: Emission[] = []
  #wake: () => void = () => {}
  #settle: (ending: Ending) => void = () => {}
  #reject: (error: Error) => void = () => {}
  #over = false

  constructor(private readonly cancelSlot: (flag: number) => void) {
    this.ending = new Promise((resolve, reject) => {
      this.#settle = resolve
      this.#reject = reject
    })
    // Whoever iterates learns of an error there; nobody has to await both.
    this.ending.catch(() => {})
  }

  /**
   * Asks for an early end; `ending` then says cancelled, within a layer's time. `goesOn`: it will be asked
   * for again with what it has drawn, so its keys and values are kept where there is a place for them.
   */
  cancel(goesOn = false): void {
    if (!this.#over) this.cancelSlot(goesOn ? CancelFlag.forNow : CancelFlag.forGood)
  }

  /** @internal called by the engine */
  push(emission: Emission): void {
    this.#arrived.push(emission)
    this.#wake()
  }

  /** @internal called by the engine */
  end(result: Ending | Error): void {
    this.#over = true
    if (result instanceof Error) this.#reject(result)
    else this.#settle(result)
    this.#wake()
  }

  async *[Symbol.asyncIterator](): AsyncIterator<Emission> {
    for (;;) {
      const next = this.#arrived.shift()
      if (next !== undefined) {
        yield next
      } else if (this.#over) {
        await this.ending
        return
      } else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve
        })
      }
    }
  }
}

export class Engine {
  /** Hears every drawn token with the number of its request in the counters; set it where one watches. */
  onToken: ((number: number, token: number) => void) | null = null
  readonly #worker: Worker
  readonly #port: MessagePort
  readonly #control: Int32Array
  readonly #wakeWord: Int32Array
  readonly #generations = new Map<number, Generation>()
  /** By slot, where grammars are followed. */
  readonly #seats = new Map<number, Seated>()
  readonly #grammars: GrammarThreads | null
  readonly #freeSlots: number[]
  readonly #queue: { request: Request; generation: Generation }[] = []
  #toCome = 0
  /** Settles once the thread is gone: why it ended by itself, or null after `close`. */
  readonly lost: Promise<Error | null>
  #isClosing = false
  #facts: EngineFacts | null = null
  #learner: Learner | null = null
  #fault: Error | null = null
  /** Why something that was recorded could not be written. */
  #unwritten: Error | null = null

  /**
   * Starts the thread and opens the model in it; `log` hears what a person should know while it is
   * open. Throws ModelError when it cannot be opened.
   */
  static async open(
    folder: string,
    wishes: EngineWishes = {},
    log: (line: string) => void = () => {},
  ): Promise<Engine> {
    const engine = new Engine(folder, wishes, log)
    await engine.#ready
    return engine
  }

  readonly #ready: Promise<void>
  #opened: { resolve: () => void; reject: (error: Error) => void } = {
    resolve: () => {},
    reject: () => {},
  }

  private constructor(
    folder: string,
    { grammars, ...wishes }: EngineWishes,
    private readonly log: (line: string) => void,
  ) {
    const slots = (wishes.sequences ?? 1) + (wishes.waiting ?? 0)
    this.#grammars = grammars ?? null
    this.#control = sharedWords(Control.cancel + slots)
    this.#wakeWord = sharedWords(1)
    this.#freeSlots = Array.from({ length: slots }, (_, slot) => slots - 1 - slot)
    const { port1, port2 } = new MessageChannel()
    this.#port = port1
    const data: WorkerData = {
      folder,
      wishes,
      tracePath: wishes.tracePath,
      drawShare: wishes.drawShare,
      sequencesAtFirst: wishes.sequencesAtFirst,
      control: this.#control,
      wake: this.#wakeWord,
      port: port2,
    }
    this.#worker = new Worker(new URL('./worker.js', import.meta.url), {
      workerData: data,
      transferList: [port2],
      // Options of the main program (its input type, say) are not the thread's.
      execArgv: [],
    })
    this.#ready = new Promise((resolve, reject) => {
      this.#opened = { resolve, reject }
    })
    this.#port.on('message', (message: FromWorker) => this.#take(message))
    this.#worker.on('error', (error) => {
      this.#fault = error
      this.#opened.reject(error)
    })
    this.lost = new Promise((resolve) => {
      this.#worker.on('exit', () => {
        // The thread's last words may still be on their way.
        for (let last = this.#receive(); last !== null; last = this.#receive()) this.#take(last)
        if (!this.#isClosing) this.#fault ??= new ModelError("the engine's thread ended by itself")
        this.#endAll()
        this.#port.close()
        process.removeListener('exit', this.#cancelAll)
        resolve(this.#isClosing ? null : this.#fault)
      })
    })
    // A process that ends without closing must not wait for a step of minutes.
    process.once('exit', this.#cancelAll)
  }

  get facts(): EngineFacts {
    if (this.#facts === null) throw new Error('the engine is not open')
    return this.#facts
  }

  /** Starts a request, or queues it behind those in work. Throws ModelError when it cannot fit. */
  generate(request: Request): Generation {
    if (this.#fault !== null) throw this.#fault
    this.#check(request)
    const generation: Generation = new Generation((flag) => this.#cancel(generation, flag))
    this.#queue.push({ request, generation })
    this.#startQueued()
    return generation
  }

  /** So many requests will come beyond those that did; only figures of how full steps are go by it. */
  expect(count: number): void {
    this.#toCome = count
    this.#countToCome()
  }

  /** Asks for an early end of the request that has this place and number in the counters, if it is in work. */
  cancelNumber(slot: number, number: number): boolean {
    if (!this.#generations.has(slot) || this.#numberAt(slot) !== number) return false
    Atomics.store(this.#control, Control.cancel + slot, CancelFlag.forGood)
    return true
  }

  /**
   * Ends all requests and the thread. May be called again. Throws ModelError when what was recorded
   * could not be written.
   */
  async close(): Promise<void> {
    this.#isClosing = true
    this.#cancelAll()
    this.#tell({ kind: 'close' })
    await this.lost
    await this.#learner?.close()
    if (this.#unwritten !== null) throw this.#unwritten
  }

  readonly #cancelAll = (): void => {
    for (let word = Control.cancel; word < this.#control.length; word += 1) {
      Atomics.store(this.#control, word, CancelFlag.forGood)
    }
  }

  #check(request: Request): void {
    const { contextTokens } = this.facts.plan
    const promptTokens = request.prompt.length
    if (promptTokens === 0)
      throw new ModelError('the prompt is empty: it has no token to start from')
    if (request.grammar !== undefined && this.#grammars === null) {
      throw new ModelError('the engine was opened without what follows grammars')
    }
    const drawnBefore = request.drawnBefore?.length ?? 0
    if (drawnBefore > 0 && drawnBefore >= request.maxTokens) {
      throw new ModelError(`${drawnBefore} tokens were drawn before, of ${request.maxTokens}`)
    }
    if (promptTokens + request.maxTokens > contextTokens) {
      throw new ModelError(
        `the prompt has ${promptTokens} tokens and ${request.maxTokens} more are asked for, but the context holds ${contextTokens} (--ctx-size)`,
      )
    }
  }

  #startQueued(): void {
    while (this.#queue.length > 0 && this.#freeSlots.length > 0 && this.#fault === null) {
      const slot = this.#freeSlots.pop()
      const next = this.#queue.shift()
      if (slot === undefined || next === undefined) break
      Atomics.store(this.#control, Control.cancel + slot, CancelFlag.no)
      this.#generations.set(slot, next.generation)
      this.#tell({
        kind: 'request',
        slot,
        request: next.request,
        seat: this.#sit(slot, next.request),
      })
    }
    this.#countToCome()
  }

  #countToCome(): void {
    this.facts.counters.fill[FillFigure.toCome] = this.#toCome + this.#queue.length
  }

  #sit(slot: number, { grammar, maxTokens }: Request): GrammarSeat | null {
    if (grammar === undefined || this.#grammars === null) return null
    const { config } = this.facts
    const seated = this.#grammars.sit(grammar.schema, config, maxTokens, this.#wakeWord)
    this.#seats.set(slot, seated)
    return seated.seat
  }

  #leave(slot: number): void {
    this.#seats.get(slot)?.leave()
    this.#seats.delete(slot)
  }

  #cancel(generation: Generation, flag: number): void {
    for (const [slot, candidate] of this.#generations) {
      if (candidate === generation) Atomics.store(this.#control, Control.cancel + slot, flag)
    }
    const queued = this.#queue.findIndex((entry) => entry.generation === generation)
    const entry = this.#queue[queued]
    if (entry === undefined) return
    this.#queue.splice(queued, 1)
    generation.end(endingOfUnstarted(entry.request))
  }

  #take(message: FromWorker): void {
    switch (message.kind) {
      case 'ready':
        this.#facts = message.facts
        if (message.facts.forecast !== null) this.#learner = new Learner(message.facts.forecast)
        this.#opened.resolve()
        break
      case 'refused':
        this.#opened.reject(new ModelError(message.message))
        break
      case 'lost':
        this.#fault = new ModelError(message.message)
        break
      case 'unwritten':
        this.#unwritten = new ModelError(message.message)
        break
      case 'told':
        this.log(message.line)
        break
      case 'lessons':
        this.#learner?.learn()
        break
      case 'token':
        this.#generations.get(message.slot)?.push(message.emission)
        this.onToken?.(this.#numberAt(message.slot), message.emission.token)
        break
      case 'ending': {
        const generation = this.#generations.get(message.slot)
        this.#generations.delete(message.slot)
        this.#leave(message.slot)
        this.#freeSlots.push(message.slot)
        generation?.end(message.ending)
        this.#startQueued()
      }
    }
  }

  /** A place is given to another request only after this thread has heard of the end of the last. */
  #numberAt(slot: number): number {
    const { sequences } = this.facts.counters.activity
    return sequences[slot * SequenceField.count + SequenceField.number] ?? 0
  }

  #receive(): FromWorker | null {
    const received: { message: FromWorker } | undefined = receiveMessageOnPort(this.#port)
    return received?.message ?? null
  }

  #tell(message: ToWorker): void {
    this.#port.postMessage(message)
    Atomics.add(this.#wakeWord, 0, 1)
    Atomics.notify(this.#wakeWord, 0)
  }

  /** The thread is gone: what is left has failed with it, or was cancelled by close. */
  #endAll(): void {
    const fault = this.#fault ?? new ModelError('the engine was closed before it answered')
    for (const generation of this.#generations.values()) generation.end(fault)
    for (const { generation, request } of this.#queue) {
      generation.end(this.#fault ?? endingOfUnstarted(request))
    }
    this.#generations.clear()
    for (const slot of [...this.#seats.keys()]) this.#leave(slot)
    this.#queue.length = 0
  }
}

function endingOfUnstarted(request: Request): Ending {
  return {
    reason: 'cancelled',
    message: '',
    stats: {
      promptTokens: request.prompt.length,
      cachedTokens: 0,
      completionTokens: 0,
      firstTokenSeconds: 0,
      decodeSeconds: 0,
      expertRequests: 0,
      decode: null,
    },
  }
}

function sharedWords(count: number): Int32Array {
  return new Int32Array(new SharedArrayBuffer(count * Int32Array.BYTES_PER_ELEMENT))
}
