// A model that says what it is told to: the words after SAY: in the last message that has them. It stands
// in for one that can call tools, as the bundled model cannot: behind it are the real server, tokenizer
// and prompts, over a copy of the bundled model with a template that knows tools. Only the drawn tokens
// are given.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Engine, Generation } from '../dist/src/engine/engine.js'
import type { EngineFacts } from '../dist/src/engine/protocol.js'
import type { Request } from '../dist/src/engine/sequence.js'
import { openTokenizer } from '../dist/src/model/tokenizer.js'
import { copyOfTiny } from './command.js'
import { type Running, startServer } from './serving.js'

/** With tools and their calls as Ring and Ling have them; `open_thought` ends it inside a thought. */
const template = `
{{- '<role>SYSTEM</role>' -}}
{%- if messages[0].role == 'system' -%}{{- messages[0].content + '\\n' -}}{%- endif -%}
{%- for tool in tools or [] -%}{{- (tool | tojson) + '\\n' -}}{%- endfor -%}
{{- 'effort ' + (reasoning_effort or 'unsaid') + '<|role_end|>' -}}
{%- for message in messages -%}
{%- if message.role == 'user' -%}
{{- '<role>HUMAN</role>' + message.content + '<|role_end|>' -}}
{%- elif message.role == 'assistant' -%}
{{- '<role>ASSISTANT</role>' -}}
{%- if message.reasoning_content -%}{{- '<think>' + message.reasoning_content + '</think>' -}}{%- endif -%}
{{- message.content -}}
{%- for call in message.tool_calls or [] -%}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' -}}
{{- (call.function.arguments | tojson) + '}\\n</tool_call>' -}}
{%- endfor -%}
{{- '<|role_end|>' -}}
{%- elif message.role == 'tool' -%}
{{- '<role>OBSERVATION</role><tool_response>' + message.content + '</tool_response><|role_end|>' -}}
{%- endif -%}
{%- endfor -%}
{{- '<role>ASSISTANT</role>' + ('<think>\\n' if open_thought else '') -}}`

export interface Parrot extends Running {
  /** What the last question was, as the engine saw it. */
  readonly prompt: () => string
}

/** A copy of the bundled model in `folder`, with a template that knows tools. */
export function modelWithTools(folder: string): string {
  const model = copyOfTiny(folder)
  writeFileSync(join(model, 'chat_template.jinja'), template)
  return model
}

/** Starts it over a copy of the bundled model in `folder`. */
export async function startParrot(folder: string): Promise<Parrot> {
  const model = modelWithTools(folder)
  const tokenizer = openTokenizer(model)
  let prompt = ''
  const open = async () => {
    const engine = await Engine.open(model, { sequences: 3, sampleable: tokenizer.size })
    return new SpeakingEngine(engine, (request) => {
      prompt = tokenizer.decode(request.prompt, { keepSpecial: true })
      const said =
        prompt
          .split('SAY:')
          .at(-1)
          ?.split(/<\|role_end\|>|<\/tool_response>/)[0] ?? ''
      return [...tokenizer.encode(said), ...engine.facts.config.eosIds.slice(0, 1)]
    }) as unknown as Engine
  }
  const running = await startServer({ folder: model, open })
  return { ...running, prompt: () => prompt }
}

/** What the server knows of an engine. */
class SpeakingEngine {
  constructor(
    private readonly engine: Engine,
    private readonly answerTo: (request: Request) => readonly number[],
  ) {}

  get facts(): EngineFacts {
    return this.engine.facts
  }

  get lost(): Engine['lost'] {
    return this.engine.lost
  }

  generate(request: Request): Generation {
    const all = this.answerTo(request)
    let isCancelled = false
    const generation = new Generation(() => {
      isCancelled = true
    })
    const left = all.slice(0, request.maxTokens)
    const isWhole = left.length === all.length
    const stats = {
      promptTokens: request.prompt.length,
      cachedTokens: 0,
      completionTokens: left.length,
      firstTokenSeconds: 0,
      decodeSeconds: 0,
      expertRequests: 0,
      decode: null,
    }
    const draw = () => {
      const token = left.shift()
      if (token === undefined || isCancelled) {
        const reason = isCancelled ? 'cancelled' : isWhole ? 'stop' : 'length'
        generation.end({ reason, message: '', stats })
        return
      }
      generation.push({ token, logprob: -0.5, top: [[token, -0.5]] })
      setImmediate(draw)
    }
    setImmediate(draw)
    return generation
  }

  close(): Promise<void> {
    return this.engine.close()
  }
}
