// What `import ... from 'ring-offload'` gives: a model is opened, asked, and closed; answers come piece by
// piece. It is a face like the command line: settings are its flags under their own names, with the same
// defaults and checks, and answers are asked for and read by what `run` and `chat` use. It must not know
// steps, slots or HTTP. Surprising: an answer begins when it is asked for, not when it is read.
import { type Heard, hear } from './cli/answer.js'
import { chatPrompt, openText, type Prompt, rawPrompt } from './cli/conversation.js'
import { failureOf } from './cli/failure.js'
import {
  addDrawFlags,
  addSharedFlags,
  addTalkFlags,
  type DrawFlags,
  parallel,
  refuseUnavailable,
  type SharedFlags,
  type TalkFlags,
  wishesOf,
} from './cli/flags.js'
import { logFor } from './cli/log.js'
import { requestOf, seedOf } from './cli/request.js'
import { findModel } from './cli/source.js'
import { withTuned } from './cli/withtuned.js'
import { flagsIn, wordsOf } from './cli/words.js'
import { Engine as Core, type Generation } from './engine/engine.js'
import { type RequestStats, readUsage, type Usage } from './engine/stats.js'
import { type ChatTemplate, type Message, openTemplate } from './model/template.js'
import type { TextPiece } from './model/thinking.js'
import type { Tokenizer } from './model/tokenizer.js'

export type { Message, RequestStats, TextPiece, Usage }

/** How a model is opened. Each has the name of a flag of the command line, which README describes. */
export interface Settings {
  /** Memory for routed experts: a size ('96GiB') or a share of all ('25%'). Default: what is free. */
  readonly expertRam?: string | undefined
  /** The same of the memory of a GPU that computes. */
  readonly expertVram?: string | undefined
  /** What computes. Default: 'auto', a GPU where one can be used. */
  readonly backend?: 'auto' | 'cpu' | 'cuda' | undefined
  /** Tokens of prompt and answer together. Default: what the model has and memory can hold. */
  readonly ctxSize?: number | undefined
  /** Answers in work at once; more wait. Default: 1. */
  readonly parallel?: number | undefined
  /** Default: as many as cores. */
  readonly threads?: number | undefined
  readonly loadMode?: 'auto' | 'mapped' | 'direct' | undefined
  readonly prefetch?: 'auto' | 'on' | 'off' | undefined
  /** Which experts stay in memory. Default: 'auto'. */
  readonly policy?: string | undefined
  /** A file with what earlier runs learnt; 'none' begins anew. Default: what is known of this model. */
  readonly profile?: string | undefined
  readonly kvType?: 'bf16' | 'f32' | undefined
  /** A folder that keeps keys and values of prompts for later. */
  readonly kvDir?: string | undefined
  /** Folders with copies of the files, on other drives. */
  readonly mirror?: readonly string[] | undefined
  /** Hears the lines that a command would write to stderr. */
  readonly log?: ((line: string) => void) | undefined
}

/** How text is drawn. Left out, it is the likeliest token each time. */
export interface Drawing {
  /** Most tokens. Default: as many as the context leaves. */
  readonly predict?: number | undefined
  /** 0 takes the likeliest token. */
  readonly temp?: number | undefined
  readonly topK?: number | undefined
  readonly topP?: number | undefined
  readonly minP?: number | undefined
  readonly repetitionPenalty?: number | undefined
  readonly presencePenalty?: number | undefined
  readonly frequencyPenalty?: number | undefined
  /** Added to logits, by token id; -Infinity bans one. */
  readonly logitBias?: Readonly<Record<number, number>> | undefined
  /** The same seed gives the same text. Default: a random one. */
  readonly seed?: number | undefined
  /** Ends the answer; whoever reads it gets the signal's reason thrown. */
  readonly signal?: AbortSignal | undefined
}

/** How a chat is answered. */
export interface Talking extends Drawing {
  /** Put before the messages. */
  readonly system?: string | undefined
  /** 'auto': as the model's template has it. */
  readonly think?: 'auto' | 'on' | 'off' | undefined
  /** Tokens that may be thought. Default: no limit. */
  readonly reasoningBudget?: number | undefined
}

/** A drawn token. */
export interface Token {
  readonly id: number
  /** Natural logarithm of its probability as the model gave it, before temperature. */
  readonly logprob: number
}

