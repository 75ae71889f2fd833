// The one place that turns what the engine draws into what a client is sent: tokens become pieces of
// reasoning, of answer and calls of tools, stop texts end the answer, and every piece carries the tokens
// that it was made of. Knows no wire format and no network. Stop texts are looked for in the answer
// only: a thinking model may well think one, and a call may hold one. A token's place is decided as late
// as its text: white space before an answer, or half a character, waits for what follows.
import type { Emission } from '../engine/loop.js'
import { TextStream } from '../model/textstream.js'
import { type TextPiece, ThinkingSplitter } from '../model/thinking.js'
import type { Tokenizer } from '../model/tokenizer.js'
import {
  type AnswerPart,
  CALL_CLOSE,
  CALL_OPEN,
  type Call,
  CallFinder,
  type CallReading,
} from './calls.js'
import { StopFinder } from './stops.js'

/** A part of an answer; parts of text of one kind follow each other and are to be joined. */
export type Delta =
  | {
      readonly kind: TextPiece['kind']
      /** May be empty where tokens had no text of their own, such as tags. */
      readonly text: string
      readonly tokens: readonly Emission[]
    }
  | { readonly kind: 'call'; readonly call: Call }

/** What a reader must know of the question. */
export interface Reading {
  /** Null: nothing of the answer is thinking. */
  readonly thinking: { readonly startsInside: boolean } | null
  /** Null: a call is text like any other. */
  readonly calls: CallReading | null
  /** Tokens that end the answer and are no part of it. */
  readonly stopIds: readonly number[]
  readonly stops: readonly string[]
}

/** Reads one sequence. */
export class AnswerReader {
  readonly #stream: TextStream
  readonly #splitter: ThinkingSplitter | null
  readonly #calls: CallFinder | null
  readonly #finder: StopFinder
  readonly #stopIds: readonly number[]
  readonly #ended: string
  /** Tags of calls that the tokenizer counts among its control tokens: they have a text here. */
  readonly #tags = new Map<number, string>()
  #kind: TextPiece['kind'] | null = null
  /** Tokens whose place is not known yet, each with the text it was drawn with. */
  #undecided: { readonly emission: Emission; readonly text: string }[] = []
  /** Tokens of the answer that are not given yet, each with where its text begins. */
  readonly #kept: { readonly emission: Emission; readonly start: number }[] = []
  #answerLength = 0
  #givenLength = 0
  #tokens = 0
  #reasoningTokens = 0
  /** What follows the last draw by itself. */
  #following = ''

  constructor(tokenizer: Tokenizer, reading: Reading) {
    this.#stream = new TextStream(tokenizer)
    this.#splitter = reading.thinking === null ? null : new ThinkingSplitter(reading.thinking)
    this.#calls = reading.calls === null ? null : new CallFinder(reading.calls)
    this.#finder = new StopFinder(reading.stops)
    this.#stopIds = reading.stopIds
    this.#ended = reading.calls?.ended ?? ''
    for (const tag of reading.calls === null ? [] : [CALL_OPEN, CALL_CLOSE]) {
      const id = tokenizer.idOf(tag)
      if (id !== null && tokenizer.isSpecial(id)) this.#tags.set(id, tag)
    }
  }

  /** Whether a stop text was found, or the only call made: the rest is not wanted. */
  get isStopped(): boolean {
    return this.#finder.found !== null || this.#calls?.isDone === true
  }

  /** The stop text that ended the answer. */
  get stop(): string | null {
    return this.#finder.found
  }

  get calls(): number {
    return this.#calls?.calls ?? 0
  }

  /** All tokens that were read, the one that ended the answer included. */
  get tokens(): number {
    return this.#tokens
  }

  get reasoningTokens(): number {
    return this.#reasoningTokens
  }

