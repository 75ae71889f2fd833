// The objects and events of /v1/responses: items of output, a thought, a text or a call each, that are
// begun, filled and done one after the other. A whole response is what its events would have built.
import { randomUUID } from 'node:crypto'
import type { Tokenizer } from '../model/tokenizer.js'
import type { Call } from './calls.js'
import { tokenLogprob } from './chatform.js'
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
import type { ResponsesBody } from './responsesbody.js'

type Status = 'in_progress' | 'completed' | 'incomplete'

/** An item of text that is not done. */
interface OpenItem {
  readonly kind: 'reasoning' | 'text'
  readonly id: string
  text: string
  readonly logprobs: object[]
}

export class ResponsesForm implements Form {
  readonly #shell: object
  /** Items that are done. */
  readonly #output: object[] = []
  #open: OpenItem | null = null
  #ended: Ended['reason'] = 'stop'
  #sequence = 0

  constructor(
    { model }: Identity,
    private readonly tokenizer: Tokenizer,
    body: ResponsesBody,
    private readonly hasLogprobs: boolean,
  ) {
    this.#shell = {
      id: newId('resp'),
      object: 'response',
      created_at: Math.floor(Date.now() / 1000),
      model,
      ...echoOf(body),
    }
  }

  opening(): WireEvent[] {
    const response = this.#response('in_progress')
    return [
      this.#event('response.created', { response }),
      this.#event('response.in_progress', { response }),
    ]
  }

  delta(_index: number, delta: Delta): WireEvent[] {
    if (delta.kind === 'call') return [...this.#close('completed'), ...this.#call(delta.call)]
    const { kind, text } = delta
    const logprobs =
      kind === 'text' && this.hasLogprobs
        ? delta.tokens.map((emission) => tokenLogprob(this.tokenizer, emission))
        : []
    if (text === '' && logprobs.length === 0) return []
    const events = this.#open?.kind === kind ? [] : [...this.#close('completed')]
    if (this.#open === null) {
      this.#open = { kind, id: newId(kind === 'text' ? 'msg' : 'rs'), text: '', logprobs: [] }
      events.push(...this.#begin(this.#open))
    }
    this.#open.text += text
    this.#open.logprobs.push(...logprobs)
    const place = this.#placeOf(this.#open)
    events.push(
      kind === 'text'
        ? this.#event('response.output_text.delta', { ...place, delta: text, logprobs })
        : this.#event('response.reasoning_text.delta', { ...place, delta: text }),
    )
    return events
  }

  finish(_index: number, { reason }: Ended): WireEvent[] {
    this.#ended = reason
    return this.#close(reason === 'length' ? 'incomplete' : 'completed')
  }

  closing(usage: TokenUsage): WireEvent[] {
    const status = this.#ended === 'length' ? 'incomplete' : 'completed'
    return [this.#event(`response.${status}`, { response: this.#response(status, usage) })]
  }

  failure({ message, body }: Refusal): WireEvent {
    const { code, type } = body.error
    const response = {
      ...this.#response('incomplete'),
      status: 'failed',
      incomplete_details: null,
      error: { code: code ?? type, message },
    }
    return this.#event('response.failed', { response })
  }

  whole(answers: readonly Told[], usage: TokenUsage): object {
    for (const { index, deltas, ended } of answers) {
      for (const delta of deltas) this.delta(index, delta)
      this.finish(index, ended)
    }
    return this.#response(this.#ended === 'length' ? 'incomplete' : 'completed', usage)
  }

  #response(status: Status, usage: TokenUsage | null = null): object {
    return {
      ...this.#shell,
      status,
      error: null,
      incomplete_details: status === 'incomplete' ? { reason: 'max_output_tokens' } : null,
      output: [...this.#output],
      usage: usage === null ? null : usageOf(usage),
    }
  }

  #begin(open: OpenItem): WireEvent[] {
    const place = this.#placeOf(open)
    const item = { ...itemOf(open, 'in_progress'), content: [] }
    const part = partOf(open)
    return [
      this.#event('response.output_item.added', { output_index: place.output_index, item }),
      this.#event('response.content_part.added', { ...place, part }),
    ]
  }

  #close(status: Status): WireEvent[] {
    const open = this.#open
    if (open === null) return []
    const place = this.#placeOf(open)
    const item = itemOf(open, status)
    const { text, logprobs } = open
    const events = [
      open.kind === 'text'
        ? this.#event('response.output_text.done', { ...place, text, logprobs })
        : this.#event('response.reasoning_text.done', { ...place, text }),
      this.#event('response.content_part.done', { ...place, part: partOf(open) }),
      this.#event('response.output_item.done', { output_index: place.output_index, item }),
    ]
    this.#output.push(item)
    this.#open = null
    return events
  }

  #call(call: Call): WireEvent[] {
    const item = { type: 'function_call', id: newId('fc'), call_id: newId('call'), ...call }
    const place = { output_index: this.#output.length, item_id: item.id }
    const { output_index } = place
    const begun = { ...item, arguments: '', status: 'in_progress' }
    const done = { ...item, status: 'completed' }
    const events = [
      this.#event('response.output_item.added', { output_index, item: begun }),
      ...piecesOf(call.arguments).map((delta) =>
        this.#event('response.function_call_arguments.delta', { ...place, delta }),
      ),
      this.#event('response.function_call_arguments.done', { ...place, ...call }),
      this.#event('response.output_item.done', { output_index, item: done }),
    ]
    this.#output.push(done)
    return events
  }

  /** Where an open item is: it comes after those that are done. */
  #placeOf({ id }: OpenItem) {
    return { item_id: id, output_index: this.#output.length, content_index: 0 }
  }

  #event(type: string, fields: object): WireEvent {
    const data = { type, sequence_number: this.#sequence, ...fields }
    this.#sequence += 1
    return { name: type, data }
  }
}

function partOf({ kind, text, logprobs }: OpenItem): object {
  if (kind === 'reasoning') return { type: 'reasoning_text', text }
  return { type: 'output_text', text, annotations: [], logprobs: [...logprobs] }
}

function itemOf(open: OpenItem, status: Status): object {
  const { id, kind } = open
  const content = [partOf(open)]
  if (kind === 'reasoning') return { type: 'reasoning', id, summary: [], content, status }
  return { type: 'message', id, role: 'assistant', content, status }
}

/** The request's own fields, which a response repeats. */
function echoOf(body: ResponsesBody): object {
  return {
    instructions: body.instructions ?? null,
    max_output_tokens: body.max_output_tokens ?? null,
    temperature: body.temperature ?? 1,
    top_p: body.top_p ?? 1,
    top_logprobs: body.top_logprobs ?? 0,
    tools: body.tools ?? [],
    tool_choice: body.tool_choice ?? 'auto',
    parallel_tool_calls: body.parallel_tool_calls ?? true,
    reasoning: { effort: body.reasoning?.effort ?? null, summary: null },
    text: { format: body.text?.format ?? { type: 'text' } },
    truncation: 'disabled',
    background: false,
    store: false,
    previous_response_id: null,
    metadata: body.metadata ?? {},
  }
}

function usageOf(usage: TokenUsage): object {
  const { promptTokens, cachedTokens, completionTokens, reasoningTokens } = usage
  return {
    input_tokens: promptTokens,
    input_tokens_details: { cached_tokens: cachedTokens },
    output_tokens: completionTokens,
    output_tokens_details: { reasoning_tokens: reasoningTokens },
    total_tokens: promptTokens + completionTokens,
  }
}

function newId(kind: string): string {
  return `${kind}_${randomUUID().replaceAll('-', '')}`
}
