// The JSON that an answer must be, tried before the engine is asked for it: its words here, its compiling in
// a thread that can be ended. What was compiled is what the answer is then held to. Schemas that passed are
// remembered, a few.
import { LRUCache } from 'lru-cache'
import type { GrammarModel, GrammarThreads } from '../engine/grammarthreads.js'
import { callWishOf, type HeldCall } from './heldcall.js'
import { heldSchema, type Schema } from './jsonschema.js'
import { badRequest, Refusal } from './refusal.js'
import type { Toolset } from './tools.js'

/** A format as a request has it. */
export interface FormatWish {
  readonly schema: Schema
  /** The field that said so, for refusals. */
  readonly field: string
}

const QUEUE = 16
const REMEMBERED = 64

export class GrammarTrials {
  /** By the schema as it was asked, the one that is held to. */
  readonly #passed = new LRUCache<string, string>({ max: REMEMBERED })

  constructor(readonly threads: GrammarThreads) {}

  /** The schema as the engine takes it. Throws a Refusal where it cannot be followed. */
  async tried({ schema, field }: FormatWish, model: GrammarModel): Promise<string> {
    const key = JSON.stringify(schema)
    const passed = this.#passed.get(key)
    if (passed !== undefined) return passed
    const held = heldSchema(schema)
    if (typeof held === 'string') throw badRequest(`${field} ${held}`, field)
    if (this.threads.trying >= QUEUE) {
      throw new Refusal(429, 'too many schemas wait to be compiled', { retryAfterSeconds: 1 })
    }
    const text = JSON.stringify(held)
    const failure = await this.threads.tried(text, model)
    if (failure !== null) throw badRequest(`${field} ${failure}`, field)
    this.#passed.set(key, text)
    return text
  }

  /**
   * The call that must be made, held to the parameters of its tool; null where none must, or where they
   * cannot be followed and no tool is strict. Throws a Refusal.
   */
  async call(tools: Toolset | null, model: GrammarModel): Promise<HeldCall | null> {
    const wish = tools === null ? null : callWishOf(tools)
    if (wish === null) return null
    try {
      const schema = await this.tried({ schema: wish.schema, field: 'tools' }, model)
      return { begun: wish.begun, ended: wish.ended, schema }
    } catch (error) {
      const isStrict = tools?.tools.some((tool) => tool.isStrict) === true
      if (error instanceof Refusal && error.status === 400 && !isStrict) return null
      throw error
    }
  }

  async close(): Promise<void> {
    await this.threads.close()
  }
}
