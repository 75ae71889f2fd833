// How far a job is, on stderr: one line that is written over on a terminal, now and then a line of its
// own elsewhere, and a summary at the end. Figures come from the tally and from the engine's counters.
import type { Tally } from '../batch/tally.js'
import type { EngineFacts } from '../engine/protocol.js'
import { FillFigure, KvFigure, readUsage, usageBetween, WidthFigure } from '../engine/stats.js'
import type { JobFigures } from '../engine/telemetry.js'
import { EnergyMeter } from './energy.js'
import type { SharedFlags } from './flags.js'
import type { ProgressStream } from './progress.js'
import { sizeText, timeText } from './progress.js'

const TERMINAL_MS = 500
const LINE_MS = 30_000
const ERASE_LINE = '\r\u001b[K'

export class BatchScreen {
  readonly #beginMs = performance.now()
  readonly #before
  readonly #linesBefore: number
  readonly #timer: NodeJS.Timeout | null

  constructor(
    private readonly tally: Tally,
    private readonly lines: number,
    private readonly facts: EngineFacts,
    private readonly flags: SharedFlags,
    isShown: boolean,
    private readonly stream: ProgressStream = process.stderr,
    /** Null: the machine tells no energy. */
    private readonly energy: EnergyMeter | null = EnergyMeter.open(),
  ) {
    this.#before = readUsage(facts.counters)
    this.#linesBefore = tally.lines
    const everyMs = stream.isTTY ? TERMINAL_MS : LINE_MS
    this.#timer = isShown ? setInterval(() => this.#show(), everyMs).unref() : null
  }

  /** Whatever comes next has the line for itself. */
  end(): void {
    this.energy?.close()
    if (this.#timer === null) return
    clearInterval(this.#timer)
    if (this.stream.isTTY) this.stream.write(ERASE_LINE)
  }

  /** How far the job is, for a screen. */
  figures(): JobFigures {
    const { tally, lines } = this
    const secondsLeft = this.#secondsLeft()
    return {
      ...{ lines, linesDone: tally.lines, linesAnswered: tally.answered },
      ...(secondsLeft === null ? {} : { secondsLeft }),
    }
  }

  /** What has been done, once all is. */
  summary(): string[] {
    const { tally, facts } = this
    const seconds = this.#seconds()
    const { misses, requests, bytesRead } = this.#usage()
    const { config } = facts
    const texts = [
      `${tally.lines} lines, ${tally.answered} answered; prompts ${tally.promptTokens} tokens${this.#known()}, answers ${tally.completionTokens}`,
    ]
    if (tally.drawn > 0) {
      const experts = tally.expertsPerLayer(config.layers - config.firstMoeLayer)
      texts.push(
        `this run: ${tally.drawn} tokens in ${timeText(seconds)}, ${(tally.drawn / seconds).toPrecision(3)} per second` +
          (experts === null ? '' : `; ${experts.toPrecision(3)} experts a layer and step`),
        this.#fill(),
        ...this.#width(),
      )
      if (requests > 0)
        texts.push(`experts: ${misses} of ${requests} requests missed, ${sizeText(bytesRead)} read`)
      const joules = this.energy?.joules() ?? 0
      if (joules > 0)
        texts.push(
          `the processor took ${(joules / 3600).toPrecision(3)} Wh, ${(joules / tally.drawn).toPrecision(3)} J a token`,
        )
    }
    const { lines, shares } = tally.passes()
    const passes = shares.map(([k, share]) => `pass@${k} ${share.toFixed(4)}`)
    if (lines > 0) texts.push(`${lines} lines with a grade: ${passes.join(', ')}`)
    return texts
  }

  /** Of the prompts of this run, what an earlier answer had computed. */
  #known(): string {
    const known = this.facts.counters.kv[KvFigure.hitTokens] ?? 0
    return known === 0 ? '' : `, ${known} of them known`
  }

  /** How full steps were, of all and of those that could have been full. */
  #fill(): string {
    const { counters, plan } = this.facts
    const of = (figure: number) => counters.fill[figure] ?? 0
    const places = counters.width[WidthFigure.best] || plan.sequences
    const texts = [
      `mean batch ${meanOf(of(FillFigure.sequences), of(FillFigure.steps))} of ${places} in ${of(FillFigure.steps)} steps`,
    ]
    const full = of(FillFigure.fullSteps)
    if (full > 0)
      texts.push(
        `${meanOf(of(FillFigure.fullSequences), full)} in the ${full} with enough left to fill them, ` +
          `${meanOf(of(FillFigure.fullShares), full)} of what had room`,
      )
    const parked = of(FillFigure.parked)
    const restored = of(FillFigure.restored)
    const again = of(FillFigure.again)
    if (parked > 0) texts.push(`${parked} times an answer gave its room to others`)
    if (restored + again > 0)
      texts.push(`${restored} tokens came back from the drive, ${again} were computed again`)
    return texts.join('; ')
  }

