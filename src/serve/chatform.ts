// The objects of /v1/chat/completions. Thinking goes into `reasoning_content`, beside `content`, as
// clients of thinking models expect; its log-probabilities likewise stand beside those of the answer.
import { randomUUID } from 'node:crypto'
import type { Emission } from '../engine/loop.js'
import type { Tokenizer } from '../model/tokenizer.js'
import {
  type Form,
  type FormDetails,
  finite,
  type Identity,
  joined,
  type TokenUsage,
  type Told,
  usageObject,
} from './form.js'
import type { Delta } from './reader.js'

export class ChatForm implements Form {
  readonly #shell: object

  constructor(
    { model, fingerprint }: Identity,
    private readonly tokenizer: Tokenizer,
    private readonly details: FormDetails,
  ) {
    this.#shell = {
      id: `chatcmpl-${randomUUID().replaceAll('-', '')}`,
      created: Math.floor(Date.now() / 1000),
      model,
      system_fingerprint: fingerprint,
    }
  }

  opening(index: number): object {
    return this.#chunk(index, { role: 'assistant', content: '' })
  }

  delta(index: number, delta: Delta): object | null {
    const { kind, text } = delta
    if (text === '' && !this.details.hasLogprobs) return null
    const field = kind === 'text' ? 'content' : 'reasoning_content'
    return this.#chunk(index, text === '' ? {} : { [field]: text }, this.#logprobs([delta]))
  }

  finish(index: number, reason: string): object {
    return this.#chunk(index, {}, null, reason)
  }

  usage(usage: TokenUsage): object {
    return {
      ...this.#shell,
      object: 'chat.completion.chunk',
      choices: [],
      usage: usageObject(usage),
    }
  }

  whole(answers: readonly Told[], usage: TokenUsage): object {
    const choices = answers.map(({ index, deltas, reason }) => {
      const reasoning = joined(deltas, 'reasoning')
      return {
        index,
        message: {
          role: 'assistant',
          content: joined(deltas, 'text'),
          ...(reasoning === '' ? {} : { reasoning_content: reasoning }),
          refusal: null,
        },
        logprobs: this.#logprobs(deltas),
        finish_reason: reason,
      }
    })
    return { ...this.#shell, object: 'chat.completion', choices, usage: usageObject(usage) }
  }

  #chunk(
    index: number,
    delta: object,
    logprobs: object | null = null,
    reason: string | null = null,
  ) {
    return {
      ...this.#shell,
      object: 'chat.completion.chunk',
      choices: [{ index, delta, logprobs, finish_reason: reason }],
      ...(this.details.includesUsage ? { usage: null } : {}),
    }
  }

  #logprobs(deltas: readonly Delta[]): object | null {
    if (!this.details.hasLogprobs) return null
    const of = (kind: Delta['kind']) =>
      deltas
        .filter((delta) => delta.kind === kind)
        .flatMap(({ tokens }) => tokens)
        .map((emission) => this.#token(emission))
    const reasoning = of('reasoning')
    return {
      content: of('text'),
      refusal: null,
      ...(reasoning.length === 0 ? {} : { reasoning_content: reasoning }),
    }
  }

  #token({ token, logprob, top }: Emission): object {
    return {
      ...this.#named(token, logprob),
      top_logprobs: top.map(([id, other]) => this.#named(id, other)),
    }
  }

  /** A token may be half a character: its bytes say what its text cannot. */
  #named(id: number, logprob: number): object {
    return {
      token: this.tokenizer.decode([id], { keepSpecial: true }),
      logprob: finite(logprob),
      bytes: [...this.tokenizer.bytesOf(id)],
    }
  }
}
