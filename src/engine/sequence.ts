// One request's tokens, from prompt to last draw. It knows when it is finished and why; it knows
// nothing of other sequences, of steps or of text.
import type { GrammarWish } from './grammar.js'
import type { TokenGrammar } from './grammarseat.js'
import type { PrefixNode } from './prefix.js'
import type { Sampling } from './sampling.js'
import { type ThinkingLimit, ThinkingWatch } from './thinkinglimit.js'

/** What is asked of the engine; crosses to its thread as it is. */
export interface Request {
  readonly prompt: Int32Array
  /** Most tokens to draw; 0: only read (and score) the prompt. */
  readonly maxTokens: number
  /** Ids that end the text; the one drawn is its last token. */
  readonly stopIds: readonly number[]
  readonly sampling: Sampling
  /** Most likely tokens to report at every position with logits. */
  readonly topLogprobs: number
  /** Whether log-probabilities of the prompt's own tokens are wanted. */
  readonly score: boolean
  /** Whether the experts of every token are wanted. */
  readonly routing: boolean
  /** One bit per vocabulary id, set: may be drawn. Absent: all may. */
  readonly allowed?: Uint32Array | undefined
  /** Absent: thinking ends where the model ends it. */
  readonly thinking?: ThinkingLimit | undefined
  /** Absent: any text. */
  readonly grammar?: GrammarWish | undefined
  /**
   * Tokens that were drawn for this request before, fewer than maxTokens, none of them its last. They
   * are read again behind the prompt, and the draws go on with the number after theirs.
   */
  readonly drawnBefore?: Int32Array | undefined
}

export type FinishReason = 'stop' | 'length' | 'cancelled' | 'failed'

export class Sequence {
  /** Prompt, then drawn tokens, those drawn before among them; [0, length) are known. */
  readonly tokens: Int32Array
  length: number
  /** Tokens whose keys and values are kept. */
  computed = 0
  finished: FinishReason | null = null
  /** Of those, tokens of the prompt that were known before and not computed. */
  cached = 0
  /** KV blocks, taken when the sequence is admitted. */
  blocks: number[] = []
  /** What stands for the first of them, full ones, where others may find them. */
  path: PrefixNode[] = []
  /** Whether it will go on after its end, in another run. */
  goesOn = false
  readonly #thinking: ThinkingWatch | null
  /** Tokens that were computed once and are not any more. */
  #lost = 0

  constructor(
    /** Number of its cancel flag. */
    readonly slot: number,
    readonly request: Request,
    /** Whether keys and values of its prompt may be taken from others. */
    readonly mayReuse = false,
    /** Made of the request's own wish. */
    readonly grammar: TokenGrammar | null = null,
    /** Whether it takes KV blocks as it grows and can give them all back; else it has them from the start. */
    readonly mayPark = false,
  ) {
    this.tokens = new Int32Array(request.prompt.length + request.maxTokens)
    this.tokens.set(request.prompt)
    this.length = request.prompt.length
    this.#thinking = request.thinking === undefined ? null : new ThinkingWatch(request.thinking)
    const { drawnBefore = new Int32Array(0) } = request
    for (const token of drawnBefore) this.accept(token)
    // The last one that was drawn was never read.
    if (drawnBefore.length > 0) this.#lost = this.length - 1
    if (this.length === 0) throw new RangeError('a sequence needs at least one token')
  }

  get promptLength(): number {
    return this.request.prompt.length
  }

  get drawn(): number {
    return this.length - this.promptLength
  }

  /** Tokens that the next steps must read. */
  get pending(): number {
    return this.length - this.computed
  }

  /** The id that the next draw must give, or -1 where it is free. */
  get forced(): number {
    return this.#thinking?.forced ?? -1
  }

  /** Tokens that its KV blocks must have room for when it begins. */
  get reserved(): number {
    return this.mayPark ? this.length : this.tokens.length
  }

  /** Of its tokens, how many may be taken from others: never the last, whose logits are wanted. */
  get reusable(): number {
    return this.mayReuse ? this.length - 1 : 0
  }

  /** Tokens that it reads though they were computed once. */
  get toReadAgain(): number {
    return Math.max(0, this.#lost - this.computed)
  }

  /** The first `count` tokens are computed: others have done it, or it has itself before it was parked. */
  reuse(count: number): void {
    const known = Math.max(this.computed, this.#lost)
    this.cached += Math.max(0, Math.min(count, this.promptLength) - known)
    this.computed = Math.max(this.computed, count)
  }

  /** Its blocks are gone: when it goes on, all that it had is read again, which gives the same bits. */
  park(): void {
    this.#lost = Math.max(this.#lost, this.computed)
    this.computed = 0
  }

  /**
   * One bit per vocabulary id that the next draw may give; undefined: all may. Those of a grammar are known
   * once they are taken from it.
   */
  get allowed(): Uint32Array | undefined {
    return this.grammar?.isFree === false ? this.grammar.words : this.request.allowed
  }

  /** Whether reading `count` more tokens ends in a draw. */
  drawsAfter(count: number): boolean {
    return this.computed + count === this.length && this.drawn < this.request.maxTokens
  }

  /** Takes a drawn token; sets `finished` when it was the last. */
  accept(token: number): void {
    this.tokens[this.length] = token
    this.length += 1
    this.#thinking?.accept(token)
    if (this.request.stopIds.includes(token)) this.finished = 'stop'
    else if (this.drawn >= this.request.maxTokens) this.finished = 'length'
    if (this.finished === null) this.grammar?.accept(token)
  }
}