/** All of an answer. */
export interface Answer {
  readonly text: string
  /** What was thought before; empty where nothing was. */
  readonly reasoning: string
  /** Drawn tokens, the one that ended the answer included. */
  readonly tokens: readonly number[]
  /** 'stop': the model ended it; 'length': `predict` or the context did; 'cancelled': `cancel` or an early leave. */
  readonly finishReason: 'stop' | 'length' | 'cancelled'
  readonly stats: RequestStats
}

/**
 * An answer on its way, read once: as pieces of text (iterate it), as tokens, or as a whole. To leave the
 * loop is to end the answer. What fails is thrown to the reader as an EngineError.
 */
export interface Reply extends AsyncIterable<TextPiece> {
  tokens(): AsyncIterable<Token>
  /** Reads what is left, and gives all of it, also what was read before. */
  whole(): Promise<Answer>
  /** Ends the answer where it is. */
  cancel(): void
}

/** What a model is, and how it was opened. */
export interface Facts {
  /** Its name, or the last part of its folder. */
  readonly model: string
  readonly vocabulary: number
  readonly layers: number
  /** Routed experts of the whole model, and how many a token uses in each layer that has them. */
  readonly experts: number
  readonly expertsPerToken: number
  readonly contextTokens: number
  /** 'mapped': experts are computed with where the page cache has them; 'direct': in slots. */
  readonly loadMode: 'mapped' | 'direct'
  /** Experts that have room in memory at once; 0 where they are mapped without a budget. */
  readonly expertSlots: number
  readonly expertBytes: number
  /** Backend, instruction set and threads, for people. */
  readonly device: string
}

/** The one error of this library; `message` is a sentence for a person, `cause` what it came from. */
export class EngineError extends Error {
  override readonly name = 'EngineError'
}

/** A model that is open. It holds memory and a thread until it is closed. */
export class Engine implements AsyncDisposable {
  #isClosed = false
  readonly #running = new Set<Generation>()
  #template: ChatTemplate | null = null

  private constructor(
    private readonly core: Core,
    private readonly tokenizer: Tokenizer,
    private readonly folder: string,
    /** What the model is, and how it was opened. */
    readonly facts: Facts,
  ) {}

  /**
   * Opens a model: a folder in Hugging Face layout, or ORG/NAME of one in the Hugging Face cache; left
   * out, the small one that comes with this package. Throws EngineError when there is none, when it is
   * damaged, or when it does not fit.
   */
  static async open(model?: string, settings: Settings = {}): Promise<Engine> {
    try {
      const { log = () => {}, ...named } = settings
      const words = wordsOf({ parallel: 1, ...named })
      const flags = flagsIn((command) => addSharedFlags(command).addOption(parallel()), words).opts<
        SharedFlags & { readonly parallel: number }
      >()
      refuseUnavailable(flags)
      const source = findModel(model)
      const lines = logFor(flags, log)
      const tokenizer = await openText(source.folder)
      const tuned = await withTuned(source, flags, lines)
      const wishes = { ...wishesOf(tuned, tokenizer.size), sequences: flags.parallel }
      const core = await Core.open(source.folder, wishes, log)
      lines.opened(source.name, core.facts, flags.ctxSize)
      return new Engine(core, tokenizer, source.folder, factsOf(source.name, core))
    } catch (error) {
      throw errorOf(error)
    }
  }

