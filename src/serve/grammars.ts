// The shape in which an answer is wanted, tried before the engine is asked for it: its keywords and size
// here, its compiling in a thread that can be ended. Schemas that passed are remembered, a few.
import { LRUCache } from 'lru-cache'
import { Piscina } from 'piscina'
import type { GrammarWish } from '../engine/grammar.js'
import type { ModelConfig } from '../model/config.js'
import { objectionTo } from './jsonschema.js'
import { badRequest, Refusal } from './refusal.js'

/** A format as a request has it. */
export interface FormatWish {
  readonly schema: Readonly<Record<string, unknown>>
  readonly strict: boolean
  /** The field that said so, for refusals. */
  readonly field: string
}

/** Most of it is for the thread's start; the engine's thread will compile as long, once. */
const PATIENCE_MS = 5_000
const QUEUE = 16
const REMEMBERED = 64

export class GrammarTrials {
  readonly #passed = new LRUCache<string, true>({ max: REMEMBERED })
  #pool: Piscina<GrammarWish, string | null> | null = null

  constructor(private readonly folder: string) {}

  /** The wish as the engine takes it. Throws a Refusal where it cannot be followed. */
  async tried({ schema, strict, field }: FormatWish, config: ModelConfig): Promise<GrammarWish> {
    const fault = objectionTo(schema)
    if (fault !== null) throw badRequest(`${field} ${fault}`, field)
    const wish = { schema: JSON.stringify(schema), strict, thinking: null }
    const key = `${strict} ${wish.schema}`
    if (this.#passed.get(key) === true) return wish
    const failure = await this.#run(wish, field, config)
    if (failure !== null) throw badRequest(`${field} ${failure}`, field)
    this.#passed.set(key, true)
    return wish
  }

  async close(): Promise<void> {
    await this.#pool?.destroy()
  }

  async #run(wish: GrammarWish, field: string, config: ModelConfig): Promise<string | null> {
    this.#pool ??= new Piscina<GrammarWish, string | null>({
      filename: new URL('./grammarworker.js', import.meta.url).href,
      workerData: { folder: this.folder, vocabulary: config.vocabulary, stopIds: config.eosIds },
      minThreads: 0,
      maxThreads: 1,
      idleTimeout: Number.POSITIVE_INFINITY,
      maxQueue: QUEUE,
      execArgv: [],
    })
    const patience = AbortSignal.timeout(PATIENCE_MS)
    try {
      return await this.#pool.run(wish, { signal: patience })
    } catch (error) {
      if (patience.aborted) throw badRequest(`${field} takes too long to compile`, field)
      if (error instanceof Error && error.message === 'Task queue is at limit') {
        throw new Refusal(429, 'too many schemas wait to be compiled', { retryAfterSeconds: 1 })
      }
      throw error
    }
  }
}