  push(emission: Emission): Delta[] {
    this.#tokens += 1
    if (this.#stopIds.includes(emission.token)) {
      this.#following = this.#ended
      return []
    }
    const text = this.#stream.push(emission.token) + (this.#tags.get(emission.token) ?? '')
    this.#undecided.push({ emission, text })
    if (this.#splitter !== null) return this.#take(this.#splitter.push(text))
    return this.#take(text === '' ? [] : [{ kind: 'text', text }])
  }

  /** The sequence is over: returns what was held back. */
  end(): Delta[] {
    const rest = this.#stream.end() + this.#following
    const pieces = this.#splitter?.push(rest) ?? (rest === '' ? [] : [{ kind: 'text', text: rest }])
    const deltas = this.#take([...pieces, ...(this.#splitter?.end() ?? [])])
    if (this.#kind === 'reasoning') {
      deltas.push(...this.#reason('', this.#undecided.splice(0)))
      return deltas
    }
    deltas.push(...this.#answer(this.#calls?.end() ?? []))
    for (const { emission } of this.#undecided.splice(0)) {
      this.#kept.push({ emission, start: this.#answerLength })
    }
    if (!this.isStopped) deltas.push(...this.#give(this.#finder.end(), true))
    return deltas
  }

  #take(pieces: readonly TextPiece[]): Delta[] {
    const deltas: Delta[] = []
    for (const { kind, text } of pieces) {
      if (kind === 'reasoning') {
        this.#kind = 'reasoning'
        deltas.push(...this.#reason(text, this.#undecided.splice(0)))
      } else {
        if (this.#hasThought(text)) {
          // All but the token that this text came with were thinking, closing tag included.
          deltas.push(...this.#reason('', this.#undecided.splice(0, this.#undecided.length - 1)))
        }
        this.#kind = 'text'
        const parts = this.#calls?.push(text) ?? [{ kind: 'text', text, after: 0 }]
        deltas.push(...this.#answer(parts))
      }
    }
    return deltas
  }

  /** At the answer's first piece: whether anything before it was thinking, empty thinking included. */
  #hasThought(text: string): boolean {
    if (this.#kind !== null) return this.#kind === 'reasoning'
    return this.#splitter !== null && this.#undecided.map((one) => one.text).join('') !== text
  }

  #reason(text: string, tokens: readonly { readonly emission: Emission }[]): Delta[] {
    this.#reasoningTokens += tokens.length
    if (text === '' && tokens.length === 0) return []
    return [{ kind: 'reasoning', text, tokens: tokens.map(({ emission }) => emission) }]
  }

  #answer(parts: readonly AnswerPart[]): Delta[] {
    const deltas: Delta[] = []
    for (const part of parts) {
      if (this.#finder.found !== null) break
      const tokens = this.#settled(part.after)
      if (part.kind === 'text') {
        const begin = this.#answerLength
        this.#answerLength += part.text.length
        for (const { emission, toEnd } of tokens) {
          this.#kept.push({ emission, start: Math.max(begin, this.#answerLength - toEnd) })
        }
        deltas.push(...this.#give(this.#finder.push(part.text), false))
      } else {
        // No stop text reaches over a call, and a call's own tokens are no part of the answer's text.
        deltas.push(...this.#give(this.#finder.end(), true))
        deltas.push({ kind: 'call', call: part.call })
      }
    }
    return deltas
  }

  /** Takes the tokens that begin before the last `after` characters, each with how far that is. */
  #settled(after: number): { readonly emission: Emission; readonly toEnd: number }[] {
    let toEnd = this.#undecided.reduce((sum, { text }) => sum + text.length, -after)
    const settled: { emission: Emission; toEnd: number }[] = []
    for (const { emission, text } of this.#undecided) {
      if (toEnd <= 0) break
      settled.push({ emission, toEnd })
      toEnd -= text.length
    }
    this.#undecided.splice(0, settled.length)
    return settled
  }

  /** Answer text that is certain, with the tokens that begin in it; at the end, with all. */
  #give(text: string, isLast: boolean): Delta[] {
    this.#givenLength += text.length
    const waits = this.#kept.findIndex(({ start }) => start >= this.#givenLength)
    const count = isLast || waits < 0 ? this.#kept.length : waits
    const tokens = this.#kept.splice(0, count).map(({ emission }) => emission)
    return text === '' && tokens.length === 0 ? [] : [{ kind: 'text', text, tokens }]
  }
}