  /**
   * Answers a question, or the last of several messages, through the model's own chat template. Throws
   * EngineError for settings that are none and for a prompt that does not fit.
   */
  chat(messages: string | readonly Message[], talking: Talking = {}): Reply {
    const asked: readonly Message[] =
      typeof messages === 'string' ? [{ role: 'user', content: messages }] : messages
    return this.#ask(talking, (flags) => {
      this.#template ??= openTemplate(this.folder)
      return chatPrompt(this.#template, this.tokenizer, asked, flags)
    })
  }

  /** Goes on with a text as it is; nothing is told apart as thinking. Throws as `chat` does. */
  generate(text: string, drawing: Drawing = {}): Reply {
    return this.#ask(drawing, () => rawPrompt(this.tokenizer, text))
  }

  /** The tokens of a text. Text that is longer than a megabyte takes seconds. */
  encode(text: string): Int32Array {
    return this.tokenizer.encode(text)
  }

  /** The text of tokens, without control tokens. */
  decode(tokens: Iterable<number>): string {
    return this.tokenizer.decode(tokens)
  }

  /** What was done since the model was opened, of all answers together. */
  stats(): Usage {
    return readUsage(this.core.facts.counters)
  }

  /** Ends what is in work, and gives memory and thread back. May be called again. */
  async close(): Promise<void> {
    this.#isClosed = true
    for (const generation of this.#running) generation.cancel()
    await Promise.allSettled([...this.#running].map(({ ending }) => ending))
    try {
      await this.core.close()
    } catch (error) {
      throw errorOf(error)
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #ask(talking: Talking, promptOf: (flags: TalkFlags) => Prompt): Reply {
    try {
      if (this.#isClosed) throw new EngineError('the engine is closed')
      const { signal, ...named } = talking
      const flags = flagsIn((command) => addDrawFlags(addTalkFlags(command)), wordsOf(named)).opts<
        DrawFlags & TalkFlags
      >()
      const prompt = promptOf(flags)
      const request = requestOf(prompt, flags, seedOf(flags), this.core.facts, this.tokenizer)
      const generation: Generation = this.core.generate(request)
      this.#running.add(generation)
      const leave = () => this.#running.delete(generation)
      generation.ending.then(leave, leave)
      return new Reading(
        generation,
        hear(generation, this.tokenizer, prompt, request.stopIds),
        signal,
      )
    } catch (error) {
      throw errorOf(error)
    }
  }
}

class Reading implements Reply {
  readonly #tokens: number[] = []
  readonly #said = { text: '', reasoning: '' }

  constructor(
    private readonly generation: Generation,
    private readonly heard: AsyncGenerator<Heard>,
    private readonly signal: AbortSignal | undefined,
  ) {
    if (signal === undefined) return
    const cancel = () => generation.cancel()
    if (signal.aborted) cancel()
    signal.addEventListener('abort', cancel)
    const leave = () => signal.removeEventListener('abort', cancel)
    generation.ending.then(leave, leave)
  }

  [Symbol.asyncIterator](): AsyncGenerator<TextPiece> {
    return this.#each(({ pieces }) => pieces)
  }

  tokens(): AsyncGenerator<Token> {
    return this.#each(({ emission }) =>
      emission === null ? [] : [{ id: emission.token, logprob: emission.logprob }],
    )
  }

  async whole(): Promise<Answer> {
    while ((await this.#next()) !== null);
    const { reason, message, stats } = await this.generation.ending
    if (reason === 'failed') throw new EngineError(message)
    return { ...this.#said, tokens: this.#tokens, finishReason: reason, stats }
  }

  cancel(): void {
    this.generation.cancel()
  }

  async *#each<Item>(itemsOf: (heard: Heard) => readonly Item[]): AsyncGenerator<Item> {
    try {
      for (let heard = await this.#next(); heard !== null; heard = await this.#next()) {
        yield* itemsOf(heard)
      }
    } finally {
      // Nothing is left to end but where the reader has left.
      this.generation.cancel()
    }
  }

  /** Null at the end; throws where it is no good one. */
  async #next(): Promise<Heard | null> {
    try {
      const { done, value } = await this.heard.next()
      if (done === true) {
        const { reason, message } = await this.generation.ending
        if (reason === 'failed') throw new EngineError(message)
        if (reason === 'cancelled') this.signal?.throwIfAborted()
        return null
      }
      if (value.emission !== null) this.#tokens.push(value.emission.token)
      for (const { kind, text } of value.pieces) this.#said[kind] += text
      return value
    } catch (error) {
      if (this.signal?.aborted === true && error === this.signal.reason) throw error
      throw errorOf(error)
    }
  }
}

function factsOf(model: string, { facts: { config, plan, experts, ...facts } }: Core): Facts {
  return {
    model,
    vocabulary: config.vocabulary,
    layers: config.layers,
    experts: experts.experts,
    expertsPerToken: config.topK,
    contextTokens: plan.contextTokens,
    loadMode: experts.loadMode,
    expertSlots: experts.slots,
    expertBytes: facts.expertBytes,
    device: facts.device,
  }
}

function errorOf(error: unknown): EngineError {
  if (error instanceof EngineError) return error
  return new EngineError(failureOf(error).message, { cause: error })
}
