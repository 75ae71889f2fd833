// The engine's turn: choose who shares the next step, run it, hand every sequence its results. It is
// driven by the engine's thread, and by tests without one; whoever drives it hears of tokens and
// endings through a listener. A sequence is over when the listener has been told.
import { Code, Control, Reason } from '../../native/index.js'
import { RequestLog } from './activity.js'
import { rowsOf, type Share, StepBatch } from './batch.js'
import type { TokenGrammar } from './grammarseat.js'
import { KvBlocks } from './kv.js'
import type { OpenModel } from './open.js'
import { StepOutcome } from './outcome.js'
import { PrefixTree } from './prefix.js'
import { CancelFlag, usualDrawShare } from './protocol.js'
import type { TraceRecorder } from './recorder.js'
import { Schedule } from './schedule.js'
import { type Scored, ScoreSheet } from './score.js'
import { type FinishReason, type Request, Sequence } from './sequence.js'
import {
  countExpertRequests,
  FillFigure,
  KvFigure,
  newRequestStats,
  type RequestStats,
  readUsage,
  type Usage,
  usageBetween,
  WidthFigure,
} from './stats.js'
import { step } from './step.js'
import type { Width } from './width.js'

/** A drawn token. */
export interface Emission {
  readonly token: number
  readonly logprob: number
  /** The most likely tokens there, [id, log-probability], as many as the request asked for. */
  readonly top: readonly (readonly [number, number])[]
}

/** How a request ended. */
export interface Ending {
  readonly reason: FinishReason
  /** Why it failed, one sentence. */
  readonly message: string
  /** True: it failed because nothing that the request allows could be drawn. */
  readonly isBarred?: boolean | undefined
  readonly stats: RequestStats
  /** Present when the request asked for log-probabilities of its prompt, or for routing. */
  readonly scored?: Scored | undefined
}

export interface Listener {
  onToken(slot: number, emission: Emission): void
  onEnding(slot: number, ending: Ending): void
}

/** What the loop keeps of a sequence beside the sequence itself. */
interface Account {
  readonly stats: RequestStats
  readonly sheet: ScoreSheet | null
  readonly arrivedMs: number
  firstTokenMs: number
  /** What the engine had used when the first token was drawn. */
  usage: Usage | null
}

export class Loop {
  #isParked = false
  readonly #prefixes: PrefixTree
  readonly #schedule: Schedule
  readonly #batch = new StepBatch()
  readonly #outcome = new StepOutcome()
  readonly #log: RequestLog
  readonly #accounts = new Map<Sequence, Account>()
  readonly #seen: Uint8Array
  readonly #moeLayers: number
  readonly #topK: number
  readonly #scoresPerToken: number

