// The tools that a client offers and which of them the model shall call, in one form for all families of
// routes; and how the checkpoint's template is shown them. A call that must be made is begun in the
// prompt, so that the model can only go on with it, held to its schema where that can be followed
// (heldcall.ts). It knows no engine and no wire format.
import { isRecord } from '../model/json.js'
import { CALL_OPEN, type Call, type CallReading, parsedOrNull } from './calls.js'
import type { HeldCall } from './heldcall.js'
import { badRequest } from './refusal.js'

const TOOLS_MAX = 128

export interface Tool {
  readonly name: string
  readonly description?: string | undefined
  /** A JSON schema. */
  readonly parameters: Readonly<Record<string, unknown>>
  /** Whether a call that must be made has to keep to it, or be refused. */
  readonly isStrict: boolean
}

export type ToolChoice = 'auto' | 'none' | 'required' | { readonly name: string }

/** What of tools a chat holds; null: the model is told of none. */
export interface Toolset {
  /** At least one. */
  readonly tools: readonly Tool[]
  readonly choice: ToolChoice
  /** Whether at most one call is wanted. */
  readonly isSingle: boolean
}

/** Throws a Refusal where the choice does not fit the tools. */
export function toolsetOf(
  tools: readonly Tool[],
  choice: ToolChoice,
  isSingle: boolean,
): Toolset | null {
  const names = new Set(tools.map(({ name }) => name))
  if (tools.length > TOOLS_MAX) throw badRequest(`tools may hold at most ${TOOLS_MAX}`, 'tools')
  if (names.size < tools.length) throw badRequest('tools must have different names', 'tools')
  if (choice === 'none') return null
  if (typeof choice === 'object' && !names.has(choice.name)) {
    throw badRequest(`tool_choice names ${choice.name}, which is not among tools`, 'tool_choice')
  }
  if (tools.length > 0) return { tools, choice, isSingle }
  if (choice === 'auto') return null
  throw badRequest('tool_choice asks for a call, but there are no tools', 'tool_choice')
}

/** A tool from the fields in which all families send it; one without parameters takes none. */
export function toolOf(fields: {
  readonly name: string
  readonly description?: string | null | undefined
  readonly parameters?: Readonly<Record<string, unknown>> | null | undefined
  readonly strict?: boolean | null | undefined
}): Tool {
  const parameters = fields.parameters ?? { type: 'object', properties: {} }
  const { name, description, strict } = fields
  return { name, description: description ?? undefined, parameters, isStrict: strict === true }
}

/** How templates know a call of an earlier round: its arguments are an object where they can be one. */
export function templateCall(id: string | null, call: Call): object {
  const value = parsedOrNull(call.arguments)
  const given = isRecord(value) ? value : call.arguments
  const named = id === null ? {} : { id }
  return { ...named, type: 'function', function: { name: call.name, arguments: given } }
}

/** How templates know a tool. */
export function templateTool({ name, description, parameters }: Tool): object {
  const said = description === undefined ? {} : { description }
  return { type: 'function', function: { name, ...said, parameters } }
}

/** `held`: the call that must be made, where the answer is held to it; then it is the only one. */
export function callReadingOf(
  { tools, choice, isSingle }: Toolset,
  held: HeldCall | null = null,
): CallReading {
  const names = tools.map(({ name }) => name)
  if (held === null) return { names, begun: begunCall(choice), ended: '', isSingle }
  return { names, begun: held.begun, ended: held.ended, isSingle: true }
}

function begunCall(choice: ToolChoice): string {
  if (choice === 'required') return `${CALL_OPEN}\n{"name": "`
  if (typeof choice === 'string') return ''
  return `${CALL_OPEN}\n{"name": ${JSON.stringify(choice.name)}, "arguments": `
}
