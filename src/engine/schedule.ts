// Which sequences share a step. Sequences that draw go first, one token each; what is left of the
// step's tokens reads prompts, in order of arrival, so a long prompt is read in pieces between the
// draws of the others; after a step with prompts, steps without follow until the draws have had their share
// of the time. A sequence is admitted when its KV blocks are free, and begins behind what others have
// computed of its prompt; what another one computes in this very step it waits for. Where sequences take
// blocks as they grow and none is left, the newest is parked: it gives its blocks back and goes on later.
// What it had is written to a drive where that takes less time than to compute it again.
// Where fewer are wished for than there is room for, the newest wait with what they have.
import { type Share, shareOf } from './batch.js'
import type { KvStore } from './kvstore.js'
import type { PrefixTree } from './prefix.js'
import type { Sequence } from './sequence.js'

/** Of a step's time, what the next one waits for tokens that come back from a drive. */
const shareWaited = 0.05
/** Of what is known of the time of steps, how much the last one changes. */
const shareLearned = 0.125

export class Schedule {
  readonly #waiting: Sequence[] = []
  /** Admitted, while the beginning of their prompts is read from a drive. */
  readonly #fetching: Sequence[] = []
  readonly #running: Sequence[] = []
  /** Time that steps without prompts are to be given before the next with one. */
  #owedMs = 0
  #wish: number
  #holdsPrompts = false
  #isShort = false
  #timesParked = 0
  /** Tokens that came back from a drive, and those that were computed again. */
  #restored = 0
  #again = 0
  /** Tokens of the last shares, and how long steps of late took for each; how long the last one took. */
  #tokens = 0
  #msPerToken = Number.POSITIVE_INFINITY
  #stepMs = 0
  #hasDraws = false
  #hasPrompts = false

  constructor(
    private readonly prefixes: PrefixTree,
    private readonly sequencesMax: number,
    private readonly stepTokens: number,
    /** Of the time, from 0 to below 1, what sequences that draw are given beside prompts. */
    private readonly drawShare: number,
    /** Null: nothing is kept on a drive. */
    private readonly store: KvStore | null = null,
  ) {
    this.#wish = sequencesMax
  }

  /** So many sequences in a step, at most as many as there is room for; `holdsPrompts`: and nothing but draws. */
  wish(sequences: number, holdsPrompts: boolean): void {
    this.#wish = Math.max(1, Math.min(sequences, this.sequencesMax))
    this.#holdsPrompts = holdsPrompts
  }

  get isIdle(): boolean {
    return this.sequences.length === 0
  }

