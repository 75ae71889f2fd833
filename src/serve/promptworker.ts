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
      readonly tools: readonly object[]
      /** How the answer begins; the model goes on from there. */
      readonly begun: string
      readonly thinking: boolean | undefined
      readonly extra: Readonly<Record<string, unknown>>
    }

type ChatSource = Extract<PromptSource, { kind: 'chat' }>

export interface PromptTask {
  readonly source: PromptSource
  /** Longer text is refused before it is encoded. */
  readonly charsMax: number
}

export type PromptResult =
  | { readonly tokens: Int32Array; readonly startsInside: boolean }
  /** `field`: what of the request is at fault, where that is not the text itself. */
  | { readonly refused: string; readonly field?: 'tools' }

const { folder } = workerData as { folder: string }
const tokenizer = openTokenizer(folder)
const template = optionalTemplate()

export default function makePrompt({ source, charsMax }: PromptTask): PromptResult {
  try {
    const text = source.kind === 'text' ? source.text : rendered(source)
    if (text === null) {
      return { refused: "this model's chat template does not know tools", field: 'tools' }
    }
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

/** Null: there are tools, and the template says nothing of them. */
function rendered({ messages, tools, begun, thinking, extra }: ChatSource): string | null {
  if (template instanceof ModelError) throw template
  const options = { thinking, addGenerationPrompt: true, extra }
  if (tools.length === 0) return template.render(messages, options)
  const text = template.render(messages, { ...options, tools: [...tools] })
  if (text === template.render(messages, options)) return null
  if (begun === '') return text
  return promptEndsInsideThinking(text) ? `${text}\n</think>\n\n${begun}` : text + begun
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
