// What a prompt thread does: a chat through the checkpoint's template, and text to tokens. Piscina
// calls it. Both can take seconds on hostile text, and the template and the pattern of a tokenizer may
// be hostile themselves: hence a thread that can be ended.
import { workerData } from 'node:worker_threads'
import { ModelError } from '../model/error.js'
import { type ChatTemplate, type Message, openTemplate } from '../model/template.js'
import { promptEndsInsideThinking } from '../model/thinking.js'
import { openTokenizer } from '../model/tokenizer.js'

export type PromptSource =
  | { readonly kind: 'text'; readonly text: string }
  | {
      readonly kind: 'chat'
      readonly messages: readonly Message[]
      readonly extra: Readonly<Record<string, unknown>>
    }

export interface PromptTask {
  readonly source: PromptSource
  /** Longer text is refused before it is encoded. */
  readonly charsMax: number
}

export type PromptResult =
  | { readonly tokens: Int32Array; readonly startsInside: boolean }
  | { readonly refused: string }

const { folder } = workerData as { folder: string }
const tokenizer = openTokenizer(folder)
const template = optionalTemplate()

export default function makePrompt({ source, charsMax }: PromptTask): PromptResult {
  try {
    const text = source.kind === 'text' ? source.text : rendered(source.messages, source.extra)
    if (text.length > charsMax) {
      return {
        refused: `the prompt has ${text.length} characters, and at most ${charsMax} are taken at this context size`,
      }
    }
    return { tokens: tokenizer.encode(text), startsInside: promptEndsInsideThinking(text) }
  } catch (error) {
    // Only its message outlives the way between threads.
    if (error instanceof ModelError) return { refused: error.message }
    throw error
  }
}

function rendered(messages: readonly Message[], extra: Readonly<Record<string, unknown>>): string {
  if (template instanceof ModelError) throw template
  const { enable_thinking: wish } = extra
  return template.render(messages, {
    // Templates spell this switch in two ways; whoever knows one means both.
    thinking: typeof wish === 'boolean' ? wish : undefined,
    addGenerationPrompt: true,
    extra,
  })
}

/** A checkpoint without a template takes raw prompts only; why is said to whoever sends a chat. */
function optionalTemplate(): ChatTemplate | ModelError {
  try {
    return openTemplate(folder)
  } catch (error) {
    if (error instanceof ModelError) return error
    throw error
  }
}
