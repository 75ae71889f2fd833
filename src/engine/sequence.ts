// One request's tokens, from prompt to last draw. It knows when it is finished and why; it knows
// nothing of other sequences, of steps or of text.
import type { Sampling } from './sampling.js'

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
  /** KV blocks, taken when the sequence is admitted. */
  blocks: readonly number[] = []

  constructor(
    /** Number of its cancel flag. */
    readonly slot: number,
    readonly request: Request,
  ) {
    this.tokens = new Int32Array(request.prompt.length + request.maxTokens)
    this.tokens.set(request.prompt)
    const { prompt, drawnBefore } = request
    if (drawnBefore !== undefined) this.tokens.set(drawnBefore, prompt.length)
    this.length = prompt.length + (drawnBefore?.length ?? 0)
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

  /** Whether reading `count` more tokens ends in a draw. */
  drawsAfter(count: number): boolean {
    return this.computed + count === this.length && this.drawn < this.request.maxTokens
  }

  /** Takes a drawn token; sets `finished` when it was the last. */
  accept(token: number): void {
    this.tokens[this.length] = token
    this.length += 1
    if (this.request.stopIds.includes(token)) this.finished = 'stop'
    else if (this.drawn >= this.request.maxTokens) this.finished = 'length'
  }
}
