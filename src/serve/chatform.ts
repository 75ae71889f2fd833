// The objects of /v1/chat/completions. Thinking goes into `reasoning_content`, beside `content`, as
// clients of thinking models expect; its log-probabilities likewise stand beside those of the answer.
// The tokens of a call have none: a client reads calls as data.
import type { Emission } from '../engine/loop.js'
import type { Tokenizer } from '../model/tokenizer.js'
import type { Call } from './calls.js'
import {
  type Ended,
  type Form,
  finite,
  type Identity,
  joined,
  type Naming,
  newNaming,
  piecesOf,
  type TokenUsage,
  type Told,
  tokensOf,
  usageObject,
  type WireEvent,
} from './form.js'
import type { Delta } from './reader.js'
import type { Refusal } from './refusal.js'

/** What of a chat or a completion a client wants to see. */
export interface FormDetails {
  readonly hasLogprobs: boolean
  /** Whether a stream ends with its usage. */
  readonly includesUsage: boolean
}

export class ChatForm implements Form {
  readonly #shell: object
  /** Calls so far, by answer. */
  readonly #calls = new Map<number, number>()

  constructor(
    { model, fingerprint }: Identity,
    private readonly tokenizer: Tokenizer,
    private readonly details: FormDetails,
    private readonly naming: Naming = newNaming(),
  ) {
    this.#shell = {
      id: `chatcmpl-${naming.nextId()}`,
      created: naming.created,
      model,
      system_fingerprint: fingerprint,
    }
  }

  opening(index: number): WireEvent[] {
    return [this.#chunk(index, { role: 'assistant', content: '' })]
  }

  delta(index: number, delta: Delta): WireEvent[] {
    if (delta.kind === 'call') return this.#callChunks(index, delta.call)
    const { kind, text } = delta
    if (text === '' && !this.details.hasLogprobs) return []
    const field = kind === 'text' ? 'content' : 'reasoning_content'
    return [this.#chunk(index, text === '' ? {} : { [field]: text }, this.#logprobs([delta]))]
  }

  finish(index: number, { reason }: Ended): WireEvent[] {
    return [this.#chunk(index, {}, null, reason)]
  }

  closing(usage: TokenUsage): WireEvent[] {
    const done: WireEvent = { name: null, data: '[DONE]' }
    if (!this.details.includesUsage) return [done]
    const object = 'chat.completion.chunk'
    const last = { ...this.#shell, object, choices: [], usage: usageObject(usage) }
    return [{ name: null, data: last }, done]
  }

  failure({ body }: Refusal): WireEvent {
    return { name: null, data: body }
  }

  whole(answers: readonly Told[], usage: TokenUsage): object {
    const choices = answers.map(({ index, deltas, ended }) => {
      const reasoning = joined(deltas, 'reasoning')
      const content = joined(deltas, 'text')
      const calls = deltas.flatMap((one) => (one.kind === 'call' ? [one.call] : []))
      return {
        index,
        message: {
          role: 'assistant',
          content: content === '' && calls.length > 0 ? null : content,
          ...(reasoning === '' ? {} : { reasoning_content: reasoning }),
          refusal: null,
          ...(calls.length === 0
            ? {}
            : { tool_calls: calls.map((call) => this.#callObject(call)) }),
        },
        logprobs: this.#logprobs(deltas),
        finish_reason: ended.reason,
      }
    })
    return { ...this.#shell, object: 'chat.completion', choices, usage: usageObject(usage) }
  }

  /** Who is called first, then with what, in pieces. */
  #callChunks(answer: number, call: Call): WireEvent[] {
    const index = this.#calls.get(answer) ?? 0
    this.#calls.set(answer, index + 1)
    const head = { index, ...this.#callObject({ ...call, arguments: '' }) }
    const rest = piecesOf(call.arguments).map((piece) => ({
      index,
      function: { arguments: piece },
    }))
    return [head, ...rest].map((one) => this.#chunk(answer, { tool_calls: [one] }))
  }

  #callObject(call: Call): object {
    return { id: `call_${this.naming.nextId()}`, type: 'function', function: call }
  }

  #chunk(
    index: number,
    delta: object,
    logprobs: object | null = null,
    reason: string | null = null,
  ): WireEvent {
    const data = {
      ...this.#shell,
      object: 'chat.completion.chunk',
      choices: [{ index, delta, logprobs, finish_reason: reason }],
      ...(this.details.includesUsage ? { usage: null } : {}),
    }
    return { name: null, data }
  }

  #logprobs(deltas: readonly Delta[]): object | null {
    if (!this.details.hasLogprobs) return null
    const of = (kind: 'reasoning' | 'text') =>
      tokensOf(deltas, kind).map((emission) => tokenLogprob(this.tokenizer, emission))
    const reasoning = of('reasoning')
    return {
      content: of('text'),
      refusal: null,
      ...(reasoning.length === 0 ? {} : { reasoning_content: reasoning }),
    }
  }
}

/** A drawn token with its log-probability and those of the likeliest. */
export function tokenLogprob(tokenizer: Tokenizer, { token, logprob, top }: Emission): object {
  return {
    ...named(tokenizer, token, logprob),
    top_logprobs: top.map(([id, other]) => named(tokenizer, id, other)),
  }
}

/** A token may be half a character: its bytes say what its text cannot. */
function named(tokenizer: Tokenizer, id: number, logprob: number): object {
  return {
    token: tokenizer.decode([id], { keepSpecial: true }),
    logprob: finite(logprob),
    bytes: [...tokenizer.bytesOf(id)],
  }
}
