/**
 * The checkpoint's own chat template: messages in, prompt text out. It must not know tokens. The
 * template is a program from strangers, run within bounds by jinja.ts; whatever it does wrong ends
 * as a ModelError. No template is built in: a checkpoint without one takes raw prompts only.
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { ModelError, shown } from './error.js'
import { BoundedTemplate, Raised } from './jinja.js'
import { isRecord, parseObject } from './json.js'
import { readText } from './window.js'

const TEMPLATE_CHARS_MAX = 2 ** 20
/** tokenizer_config.json repeats the added tokens; real ones have some 100 KB. */
const CONFIG_BYTES_MAX = 16 * 2 ** 20
/** Tokens whose text a template may name. */
const TOKEN_NAMES = ['bos_token', 'eos_token', 'pad_token', 'unk_token']

/** One turn. Templates read what they know of it and ignore the rest. */
export interface Message {
  role: 'system' | 'user' | 'assistant' | 'tool'
  content: string
  /** What the assistant thought; templates drop it for earlier rounds. */
  reasoning_content?: string
  tool_calls?: unknown[]
  tool_call_id?: string
  name?: string
}

/** How to render a chat. */
export interface RenderOptions {
  /** Thinking on or off; left out, the template's own default. Not every template has the switch. */
  thinking?: boolean | undefined
  /** Whether the prompt ends where the assistant begins to speak. */
  addGenerationPrompt: boolean
  tools?: unknown[]
  /** Further variables of the template; those that are set here under their own name win. */
  extra?: Record<string, unknown>
}

/** A chat template, parsed. */
export interface ChatTemplate {
  /**
   * The prompt for these messages. Throws ModelError when the template refuses them, fails, or
   * wants more work or text than any honest template does: jinja.ts counts its steps, the library
   * has no bound of its own.
   */
  render(messages: readonly Message[], options: RenderOptions): string
}

/**
 * Opens the chat template of the checkpoint in `folder`: chat_template.jinja, else what
 * tokenizer_config.json says, of several the one named "default". Throws ModelError when there is
 * none, when it exceeds 1 MB, or when it does not parse.
 */
export function openTemplate(folder: string): ChatTemplate {
  const config = readOptional(folder, 'tokenizer_config.json', CONFIG_BYTES_MAX)
  const settings = config === null ? {} : parseObject(config, 'tokenizer_config.json')
  const own = readOptional(folder, 'chat_template.jinja', TEMPLATE_CHARS_MAX)
  if (own !== null) return parseTemplate(own, 'chat_template.jinja', settings)
  const chosen = templateIn(settings)
  if (chosen === null) {
    throw new ModelError(
      `no chat template in ${folder}: expected chat_template.jinja, or chat_template in tokenizer_config.json`,
    )
  }
  return parseTemplate(chosen, 'tokenizer_config.json: chat_template', settings)
}

function readOptional(folder: string, file: string, limitBytes: number): string | null {
  const path = join(folder, file)
  return existsSync(path) ? readText(path, limitBytes) : null
}

/** The template in tokenizer_config.json: a text, or a list of {name, template}. */
function templateIn(settings: Record<string, unknown>): string | null {
  const entry = settings.chat_template ?? null
  if (entry === null || typeof entry === 'string') return entry
  if (!Array.isArray(entry)) {
    throw new ModelError(
      `tokenizer_config.json: chat_template must be text or a list, found ${shown(entry)}`,
    )
  }
  const named: unknown = entry.find((item) => isRecord(item) && item.name === 'default')
  if (isRecord(named) && typeof named.template === 'string') return named.template
  throw new ModelError(
    `tokenizer_config.json: chat_template must hold one named "default", found ${shown(entry)}`,
  )
}

function parseTemplate(
  source: string,
  place: string,
  settings: Record<string, unknown>,
): ChatTemplate {
  if (source.length > TEMPLATE_CHARS_MAX) {
    throw new ModelError(
      `${place}: expected at most ${TEMPLATE_CHARS_MAX} characters, found ${source.length}`,
    )
  }
  const tokens = tokenTexts(settings)
  let template: BoundedTemplate
  try {
    template = new BoundedTemplate(source)
  } catch (error) {
    throw new ModelError(`${place}: does not parse as a jinja template: ${reasonOf(error)}`)
  }
  return {
    render(messages, options) {
      try {
        return template.render({ ...tokens, ...variables(messages, options) })
      } catch (error) {
        const verb = error instanceof Raised ? 'refuses these messages' : 'fails on these messages'
        throw new ModelError(`${place}: ${verb}: ${reasonOf(error)}`)
      }
    },
  }
}

/** bos_token and its like, written as text or as an added token's record. */
function tokenTexts(settings: Record<string, unknown>): Record<string, string> {
  const texts: Record<string, string> = {}
  for (const name of TOKEN_NAMES) {
    const token = settings[name]
    const text = isRecord(token) ? token.content : token
    if (typeof text === 'string') texts[name] = text
  }
  return texts
}

/**
 * What a template sees. Thinking has two spellings in this family: `enable_thinking`, a boolean,
 * and `thinking_option`, 'on' or 'off'. Templates test both for being defined, so neither is set
 * where the caller has no wish; `tools` is null then, as templates test it either way.
 */
function variables(messages: readonly Message[], options: RenderOptions): Record<string, unknown> {
  const { thinking } = options
  const switches =
    thinking === undefined
      ? {}
      : { enable_thinking: thinking, thinking_option: thinking ? 'on' : 'off' }
  return {
    ...options.extra,
    ...switches,
    messages,
    tools: options.tools ?? null,
    add_generation_prompt: options.addGenerationPrompt,
  }
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
