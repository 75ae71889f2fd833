// Text and chats to tokens, in threads of their own, so that a long prompt holds up nobody else and a
// hostile one is cut off. A path in a message about the model's folder is never shown to a client:
// such messages begin in promptworker.ts and name files only, but the template's absence names its
// folder, so that is put in other words here.
import { Piscina } from 'piscina'
import type { Message } from '../model/template.js'
import type { CallReading } from './calls.js'
import type { HeldCall } from './heldcall.js'
import type { PromptResult, PromptSource, PromptTask } from './promptworker.js'
import { badRequest, Refusal } from './refusal.js'
import { callReadingOf, type Toolset, templateTool } from './tools.js'

/** What is to be answered, whatever family of routes it came by. */
export interface Chat {
  readonly messages: readonly Message[]
  readonly tools: Toolset | null
  /** Undefined: as the template has it. */
  readonly thinking: boolean | undefined
  /** Further variables of the template. */
  readonly extra: Readonly<Record<string, unknown>>
}

/** What a wished effort is to a chat: none is the switch that all of this family know. */
export function effortWishes(effort: string | null): Pick<Chat, 'thinking' | 'extra'> {
  if (effort === null) return { thinking: undefined, extra: {} }
  if (effort === 'none') return { thinking: false, extra: {} }
  return { thinking: undefined, extra: { reasoning_effort: effort } }
}

export interface Prompt {
  readonly tokens: Int32Array
  /** Null: the answer is plain text, nothing of it is thinking. */
  readonly thinking: { readonly startsInside: boolean } | null
  /** Null: nothing of the answer is a call. */
  readonly calls: CallReading | null
  /** The schema that a call which was begun is held to; null: none was, or it is not held. */
  readonly callSchema: string | null
}

/** Tokens that are continued as they are. */
export function rawPrompt(tokens: Int32Array): Prompt {
  return { tokens, thinking: null, calls: null, callSchema: null }
}

/** So that a long prompt holds up nobody else. */
const THREADS = 2
const QUEUE = 1024
/** The longest honest prompt takes some seconds. */
const PATIENCE_MS = 30_000
/** Natural text has 3 to 5 characters a token, code with long indentation up to 10. */
const CHARS_PER_TOKEN = 32
const CHARS_LEAST = 2 ** 16

export class Prompts {
  readonly #pool: Piscina<PromptTask, PromptResult>

  /** `threads`: one is enough where prompts come one by one, or all of them are soon read. */
  constructor(
    private readonly folder: string,
    threads = THREADS,
  ) {
    this.#pool = new Piscina<PromptTask, PromptResult>({
      filename: new URL('./promptworker.js', import.meta.url).href,
      workerData: { folder },
      minThreads: 1,
      maxThreads: threads,
      maxQueue: QUEUE,
      idleTimeout: Number.POSITIVE_INFINITY,
      execArgv: [],
    })
  }

  /**
   * The prompt that makes the model answer, `held`: with a call of these. Throws a Refusal, also where the
   * signal has been raised.
   */
  async ofChat(
    chat: Chat,
    contextTokens: number,
    signal: AbortSignal,
    held: HeldCall | null = null,
  ): Promise<Prompt> {
    const { messages, thinking, extra } = chat
    const calls = chat.tools === null ? null : callReadingOf(chat.tools, held)
    const begun = calls?.begun ?? ''
    const tools = chat.tools?.tools.map(templateTool) ?? []
    const source = { kind: 'chat', messages, tools, begun, thinking, extra } as const
    const { tokens, startsInside } = await this.#make(source, contextTokens, signal, 'messages')
    return { tokens, thinking: { startsInside }, calls, callSchema: held?.schema ?? null }
  }

  /** Raw text as it is. */
  async ofText(text: string, contextTokens: number, signal: AbortSignal): Promise<Prompt> {
    const source = { kind: 'text', text } as const
    const { tokens } = await this.#make(source, contextTokens, signal, 'prompt')
    return rawPrompt(tokens)
  }

  async close(): Promise<void> {
    await this.#pool.destroy()
  }

  async #make(
    source: PromptSource,
    contextTokens: number,
    signal: AbortSignal,
    field: string,
  ): Promise<{ tokens: Int32Array; startsInside: boolean }> {
    const charsMax = Math.max(CHARS_LEAST, contextTokens * CHARS_PER_TOKEN)
    const patience = new AbortController()
    // Cleared when it is not needed any more: thousands that run on would fill the heap with what is over.
    const timer = setTimeout(() => patience.abort(), PATIENCE_MS)
    try {
      // Not the client's own signal: ending a thread is dear, and clients may leave as they like.
      const made = await this.#pool.run({ source, charsMax }, { signal: patience.signal })
      signal.throwIfAborted()
      if ('refused' in made)
        throw badRequest(this.#withoutFolder(made.refused), made.field ?? field)
      return made
    } catch (error) {
      if (error instanceof Refusal) throw error
      if (patience.signal.aborted) {
        throw badRequest(`the prompt took longer than ${PATIENCE_MS / 1000} s to read`, field)
      }
      if (error instanceof Error && error.message === 'Task queue is at limit') {
        throw new Refusal(429, 'too many prompts wait to be read', { retryAfterSeconds: 1 })
      }
      throw error
    } finally {
      clearTimeout(timer)
    }
  }

  #withoutFolder(message: string): string {
    return message.replaceAll(this.folder, "the model's folder")
  }
}