  /** How many answers at once were found to be best, where that was tried. */
  #width(): string[] {
    const of = (figure: number) => this.facts.counters.width[figure] ?? 0
    const [atFirst, best, trials] = [WidthFigure.atFirst, WidthFigure.best, WidthFigure.trials].map(
      of,
    )
    if (trials === 0) return []
    const other =
      best === atFirst
        ? ', as at first'
        : `, ${of(WidthFigure.speed).toFixed(2)} times as fast as the ${atFirst} at first`
    const end = of(WidthFigure.settled) === 1 ? '' : '; not all was tried'
    return [
      `${best} at once were best by what was measured${other}: ${trials} other ${trials === 1 ? 'number' : 'numbers'} tried${end}`,
    ]
  }

  /** The same for a program, keys as a promise. Rates in tokens per second; shares and means of steps. */
  report() {
    const { tally, facts } = this
    const { misses, requests, bytesRead } = this.#usage()
    const { fill, width, kv } = facts.counters
    const of = (figure: number) => fill[figure] ?? 0
    const found = (figure: number) => width[figure] ?? 0
    const mean = (sum: number, count: number) => (of(count) === 0 ? null : of(sum) / of(count))
    return {
      lines: tally.lines,
      answered: tally.answered,
      prompt_tokens: tally.promptTokens,
      completion_tokens: tally.completionTokens,
      drawn_tokens: tally.drawn,
      known_tokens: kv[KvFigure.hitTokens] ?? 0,
      seconds: this.#seconds(),
      tokens_s: tally.drawn / this.#seconds(),
      energy_j: this.energy?.joules() ?? null,
      experts: { requests, misses, bytes_read: bytesRead },
      steps: {
        count: of(FillFigure.steps),
        mean_batch: mean(FillFigure.sequences, FillFigure.steps),
        full_share: mean(FillFigure.fullShares, FillFigure.fullSteps),
        parked: of(FillFigure.parked),
      },
      batch: {
        most: facts.plan.sequences,
        at_first: found(WidthFigure.atFirst) || null,
        best: found(WidthFigure.best) || null,
        tried: found(WidthFigure.trials),
        changed: found(WidthFigure.changes),
        speed: found(WidthFigure.speed) || null,
        settled: found(WidthFigure.settled) === 1,
      },
    }
  }

  #show(): void {
    const { tally, lines } = this
    const seconds = this.#seconds()
    const secondsLeft = this.#secondsLeft()
    const parts = [
      `${tally.lines} of ${lines} lines`,
      `${(tally.drawn / seconds).toPrecision(3)} tokens/s`,
    ]
    if (secondsLeft !== null) parts.push(`${timeText(secondsLeft)} left`)
    parts.push(...this.#drive(seconds))
    const text = `ring-offload: batch: ${parts.join(', ')}`
    this.stream.write(this.stream.isTTY ? `${ERASE_LINE}${text}` : `${text}\n`)
  }

  /** Of a drive whose ceiling is set, the share of bound; of another, what is known of it. */
  #drive(seconds: number): string[] {
    const { facts, flags } = this
    if (facts.experts.loadMode === 'mapped') return []
    const { misses, driveBusySeconds } = this.#usage()
    const percent = (share: number) => `${Math.round(100 * share)} %`
    if (flags.paced === undefined) return [`drive ${percent(driveBusySeconds / seconds)} busy`]
    const needed = misses * facts.experts.expertReadBytes
    return [`${percent(needed / (flags.paced.bytesPerSecond * seconds))} of bound`]
  }

  /** By the lines that this run has done; null before the first. */
  #secondsLeft(): number | null {
    const done = this.tally.lines - this.#linesBefore
    return done === 0 ? null : ((this.lines - this.tally.lines) * this.#seconds()) / done
  }

  #usage() {
    return usageBetween(this.#before, readUsage(this.facts.counters))
  }

  #seconds(): number {
    return Math.max(1e-3, (performance.now() - this.#beginMs) / 1000)
  }
}

function meanOf(sum: number, count: number): string {
  return (sum / Math.max(1, count)).toPrecision(4)
}