  constructor(
    private readonly model: OpenModel,
    private readonly listener: Listener,
    private readonly recorder: TraceRecorder | null = null,
    drawShare: number = usualDrawShare,
    /** Null: steps have as many sequences as there is room for. */
    private readonly width: Width | null = null,
  ) {
    const { config } = model.checkpoint
    const { plan } = model
    this.#log = new RequestLog(model.counters.activity)
    const { device } = model.stage
    const { kvStore } = model
    this.#prefixes = new PrefixTree(
      new KvBlocks(plan.kvBlocks),
      (from, to, tokens) => device.copyBlock(from, to, tokens),
      (node) => kvStore?.offer(node),
    )
    this.#schedule = new Schedule(
      this.#prefixes,
      plan.sequences,
      plan.stepTokens,
      drawShare,
      kvStore,
    )
    model.counters.kv[KvFigure.blocks] = plan.kvBlocks
    this.#countBlocks()
    this.#moeLayers = config.layers - config.firstMoeLayer
    this.#topK = config.topK
    const { kept } = model
    const kinds = kept === null ? 0 : 1 + kept.ahead.length * (kept.attends ? 2 : 1)
    this.#scoresPerToken = this.#moeLayers * kinds * config.experts
    this.#seen = new Uint8Array(config.experts)
  }

  get isIdle(): boolean {
    return this.#schedule.isIdle
  }

  /** Whether the last turn had no step to run, because all that is asked for is being read. */
  get isParked(): boolean {
    return this.#isParked
  }

  /** Why the last step gave no results, one sentence; empty when it did. */
  get message(): string {
    return this.#outcome.message
  }

  /** Takes a request; `slot` is the number of its cancel flag and its name towards the listener. */
  add(slot: number, request: Request, grammar: TokenGrammar | null = null): void {
    const wantsSheet = request.score || request.routing
    // What is told of every token of a prompt is only known where they are computed.
    const isTold = wantsSheet || this.recorder !== null
    const mayReuse = this.model.reusesPrefixes && !isTold
    const mayPark = this.model.kvByNeed && !isTold
    const sequence = new Sequence(slot, request, mayReuse, grammar, mayPark)
    this.#accounts.set(sequence, {
      stats: newRequestStats(request.prompt.length),
      sheet: wantsSheet ? new ScoreSheet(sequence, this.#moeLayers, this.#topK) : null,
      arrivedMs: performance.now(),
      firstTokenMs: 0,
      usage: null,
    })
    this.#schedule.add(sequence)
    this.#log.arrived(sequence)
  }

  /** One step, if anybody has work. Returns why it ended; done also when there was none. */
  turn(): Reason {
    this.#endUnwanted()
    this.tend()
    if (this.width !== null) this.#schedule.wish(this.width.wish, this.width.holdsPrompts)
    const shares = this.#schedule.next()
    this.#isParked = shares.length === 0
    this.#countBlocks()
    this.#countFill(shares.length)
    if (this.#isParked) return Reason.done
    this.#batch.fill(shares)
    this.#outcome.prepare(shares, this.#moeLayers * this.#topK, this.#scoresPerToken)
    const begin = performance.now()
    const reason = step(this.model.stage, this.#batch, this.#outcome)
    const ms = performance.now() - begin
    this.#schedule.took(ms)
    if (this.width !== null) this.#adapt(this.width, shares, ms / 1000)
    if (reason === Reason.done) this.#handOut(shares)
    else if (reason !== Reason.cancelled) this.#fail(shares, this.#outcome.message)
    this.#endUnwanted()
    return reason
  }

  /** Between steps, and while nobody asks for anything: what the drive of KV has brought or can take. */
  tend(): void {
    this.#schedule.tend()
  }

  /** Ends every sequence for the same reason. */
  endAll(reason: FinishReason, message: string): void {
    for (const sequence of this.#schedule.sequences) this.#end(sequence, reason, message)
  }

  #adapt(width: Width, shares: readonly Share[], seconds: number): void {
    let [tokens, positions] = [0, 0]
    for (const share of shares) {
      tokens += share.tokens
      positions += share.sequence.computed
    }
    width.took(shares.length, tokens, positions, seconds)
    const figures = this.model.counters.width
    figures[WidthFigure.atFirst] = width.atFirst
    figures[WidthFigure.best] = width.best
    figures[WidthFigure.settled] = width.isSettled ? 1 : 0
    figures[WidthFigure.trials] = width.trials
    figures[WidthFigure.changes] = width.changes
    figures[WidthFigure.speed] = width.speed
  }

  #handOut(shares: readonly Share[]): void {
    const tokens = shares.reduce((sum, share) => sum + share.tokens, 0)
    const perLayer = tokens * this.#topK
    const { experts } = this.#outcome
    const requests = countExpertRequests(experts, this.#moeLayers, perLayer, this.#seen)
    let row = 0
    let token = 0
    for (const [part, share] of shares.entries()) {
      const { sequence } = share
      if (this.#outcome.faults[part] !== Code.ok) {
        this.#end(sequence, 'failed', this.#outcome.message)
        row += rowsOf(share)
        token += share.tokens
        continue
      }
      // A draw whose mask has not come is made again, and for it the last token is read again.
      const isMissed = share.sampled && sequence.grammar?.isReady === false
      const read = share.tokens - (isMissed ? 1 : 0)
      this.#accountOf(sequence).sheet?.record(share, this.#outcome, row, token, tokens)
      this.recorder?.record(sequence, this.#outcome, token, read, tokens)
      row += rowsOf(share)
      token += share.tokens
      sequence.computed += read
      this.#log.read(sequence, read)
      this.#prefixes.grow(sequence)
      if (isMissed) continue
      if (share.sampled) this.#draw(sequence, row - 1, requests)
      else if (sequence.pending === 0) this.#end(sequence, 'length', '')
    }
  }

  #draw(sequence: Sequence, row: number, expertRequests: number): void {
    const account = this.#accountOf(sequence)
    const token = this.#outcome.next[row] ?? -1
    if (token < 0) {
      this.#bar(sequence)
      return
    }
    const now = performance.now()
    const { stats } = account
    // Not the number of draws: a sequence may go on from tokens that were drawn before.
    if (account.usage === null) {
      account.firstTokenMs = now
      account.usage = readUsage(this.model.counters)
      stats.firstTokenSeconds = (now - account.arrivedMs) / 1000
    } else {
      stats.decodeSeconds = (now - account.firstTokenMs) / 1000
      stats.expertRequests += expertRequests
    }
    sequence.accept(token)
    this.#log.drew(sequence)
    stats.completionTokens = sequence.drawn
    const logprob = this.#outcome.logprobs[row] ?? Number.NaN
    const top = this.#outcome.topOf(row, sequence.request.topLogprobs)
    this.listener.onToken(sequence.slot, { token, logprob, top })
    if (sequence.finished !== null) this.#end(sequence, sequence.finished, '')
  }

  /** Ends those that nobody wants any more, or that can draw nothing. */
  #endUnwanted(): void {
    for (const sequence of this.#schedule.sequences) {
      const flag = Atomics.load(this.model.control, Control.cancel + sequence.slot)
      sequence.goesOn = flag === CancelFlag.forNow
      if (flag !== CancelFlag.no) this.#end(sequence, 'cancelled', '')
      else if (sequence.grammar?.isRefused === true) this.#bar(sequence)
    }
  }

  #bar(sequence: Sequence): void {
    const why = 'no token may be drawn: what the request asks for excludes all'
    this.#end(sequence, 'failed', why, true)
  }

  #fail(shares: readonly Share[], message: string): void {
    for (const { sequence } of shares) this.#end(sequence, 'failed', message)
  }

  #end(sequence: Sequence, reason: FinishReason, message: string, isBarred = false): void {
    const { stats, sheet, usage } = this.#accountOf(sequence)
    if (usage !== null && stats.completionTokens > 1)
      stats.decode = usageBetween(usage, readUsage(this.model.counters))
    stats.cachedTokens = sequence.cached
    const { kv } = this.model.counters
    kv[KvFigure.hitTokens] = (kv[KvFigure.hitTokens] ?? 0) + sequence.cached
    const reusable = sequence.mayReuse ? sequence.promptLength - 1 : 0
    kv[KvFigure.queryTokens] = (kv[KvFigure.queryTokens] ?? 0) + reusable
    this.#schedule.remove(sequence)
    this.#log.ended(sequence, reason)
    this.#countBlocks()
    this.recorder?.end(sequence)
    this.#accounts.delete(sequence)
    const scored = sheet?.finish()
    this.listener.onEnding(sequence.slot, { reason, message, isBarred, stats, scored })
  }

  #countBlocks(): void {
    const { kv } = this.model.counters
    kv[KvFigure.used] = this.model.plan.kvBlocks - this.#prefixes.free
    kv[KvFigure.remembering] = this.#prefixes.remembering
  }

  /** The next step has so many sequences. */
  #countFill(sequences: number): void {
    const { fill } = this.model.counters
    const { places, timesParked, returned } = this.#schedule
    const add = (figure: number, by: number) => {
      fill[figure] = (fill[figure] ?? 0) + by
    }
    fill[FillFigure.parked] = timesParked
    fill[FillFigure.restored] = returned.restored
    fill[FillFigure.again] = returned.again
    if (sequences === 0) return
    add(FillFigure.steps, 1)
    add(FillFigure.sequences, sequences)
    const unfinished = this.#schedule.sequences.length + (fill[FillFigure.toCome] ?? 0)
    if (unfinished < places) return
    add(FillFigure.fullSteps, 1)
    add(FillFigure.fullSequences, sequences)
    add(FillFigure.fullShares, sequences / places)
  }

  #accountOf(sequence: Sequence): Account {
    const account = this.#accounts.get(sequence)
    if (account === undefined) throw new Error('a sequence without an account was stepped')
    return account
  }
}
