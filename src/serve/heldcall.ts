// A call that must be made, as JSON that the answer is held to: the arguments where one tool is meant, else
// an object of name and arguments, for one of the tools. What stands around it is begun in the prompt and
// ended by the reader, so that the tags are the template's own tokens. It knows no tokens.
import { isRecord } from '../model/json.js'
import { CALL_CLOSE, CALL_OPEN } from './calls.js'
import type { Schema } from './jsonschema.js'
import type { Tool, Toolset } from './tools.js'

/** What the answer is: `begun` in the prompt, then JSON, then `ended` without a draw. */
interface CallWish {
  readonly begun: string
  readonly schema: Schema
  readonly ended: string
}

/** The same, once it is known that the schema can be followed. */
export interface HeldCall {
  readonly begun: string
  /** As the engine takes it. */
  readonly schema: string
  readonly ended: string
}

/** Null: no call must be made. */
export function callWishOf({ tools, choice }: Toolset): CallWish | null {
  if (choice === 'auto' || choice === 'none') return null
  const meant = choice === 'required' ? tools : tools.filter(({ name }) => name === choice.name)
  const [only] = meant
  if (meant.length > 1 || only === undefined) {
    return { begun: `${CALL_OPEN}\n`, schema: anyCall(meant), ended: `\n${CALL_CLOSE}` }
  }
  return {
    begun: `${CALL_OPEN}\n{"name": ${JSON.stringify(only.name)}, "arguments": `,
    schema: argumentsOf(only),
    ended: `}\n${CALL_CLOSE}`,
  }
}

/** Arguments are an object, said or not. */
function argumentsOf({ parameters }: Tool): Schema {
  return { type: 'object', ...parameters }
}

function anyCall(tools: readonly Tool[]): Schema {
  const definitions: Record<string, unknown> = {}
  const calls = tools.map((tool, at) => {
    const moved = new Moved(`tool${at}`)
    Object.assign(definitions, moved.definitionsOf(argumentsOf(tool)))
    return {
      type: 'object',
      properties: { name: { const: tool.name }, arguments: { $ref: moved.root } },
      required: ['name', 'arguments'],
    }
  })
  return { anyOf: calls, $defs: definitions }
}

/** A schema that lies within another one: what it refers to has other names there. */
class Moved {
  constructor(private readonly name: string) {}

  get root(): string {
    return `#/$defs/${this.name}`
  }

  /** The schema itself and its definitions. */
  definitionsOf(schema: Schema): Record<string, unknown> {
    const all: Record<string, unknown> = { [this.name]: this.#part(schema) }
    for (const kind of kinds) {
      const map = schema[kind]
      if (!isRecord(map)) continue
      for (const [key, part] of Object.entries(map)) all[this.#nameOf(kind, key)] = this.#part(part)
    }
    return all
  }

  #nameOf(kind: string, key: string): string {
    return `${this.name}.${kind}.${key}`
  }

  #part(part: unknown): unknown {
    if (!isRecord(part)) return part
    return Object.fromEntries(
      Object.entries(part)
        .filter(([name]) => !kinds.includes(name))
        .map(([name, value]) => [name, this.#member(name, value)]),
    )
  }

  #member(name: string, value: unknown): unknown {
    if (name === '$ref') return this.#reference(value)
    if (name === 'properties' && isRecord(value)) {
      const entries = Object.entries(value).map(([key, part]) => [key, this.#part(part)])
      return Object.fromEntries(entries)
    }
    if (['anyOf', 'oneOf', 'allOf'].includes(name) && Array.isArray(value)) {
      return value.map((part) => this.#part(part))
    }
    return ['items', 'additionalProperties'].includes(name) ? this.#part(value) : value
  }

  #reference(ref: unknown): unknown {
    if (ref === '#') return this.root
    const [, kind, key] = /^#\/(\$defs|definitions)\/([^/~%]+)$/.exec(String(ref)) ?? []
    return kind === undefined || key === undefined ? ref : `#/$defs/${this.#nameOf(kind, key)}`
  }
}

const kinds = ['$defs', 'definitions']
