// The one place that turns what the engine draws into what a client is sent: tokens become pieces of
// reasoning and of answer, stop texts end the answer, and every piece carries the tokens that it was
// made of. Knows no wire format and no network. Stop texts are looked for in the answer only: a
// thinking model may well think one. A token's place is decided as late as its text: white space
// before an answer, or half a character, waits for what follows.
import type { Emission } from '../engine/loop.js'
import { TextStream } from '../model/textstream.js'
import { type TextPiece, ThinkingSplitter } from '../model/thinking.js'
import type { Tokenizer } from '../model/tokenizer.js'
import { StopFinder } from './stops.js'

/** A part of an answer; parts of one kind follow each other and are to be joined. */
export interface Delta {
  readonly kind: TextPiece['kind']
  /** May be empty where tokens had no text of their own, such as tags. */
  readonly text: string
  readonly tokens: readonly Emission[]
}

/** What a reader must know of the question. */
export interface Reading {
  /** Null: nothing of the answer is thinking. */
  readonly thinking: { readonly startsInside: boolean } | null
  /** Tokens that end the answer and are no part of it. */
  readonly stopIds: readonly number[]
  readonly stops: readonly string[]
}

/** Reads one sequence. */
export class AnswerReader {
  readonly #stream: TextStream
  readonly #splitter: ThinkingSplitter | null
  readonly #finder: StopFinder
  readonly #stopIds: readonly number[]
  #kind: TextPiece['kind'] | null = null
  /** Tokens whose place is not known yet, and the text they were drawn with. */
  #undecided: Emission[] = []
  #undecidedText = ''
  /** Tokens of the answer that are not given yet, each with where its text begins. */
  readonly #kept: { readonly emission: Emission; readonly start: number }[] = []
  #answerLength = 0
  #givenLength = 0
  #tokens = 0
  #reasoningTokens = 0

  constructor(tokenizer: Tokenizer, reading: Reading) {
    this.#stream = new TextStream(tokenizer)
    this.#splitter = reading.thinking === null ? null : new ThinkingSplitter(reading.thinking)
    this.#finder = new StopFinder(reading.stops)
    this.#stopIds = reading.stopIds
  }

  /** Whether a stop text was found: the rest is not wanted. */
  get isStopped(): boolean {
    return this.#finder.isFound
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
    if (this.#stopIds.includes(emission.token)) return []
    const text = this.#stream.push(emission.token)
    this.#undecided.push(emission)
    this.#undecidedText += text
    if (this.#splitter !== null) return this.#take(this.#splitter.push(text))
    return this.#take(text === '' ? [] : [{ kind: 'text', text }])
  }

  /** The sequence is over: returns what was held back. */
  end(): Delta[] {
    const rest = this.#stream.end()
    const pieces = this.#splitter?.push(rest) ?? (rest === '' ? [] : [{ kind: 'text', text: rest }])
    const deltas = this.#take([...pieces, ...(this.#splitter?.end() ?? [])])
    if (this.#kind === 'reasoning') {
      deltas.push(...this.#reason('', this.#undecided.splice(0)))
    } else {
      this.#keep()
      if (!this.isStopped) deltas.push(...this.#give(this.#finder.end(), true))
    }
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
        this.#keep()
        this.#answerLength += text.length
        deltas.push(...this.#give(this.#finder.push(text), false))
      }
      this.#undecidedText = ''
    }
    return deltas
  }

  /** At the answer's first piece: whether anything before it was thinking, empty thinking included. */
  #hasThought(text: string): boolean {
    if (this.#kind === null) return this.#splitter !== null && this.#undecidedText !== text
    return this.#kind === 'reasoning'
  }

  #reason(text: string, tokens: readonly Emission[]): Delta[] {
    this.#reasoningTokens += tokens.length
    return text === '' && tokens.length === 0 ? [] : [{ kind: 'reasoning', text, tokens }]
  }

  #keep(): void {
    for (const emission of this.#undecided.splice(0)) {
      this.#kept.push({ emission, start: this.#answerLength })
    }
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
