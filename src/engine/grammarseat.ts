// Where the engine's thread and a grammar's thread meet for one sequence: shared memory. The engine writes
// the tokens it has drawn, the other one the mask of the next draw, and neither waits for a message. All
// tokens stay, so whoever takes the grammar's part anew can follow from the first. It knows no library and
// no steps.
import type { GrammarWish } from './grammar.js'

/** Words of a seat. */
const SeatField = {
  /** Tokens that the engine has written. */
  told: 0,
  /** Of how many tokens the mask is what may follow; -1: of none yet. */
  done: 1,
  /** 1: the grammar cannot be followed any more. */
  refused: 2,
  count: 3,
} as const

/** Words by which others see whether it gets on. */
export const AtWork = {
  /** The number of what it works for; 0: nothing. */
  number: 0,
  /** Pieces of work that are done. */
  done: 1,
  count: 2,
} as const

/** Shared memory; crosses to both threads as it is. */
export interface GrammarSeat {
  /** [SeatField.count] */
  readonly words: Int32Array
  /** [most tokens that are drawn] */
  readonly tokens: Int32Array
  /** One bit per id of the vocabulary. */
  readonly mask: Uint32Array
  /** A word that changes with every token, for the grammar's thread to sleep on. */
  readonly bell: Int32Array
  /** A word that changes with every mask, for the engine's thread to sleep on. */
  readonly wake: Int32Array
}

export function newSeat(
  vocabulary: number,
  tokensMost: number,
  bell: Int32Array,
  wake: Int32Array,
): GrammarSeat {
  const words = new Int32Array(new SharedArrayBuffer(SeatField.count * 4))
  words[SeatField.done] = -1
  return {
    words,
    tokens: new Int32Array(new SharedArrayBuffer(tokensMost * 4)),
    mask: new Uint32Array(new SharedArrayBuffer(Math.ceil(vocabulary / 32) * 4)),
    bell,
    wake,
  }
}

/** Changes a word that a thread sleeps on, and wakes it. */
export function ring(word: Int32Array): void {
  Atomics.add(word, 0, 1)
  Atomics.notify(word, 0)
}

/** The grammar's side: how many tokens lie there. */
export function toldTo({ words }: GrammarSeat): number {
  return Atomics.load(words, SeatField.told)
}

/** The grammar's side: the mask is what may follow the first `told` tokens. */
export function publish({ words, wake }: GrammarSeat, told: number): void {
  Atomics.store(words, SeatField.done, told)
  Atomics.notify(words, SeatField.done)
  ring(wake)
}

/** The grammar's side: no mask will come any more. */
export function refuse({ words, wake }: GrammarSeat): void {
  Atomics.store(words, SeatField.refused, 1)
  Atomics.notify(words, SeatField.done)
  ring(wake)
}

/** The engine's side: what one sequence may draw. Thinking is free, and the grammar hears nothing of it. */
export class TokenGrammar {
  /** One bit per id, good after `takes`. */
  readonly words: Uint32Array
  #isThinking: boolean
  #isFirst = true
  #told = 0
  /** Of how many tokens `words` are what may follow. */
  #taken = -1
  #hasMissed = false

  constructor(
    private readonly seat: GrammarSeat,
    private readonly thinking: GrammarWish['thinking'],
  ) {
    this.words = new Uint32Array(seat.mask.length)
    this.#isThinking = thinking?.startsInside === true
  }

  /** Whether the next draw may give any id. */
  get isFree(): boolean {
    return this.#isThinking
  }

  /** Whether the next draw may be made: it is free, or its mask was taken. */
  get isReady(): boolean {
    return this.#isThinking || this.#taken === this.#told
  }

  /** Whether a draw was given up for want of its mask, which still is not there. */
  get isLate(): boolean {
    return this.#hasMissed && Atomics.load(this.seat.words, SeatField.done) !== this.#told
  }

  get isRefused(): boolean {
    return Atomics.load(this.seat.words, SeatField.refused) !== 0
  }

  /** Takes the mask of the next draw into `words`, waiting for it at most until then; returns whether it came. */
  takes(untilMs: number): boolean {
    const { words, mask } = this.seat
    for (;;) {
      const done = Atomics.load(words, SeatField.done)
      if (done === this.#told) break
      const leftMs = untilMs - performance.now()
      if (this.isRefused || !(leftMs > 0)) {
        this.#hasMissed = true
        return false
      }
      Atomics.wait(words, SeatField.done, done, leftMs)
    }
    this.#hasMissed = false
    if (this.#taken === this.#told) return true
    this.words.set(mask)
    // A thought may be opened, if nothing came before it.
    const open = this.#isFirst ? (this.thinking?.tags.open ?? -1) : -1
    if (open >= 0) this.words[open >> 5] = (this.words[open >> 5] ?? 0) | (1 << (open & 31))
    this.#taken = this.#told
    return true
  }

  /** Takes a drawn token, which is not one that ends the text. */
  accept(token: number): void {
    const opens = this.#isFirst && token === this.thinking?.tags.open
    this.#isFirst = false
    if (opens || this.#isThinking) {
      this.#isThinking = token !== this.thinking?.tags.close
      // A first mask that allowed to think does so no more.
      this.#taken = -1
      return
    }
    const { words, tokens, bell } = this.seat
    tokens[this.#told] = token
    this.#told += 1
    Atomics.store(words, SeatField.told, this.#told)
    ring(bell)
  }
}
