// The objects of /v1/completions: plain text, and log-probabilities in their older form, as lists that
// run beside each other. Offsets count the characters of the answer, so this form remembers how far
// each answer has come.
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

export class TextForm implements Form {
  readonly #shell: object
  /** Characters of the tokens told so far, by answer. */
  readonly #offsets = new Map<number, number>()

  constructor(
    { model, fingerprint }: Identity,
    private readonly tokenizer: Tokenizer,
    private readonly details: FormDetails,
  ) {
    this.#shell = {
      id: `cmpl-${randomUUID().replaceAll('-', '')}`,
      object: 'text_completion',
      created: Math.floor(Date.now() / 1000),
      model,
      system_fingerprint: fingerprint,
    }
  }

  opening(): null {
    return null
  }

  delta(index: number, delta: Delta): object | null {
    if (delta.text === '' && !this.details.hasLogprobs) return null
    return this.#chunk(index, delta.text, this.#logprobs(index, delta.tokens))
  }

  finish(index: number, reason: string): object {
    return this.#chunk(index, '', null, reason)
  }

  usage(usage: TokenUsage): object {
    return { ...this.#shell, choices: [], usage: usageObject(usage) }
  }

  whole(answers: readonly Told[], usage: TokenUsage): object {
    const choices = answers.map(({ index, deltas, reason }) => {
      const tokens = deltas.flatMap((delta) => delta.tokens)
      return {
        index,
        text: joined(deltas, 'text'),
        logprobs: this.#logprobs(index, tokens),
        finish_reason: reason,
      }
    })
    return { ...this.#shell, choices, usage: usageObject(usage) }
  }

  #chunk(index: number, text: string, logprobs: object | null, reason: string | null = null) {
    return {
      ...this.#shell,
      choices: [{ index, text, logprobs, finish_reason: reason }],
      ...(this.details.includesUsage ? { usage: null } : {}),
    }
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
