// From a line's body to what the engine is asked, and from what was drawn to the object that answers: the
// same shapes and forms that the server has. Where the server takes chance or the clock, the job's own
// name is taken, so that a job that is run again says the same.
import { createHash } from 'node:crypto'
import type { Tokenizer } from '../model/tokenizer.js'
import { ChatForm } from '../serve/chatform.js'
import {
  type Bounds,
  type Choice,
  chatWishes,
  choicesOf,
  completionWishes,
  type ThinkingMeans,
  type Wishes,
} from '../serve/draw.js'
import type { Form, Identity, Naming } from '../serve/form.js'
import type { GrammarTrials } from '../serve/grammars.js'
import { type Prompt, type Prompts, rawPrompt } from '../serve/prompts.js'
import { chatOf } from '../serve/routes/chat.js'
import { sourcesOf } from '../serve/routes/completions.js'
import { chatBody, completionBody, parsed } from '../serve/schema.js'
import { TextForm } from '../serve/textform.js'
import type { BatchLine } from './line.js'

export interface Question {
  readonly isChat: boolean
  readonly choices: readonly Choice[]
  readonly hasLogprobs: boolean
}

/** What makes questions of bodies. */
export interface QuestionMeans {
  readonly prompts: Prompts
  readonly grammars: GrammarTrials
  readonly thinking: ThinkingMeans
}

export class Questions {
  readonly #never = new AbortController().signal

  constructor(
    private readonly means: QuestionMeans,
    private readonly bounds: Bounds,
    /** Names the job: all of its input. */
    private readonly jobName: string,
    /** Most tokens of a chat that does not say how many it wants; null: what the context leaves. */
    private readonly predict: number | null,
  ) {}

  /** Throws a Refusal for a body that cannot be followed. */
  async ask(line: BatchLine): Promise<Question> {
    const isChat = line.url === '/v1/chat/completions'
    const { prompts, wishes } = isChat ? await this.#chat(line) : await this.#completion(line)
    const seed = Number.parseInt(this.#nameOf(line.number, 'seed').slice(0, 12), 16)
    const { grammars, thinking } = this.means
    const { format = null } = wishes
    const schema = format === null ? null : await grammars.tried(format, this.bounds.config)
    const choices = choicesOf(prompts, { ...wishes, seed }, this.bounds, thinking, schema)
    return { isChat, choices, hasLogprobs: wishes.topLogprobs !== null }
  }

  /** The form of a line's answer. */
  formOf(line: number, question: Question, identity: Identity, tokenizer: Tokenizer): Form {
    const details = { hasLogprobs: question.hasLogprobs, includesUsage: false }
    const naming = this.naming(line)
    return question.isChat
      ? new ChatForm(identity, tokenizer, details, naming)
      : new TextForm(identity, tokenizer, details, naming)
  }

  /** Names that follow from the job and the line. A time would be another one when it is run again. */
  naming(line: number): Naming {
    let count = 0
    const nextId = () => {
      count += 1
      return this.#nameOf(line, String(count))
    }
    return { created: 0, nextId }
  }

  /** What the line itself is called in the output. */
  lineId(line: number): string {
    return this.#nameOf(line, 'line')
  }

  async #chat(line: BatchLine): Promise<{ prompts: Prompt[]; wishes: Wishes }> {
    const body = parsed(chatBody, line.body)
    const chat = chatOf(body)
    const said = chatWishes(body)
    const { contextTokens } = this.bounds.plan
    const held = await this.means.grammars.call(chat.tools, this.bounds.config)
    const prompt = await this.means.prompts.ofChat(chat, contextTokens, this.#never, held)
    const left = contextTokens - prompt.tokens.length
    const predict = this.predict === null ? null : Math.min(this.predict, Math.max(left, 1))
    return { prompts: [prompt], wishes: { ...said, maxTokens: said.maxTokens ?? predict } }
  }

  async #completion(line: BatchLine): Promise<{ prompts: Prompt[]; wishes: Wishes }> {
    const body = parsed(completionBody, line.body)
    const { contextTokens } = this.bounds.plan
    const prompts = await Promise.all(
      sourcesOf(body).map((source) =>
        typeof source === 'string'
          ? this.means.prompts.ofText(source, contextTokens, this.#never)
          : rawPrompt(Int32Array.from(source)),
      ),
    )
    return { prompts, wishes: completionWishes(body) }
  }

  #nameOf(line: number, what: string): string {
    return createHash('sha256').update(`${this.jobName}:${line}:${what}`).digest('hex').slice(0, 32)
  }
}
