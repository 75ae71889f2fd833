// From what is said to the tokens that the model reads, and whether it then begins inside its
// thinking. Knows template and tokenizer, not the engine.
import { type ChatTemplate, type Message, openTemplate } from '../model/template.js'
import { promptEndsInsideThinking } from '../model/thinking.js'
import { openTokenizer, type Tokenizer } from '../model/tokenizer.js'
import type { TalkFlags } from './flags.js'

export interface Prompt {
  readonly tokens: Int32Array
  /** Null: the answer is plain text, nothing of it is thinking. */
  readonly thinking: { readonly startsInside: boolean } | null
}

/** The tokenizer; where there is none, what else may be amiss in the folder is said first. */
export async function openText(folder: string): Promise<Tokenizer> {
  try {
    return openTokenizer(folder)
  } catch (error) {
    // Loaded here only, because an answer need not wait for what the engine's thread reads anyway.
    const { readConfig } = await import('../model/config.js')
    readConfig(folder)
    throw error
  }
}

export function rawPrompt(tokenizer: Tokenizer, text: string): Prompt {
  return { tokens: tokenizer.encode(text), thinking: null }
}

/** The prompt that makes the model answer these messages, after the system message of the flags. */
export function chatPrompt(
  template: ChatTemplate,
  tokenizer: Tokenizer,
  messages: readonly Message[],
  { system, think }: TalkFlags,
): Prompt {
  const first: Message[] = system === undefined ? [] : [{ role: 'system', content: system }]
  const text = template.render([...first, ...messages], {
    thinking: think === 'auto' ? undefined : think === 'on',
    addGenerationPrompt: true,
  })
  const startsInside = promptEndsInsideThinking(text)
  return { tokens: tokenizer.encode(text), thinking: { startsInside } }
}

/** The rounds of a talk, each a message of a person and the answer to it. */
export class Conversation {
  readonly #template: ChatTemplate
  #rounds: Message[] = []

  constructor(
    folder: string,
    private readonly tokenizer: Tokenizer,
    private readonly flags: TalkFlags,
  ) {
    this.#template = openTemplate(folder)
  }

  /** The prompt that makes the model answer `content`; nothing is remembered by it. */
  ask(content: string): Prompt {
    const messages: Message[] = [...this.#rounds, { role: 'user', content }]
    return chatPrompt(this.#template, this.tokenizer, messages, this.flags)
  }

  /** Keeps a round. Templates drop the reasoning of earlier rounds themselves. */
  remember(content: string, answer: { readonly text: string; readonly reasoning: string }): void {
    const reply: Message = { role: 'assistant', content: answer.text }
    if (answer.reasoning !== '') reply.reasoning_content = answer.reasoning
    this.#rounds.push({ role: 'user', content }, reply)
  }

  forget(): void {
    this.#rounds = []
  }
}
