// The engine's life as the server sees it: loading, ready, or lost and opened again. An engine whose device
// failed or whose thread ended is missed at once, asked for or not: requests are told to come again until
// the model is open anew, which is tried at growing intervals.
import type { Engine, Generation } from '../engine/engine.js'
import type { EngineFacts } from '../engine/protocol.js'
import type { Request } from '../engine/sequence.js'
import { unavailable } from './refusal.js'

const RETRY_SECONDS = 5
const PAUSE_MS_FIRST = 1000
const PAUSE_MS_MAX = 60_000

export class Keeper {
  #engine: Engine | null = null
  #facts: EngineFacts | null = null
  #isClosed = false
  #restarts = 0
  #timer: NodeJS.Timeout | undefined

  constructor(
    private readonly open: () => Promise<Engine>,
    private readonly log: (line: string) => void,
    /** Hears of every engine that is opened; null: nobody does. */
    private readonly onOpen: ((engine: Engine) => void) | null = null,
  ) {}

  get isReady(): boolean {
    return this.#engine !== null
  }

  get restarts(): number {
    return this.#restarts
  }

  /** What the engine is, or was before it was lost; null while it is first loaded. */
  get facts(): EngineFacts | null {
    return this.#facts
  }

  /** Opens the model for the first time; rejects when it cannot be opened. */
  async load(): Promise<EngineFacts> {
    const engine = await this.open()
    if (this.#isClosed) await engine.close()
    else this.#keep(engine)
    this.onOpen?.(engine)
    this.#facts = engine.facts
    return engine.facts
  }

  /** What requests are made for. Throws 503 while there is no engine. */
  readyFacts(): EngineFacts {
    if (this.#engine === null || this.#facts === null) throw loading()
    return this.#facts
  }

  /** Hands a request to the engine. Throws 503 while there is none, or when it turns out to be lost. */
  generate(request: Request): Generation {
    if (this.#engine === null) throw loading()
    try {
      return this.#engine.generate(request)
    } catch (error) {
      // Requests are checked before they come here, so the engine itself is at fault.
      void this.#replace(this.#engine, error)
      throw loading()
    }
  }

  /** Asks for an early end of a request by its place and number. Returns whether it is in work. */
  cancel(slot: number, number: number): boolean {
    return this.#engine?.cancelNumber(slot, number) ?? false
  }

  async close(): Promise<void> {
    this.#isClosed = true
    clearTimeout(this.#timer)
    const engine = this.#engine
    this.#engine = null
    await engine?.close()
  }

  #keep(engine: Engine): void {
    this.#engine = engine
    void engine.lost.then((reason) => {
      if (reason !== null) void this.#replace(engine, reason)
    })
  }

  async #replace(lost: Engine, reason: unknown): Promise<void> {
    // Who asks may have met with it before its thread was gone, or this server be closed.
    if (this.#engine !== lost) return
    this.#engine = null
    this.#restarts += 1
    this.log(`the engine was lost and is opened again: ${messageOf(reason)}`)
    await lost.close()
    await this.#reopen(PAUSE_MS_FIRST)
  }

  async #reopen(pauseMs: number): Promise<void> {
    if (this.#isClosed) return
    try {
      await this.load()
      this.log('the engine is open again')
    } catch (error) {
      this.log(`the engine cannot be opened, next try in ${pauseMs / 1000} s: ${messageOf(error)}`)
      const next = Math.min(PAUSE_MS_MAX, 2 * pauseMs)
      this.#timer = setTimeout(() => void this.#reopen(next), pauseMs)
    }
  }
}

function loading() {
  return unavailable('the model is being loaded', RETRY_SECONDS)
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
