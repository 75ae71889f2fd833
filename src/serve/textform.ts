// The objects of /v1/completions: plain text, and log-probabilities in their older form, as lists that
// run beside each other. Offsets count the characters of the answer, so this form remembers how far
// each answer has come.
import type { Emission } from '../engine/loop.js'
import type { Tokenizer } from '../model/tokenizer.js'
import type { FormDetails } from './chatform.js'
import {
  type Ended,
  type Form,
  finite,
  type Identity,
  joined,
  type Naming,
  newNaming,
  type TokenUsage,
  type Told,
  tokensOf,
  usageObject,
  type WireEvent,
} from './form.js'
import type { Delta } from './reader.js'
import type { Refusal } from './refusal.js'

export class TextForm implements Form {
  readonly #shell: object
  /** Characters of the tokens told so far, by answer. */
  readonly #offsets = new Map<number, number>()

  constructor(
    { model, fingerprint }: Identity,
    private readonly tokenizer: Tokenizer,
    private readonly details: FormDetails,
    naming: Naming = newNaming(),
  ) {
    this.#shell = {
      id: `cmpl-${naming.nextId()}`,
      object: 'text_completion',
      created: naming.created,
      model,
      system_fingerprint: fingerprint,
    }
  }

  opening(): WireEvent[] {
    return []
  }

  delta(index: number, delta: Delta): WireEvent[] {
    // Text that is continued has no thinking and no calls.
    if (delta.kind !== 'text' || (delta.text === '' && !this.details.hasLogprobs)) return []
    return [this.#chunk(index, delta.text, this.#logprobs(index, delta.tokens))]
  }

  finish(index: number, { reason }: Ended): WireEvent[] {
    return [this.#chunk(index, '', null, reason)]
  }

  closing(usage: TokenUsage): WireEvent[] {
    const done: WireEvent = { name: null, data: '[DONE]' }
    if (!this.details.includesUsage) return [done]
    return [{ name: null, data: { ...this.#shell, choices: [], usage: usageObject(usage) } }, done]
  }

  failure({ body }: Refusal): WireEvent {
    return { name: null, data: body }
  }

  whole(answers: readonly Told[], usage: TokenUsage): object {
    const choices = answers.map(({ index, deltas, ended }) => {
      const tokens = tokensOf(deltas, 'text')
      return {
        index,
        text: joined(deltas, 'text'),
        logprobs: this.#logprobs(index, tokens),
        finish_reason: ended.reason,
      }
    })
    return { ...this.#shell, choices, usage: usageObject(usage) }
  }

  #chunk(index: number, text: string, logprobs: object | null, reason: string | null = null) {
    const data = {
      ...this.#shell,
      choices: [{ index, text, logprobs, finish_reason: reason }],
      ...(this.details.includesUsage ? { usage: null } : {}),
    }
    return { name: null, data }
  }

  #logprobs(index: number, tokens: readonly Emission[]): object | null {
    if (!this.details.hasLogprobs) return null
    let offset = this.#offsets.get(index) ?? 0
    const textOffsets = tokens.map(({ token }) => {
      const begin = offset
      offset += this.tokenizer.decode([token]).length
      return begin
    })
    this.#offsets.set(index, offset)
    return {
      tokens: tokens.map(({ token }) => this.#textOf(token)),
      token_logprobs: tokens.map(({ logprob }) => finite(logprob)),
      top_logprobs: tokens.map((emission) => this.#alternatives(emission)),
      text_offset: textOffsets,
    }
  }

  /** The likeliest tokens and the drawn one, by text; of two with the same text the likelier counts. */
  #alternatives({ token, logprob, top }: Emission): object {
    const entries = [...top, [token, logprob] as const]
    return Object.fromEntries(
      entries.reverse().map(([id, other]) => [this.#textOf(id), finite(other)]),
    )
  }

  #textOf(id: number): string {
    return this.tokenizer.decode([id], { keepSpecial: true })
  }
}