  get sequences(): readonly Sequence[] {
    return [...this.#running, ...this.#fetching, ...this.#waiting]
  }

  /** Sequences that fit into a step: fewer than are wished for while others wait for KV blocks. */
  get places(): number {
    const held = this.#running.length + this.#fetching.length
    return this.#isShort ? Math.min(held, this.#wish) : this.#wish
  }

  /** How often a sequence was parked. */
  get timesParked(): number {
    return this.#timesParked
  }

  /** Of tokens that were computed before: those that came back from a drive, and those computed again. */
  get returned(): { readonly restored: number; readonly again: number } {
    return { restored: this.#restored, again: this.#again }
  }

  add(sequence: Sequence): void {
    this.#waiting.push(sequence)
  }

  /** Takes a sequence out and frees its blocks. What an answer of a job had is of use to nobody else. */
  remove(sequence: Sequence): void {
    this.store?.forget(sequence)
    for (const list of [this.#waiting, this.#fetching, this.#running]) {
      const index = list.indexOf(sequence)
      if (index >= 0) list.splice(index, 1)
    }
    if (sequence.goesOn) this.store?.keep(sequence)
    const isOfUse = sequence.goesOn || !sequence.mayPark
    this.prefixes.release(sequence, isOfUse ? sequence.computed : sequence.promptLength)
  }

  /** Between steps: what the drive has brought, or brings within `patience` ms, and what it can take. */
  tend(patience = 0): void {
    const onReady = (sequence: Sequence, restored: number) => {
      this.#fetching.splice(this.#fetching.indexOf(sequence), 1)
      this.#restored += restored
      this.#begin(sequence)
    }
    this.store?.turn(this.prefixes, onReady, patience)
  }

  /** The shares of the next step; empty when nothing can run. */
  next(): Share[] {
    this.#admit()
    if (this.#fetching.some(({ mayPark }) => mayPark)) this.tend(this.#stepMs * shareWaited)
    const shares: Share[] = []
    let room = this.stepTokens
    for (const sequence of this.#running.slice(0, this.#wish)) {
      if (sequence.pending !== 1 || room < 1 || sequence.grammar?.isLate === true) continue
      if (!this.#hasRoomToGrow(sequence)) continue
      shares.push(shareOf(sequence, 1))
      room -= 1
    }
    this.#tokens = shares.length
    this.#hasDraws = shares.length > 0
    this.#hasPrompts = false
    if (!this.#hasDraws) this.#owedMs = 0
    // Where nobody draws, nobody is held up.
    if (this.#owedMs > 0 || (this.#holdsPrompts && this.#hasDraws)) return shares
    for (const sequence of this.#running.slice(0, this.#wish)) {
      if (sequence.pending <= 1 || room < 1) continue
      this.prefixes.follow(sequence)
      if (this.#isComputedBy(shares, sequence)) continue
      this.#hasPrompts = true
      const tokens = Math.min(sequence.pending, room)
      shares.push(shareOf(sequence, tokens))
      room -= tokens
      this.#tokens += tokens
    }
    return shares
  }

  /** How long the step of the last shares took. */
  took(ms: number): void {
    const perToken = ms / this.#tokens
    const isFirst = this.#msPerToken === Number.POSITIVE_INFINITY
    this.#msPerToken = isFirst
      ? perToken
      : this.#msPerToken + shareLearned * (perToken - this.#msPerToken)
    this.#stepMs = ms
    if (!this.#hasDraws) return
    if (this.#hasPrompts) this.#owedMs = (ms * this.drawShare) / (1 - this.drawShare)
    else this.#owedMs -= ms
  }

  #isComputedBy(shares: readonly Share[], sequence: Sequence): boolean {
    return shares.some((share) => this.prefixes.isNextOf(sequence, share.sequence, share.tokens))
  }

  /** False: it was parked itself. Those that are in the step already are older, and none of them is. */
  #hasRoomToGrow(sequence: Sequence): boolean {
    while (sequence.mayPark && !this.prefixes.extend(sequence, 1)) {
      const newest = this.#running.findLast(({ mayPark }) => mayPark) ?? sequence
      this.#park(newest)
      if (newest === sequence) return false
    }
    return true
  }

  /** It waits before all that have not begun. */
  #park(sequence: Sequence): void {
    this.#running.splice(this.#running.lastIndexOf(sequence), 1)
    this.#again -= sequence.toReadAgain
    if (this.store !== null && this.store.msPerToken < this.#msPerToken) this.store.keep(sequence)
    this.prefixes.release(sequence)
    sequence.park()
    this.#waiting.unshift(sequence)
    this.#isShort = true
    this.#timesParked += 1
  }

  #admit(): void {
    this.#isShort = false
    for (;;) {
      const first = this.#waiting[0]
      const running = this.#running.length + this.#fetching.length
      if (first === undefined || running >= this.#wish) return
      // Each of those that grow may need a block soon.
      this.#isShort = !this.prefixes.admit(first, first.mayPark ? running : 0)
      if (this.#isShort) return
      this.#waiting.shift()
      if (this.store?.fetch(first)) this.#fetching.push(first)
      else this.#begin(first)
    }
  }

  #begin(sequence: Sequence): void {
    this.#running.push(sequence)
    this.#again += sequence.toReadAgain
  }
}
