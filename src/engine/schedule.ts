// Which sequences share a step. Sequences that draw go first, one token each; what is left of the
// step's tokens reads prompts, in order of arrival, so a long prompt is read in pieces between the
// draws of the others; after a step with prompts, steps without follow until the draws have had their share
// of the time. A sequence is admitted when its KV blocks are free.
import { type Share, shareOf } from './batch.js'
import { blocksFor, type KvBlocks } from './kv.js'
import type { Sequence } from './sequence.js'

export class Schedule {
  readonly #waiting: Sequence[] = []
  readonly #running: Sequence[] = []
  /** Time that steps without prompts are to be given before the next with one. */
  #owedMs = 0
  #hasDraws = false
  #hasPrompts = false

  constructor(
    private readonly kv: KvBlocks,
    private readonly sequencesMax: number,
    private readonly stepTokens: number,
    /** Of the time, from 0 to below 1, what sequences that draw are given beside prompts. */
    private readonly drawShare: number,
  ) {}

  get isIdle(): boolean {
    return this.#waiting.length === 0 && this.#running.length === 0
  }

  get sequences(): readonly Sequence[] {
    return [...this.#running, ...this.#waiting]
  }

  add(sequence: Sequence): void {
    this.#waiting.push(sequence)
  }

  /** Takes a sequence out and frees its blocks. */
  remove(sequence: Sequence): void {
    for (const list of [this.#waiting, this.#running]) {
      const index = list.indexOf(sequence)
      if (index >= 0) list.splice(index, 1)
    }
    this.kv.give(sequence.blocks)
    sequence.blocks = []
  }

  /** The shares of the next step; empty when nothing can run. */
  next(): Share[] {
    this.#admit()
    const shares: Share[] = []
    let room = this.stepTokens
    for (const sequence of this.#running) {
      if (sequence.pending !== 1 || room < 1) continue
      shares.push(shareOf(sequence, 1))
      room -= 1
    }
    this.#hasDraws = shares.length > 0
    this.#hasPrompts = false
    if (!this.#hasDraws) this.#owedMs = 0
    if (this.#owedMs > 0) return shares
    for (const sequence of this.#running) {
      if (sequence.pending <= 1 || room < 1) continue
      this.#hasPrompts = true
      const tokens = Math.min(sequence.pending, room)
      shares.push(shareOf(sequence, tokens))
      room -= tokens
    }
    return shares
  }

  /** How long the step of the last shares took. */
  took(ms: number): void {
    if (!this.#hasDraws) return
    if (this.#hasPrompts) this.#owedMs = (ms * this.drawShare) / (1 - this.drawShare)
    else this.#owedMs -= ms
  }

  #admit(): void {
    for (;;) {
      const first = this.#waiting[0]
      if (first === undefined || this.#running.length >= this.sequencesMax) return
      const blocks = this.kv.take(blocksFor(first.tokens.length))
      if (blocks === null) return
      first.blocks = blocks
      this.#waiting.shift()
      this.#running.push(first)
    }
  }
}
