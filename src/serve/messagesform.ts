// The objects and events of /v1/messages, as Anthropic has them: blocks of content, a thought, a text or
// the use of a tool each, that are started, filled and stopped one after the other; and errors in the
// shape that its clients read. A whole message is what its events would have built.
import { randomUUID } from 'node:crypto'
import type { Call } from './calls.js'
import {
  type Ended,
  type Form,
  type Identity,
  piecesOf,
  type TokenUsage,
  type Told,
  type WireEvent,
} from './form.js'
import type { Delta } from './reader.js'
import type { Refusal } from './refusal.js'

/** A block of text that is not stopped. */
interface OpenBlock {
  readonly kind: 'reasoning' | 'text'
  text: string
}

export class MessagesForm implements Form {
  readonly #shell: object
  /** Blocks that are stopped. */
  readonly #content: object[] = []
  #open: OpenBlock | null = null
  #stop: { readonly stop_reason: string; readonly stop_sequence: string | null } | null = null

  constructor({ model }: Identity) {
    const id = `msg_${randomUUID().replaceAll('-', '')}`
    this.#shell = { id, type: 'message', role: 'assistant', model }
  }

  opening(_index: number, promptTokens: number): WireEvent[] {
    const usage = { promptTokens, cachedTokens: 0, completionTokens: 0, reasoningTokens: 0 }
    return [event('message_start', { message: this.#message(usage) })]
  }

  delta(_index: number, delta: Delta): WireEvent[] {
    if (delta.kind === 'call') return [...this.#close(), ...this.#use(delta.call)]
    const { kind, text } = delta
    if (text === '') return []
    const events = this.#open?.kind === kind ? [] : this.#close()
    if (this.#open === null) {
      this.#open = { kind, text: '' }
      events.push(this.#start(blockOf(this.#open)))
    }
    this.#open.text += text
    events.push(
      this.#fill(
        kind === 'text' ? { type: 'text_delta', text } : { type: 'thinking_delta', thinking: text },
      ),
    )
    return events
  }

  finish(_index: number, ended: Ended): WireEvent[] {
    this.#stop = { stop_reason: stopReasonOf(ended), stop_sequence: ended.stop }
    return this.#close()
  }

  closing(usage: TokenUsage): WireEvent[] {
    return [
      event('message_delta', { delta: this.#stop, usage: usageOf(usage) }),
      event('message_stop', {}),
    ]
  }

  failure(refusal: Refusal): WireEvent {
    return { name: 'error', data: errorOf(refusal) }
  }

  whole(answers: readonly Told[], usage: TokenUsage): object {
    for (const { index, deltas, ended } of answers) {
      for (const delta of deltas) this.delta(index, delta)
      this.finish(index, ended)
    }
    return this.#message(usage)
  }

  #message(usage: TokenUsage): object {
    const stop = this.#stop ?? { stop_reason: null, stop_sequence: null }
    return { ...this.#shell, content: [...this.#content], ...stop, usage: usageOf(usage) }
  }

  #use({ name, arguments: given }: Call): WireEvent[] {
    const id = `toolu_${randomUUID().replaceAll('-', '')}`
    const block = { type: 'tool_use', id, name, input: {} }
    const events = [
      this.#start(block),
      ...piecesOf(given).map((piece) =>
        this.#fill({ type: 'input_json_delta', partial_json: piece }),
      ),
      this.#end(),
    ]
    this.#content.push({ ...block, input: JSON.parse(given) as unknown })
    return events
  }

  #close(): WireEvent[] {
    const open = this.#open
    if (open === null) return []
    // Nobody signs thoughts here, but clients wait for a signature.
    const signed =
      open.kind === 'reasoning' ? [this.#fill({ type: 'signature_delta', signature: '' })] : []
    const events = [...signed, this.#end()]
    this.#content.push(blockOf(open))
    this.#open = null
    return events
  }

  /** The block that is open comes after those that are stopped. */
  #start(block: object): WireEvent {
    return event('content_block_start', { index: this.#content.length, content_block: block })
  }

  #fill(delta: object): WireEvent {
    return event('content_block_delta', { index: this.#content.length, delta })
  }

  #end(): WireEvent {
    return event('content_block_stop', { index: this.#content.length })
  }
}

function event(type: string, fields: object): WireEvent {
  return { name: type, data: { type, ...fields } }
}

function blockOf({ kind, text }: OpenBlock): object {
  return kind === 'text'
    ? { type: 'text', text }
    : { type: 'thinking', thinking: text, signature: '' }
}

function stopReasonOf({ reason, stop }: Ended): string {
  if (stop !== null) return 'stop_sequence'
  if (reason === 'length') return 'max_tokens'
  return reason === 'tool_calls' ? 'tool_use' : 'end_turn'
}

/** What was read from the cache is told apart from the rest of the input. */
function usageOf({ promptTokens, cachedTokens, completionTokens }: TokenUsage): object {
  return {
    input_tokens: promptTokens - cachedTokens,
    cache_creation_input_tokens: 0,
    cache_read_input_tokens: cachedTokens,
    output_tokens: completionTokens,
  }
}

/** A refusal as Anthropic's clients read it. */
export function errorOf({ status, message }: Refusal): object {
  return { type: 'error', error: { type: typeOf(status), message } }
}

function typeOf(status: number): string {
  if (status === 401) return 'authentication_error'
  if (status === 403) return 'permission_error'
  if (status === 404) return 'not_found_error'
  if (status === 413) return 'request_too_large'
  if (status === 429) return 'rate_limit_error'
  if (status === 503) return 'overloaded_error'
  if (status === 504) return 'timeout_error'
  return status < 500 ? 'invalid_request_error' : 'api_error'
}
