// `batch`: a file of requests, a file of answers, and a journal beside it from which the same command
// goes on after any end. All of the input is looked at before the model is loaded. What a person is told
// is decided here; how a job works is src/batch.
import { existsSync, statSync } from 'node:fs'
import { Durable } from '../batch/durable.js'
import { Graders } from '../batch/graders.js'
import { differenceOf, inputName, modelName } from '../batch/identity.js'
import { Job, type JobParts } from '../batch/job.js'
import {
  endJournal,
  isUnchanged,
  Journal,
  journalPath,
  readJournal,
  type Standing,
  soundPart,
} from '../batch/journal.js'
import { clearOwnKv, kvPlaceOf } from '../batch/kvplace.js'
import { lockOutput } from '../batch/lock.js'
import { Prospect } from '../batch/prospect.js'
import { type QuestionMeans, Questions } from '../batch/question.js'
import type { DoneLine, JobHead } from '../batch/records.js'
import { Results } from '../batch/results.js'
import { type BatchSize, batchSize, openedFor, type RateOf } from '../batch/size.js'
import { type Survey, survey } from '../batch/survey.js'
import { Tally } from '../batch/tally.js'
import { Engine } from '../engine/engine.js'
import { GrammarThreads } from '../engine/grammarthreads.js'
import { kvBytesPerToken } from '../engine/layout.js'
import { availableBytes } from '../engine/memory.js'
import { type ModelConfig, readConfig } from '../model/config.js'
import { ModelError } from '../model/error.js'
import { thinkingTagsOf } from '../model/thinkingtags.js'
import type { Tokenizer } from '../model/tokenizer.js'
import { identityOf } from '../serve/form.js'
import { GrammarTrials } from '../serve/grammars.js'
import { Prompts } from '../serve/prompts.js'
import type { BatchFlags } from './batchflags.js'
import { BatchScreen } from './batchscreen.js'
import { JobSource } from './batchwatch.js'
import { openText } from './conversation.js'
import { Failure, Status, tell } from './failure.js'
import { refuseUnavailable, wishesOf } from './flags.js'
import { Interrupts, statusOfSignal } from './interrupt.js'
import { LineFile } from './jsonl.js'
import { type Log, logFor } from './log.js'
import { findModel, type ModelSource, packageVersion } from './source.js'
import { ceilingOf, mayWatch } from './watch.js'
import { withTuned } from './withtuned.js'

/** Of the memory that is free before the model is loaded, for keys and values. */
const KV_SHARE = 0.25
/** Bad lines that are named; a file of another kind would name every line. */
const COMPLAINTS_MAX = 20
/** All of it is read by one thread in the time in which a second would begin. */
const SMALL_INPUT_BYTES = 64 * 1024
const HOUR_MS = 3_600_000

/** Returns the exit status; throws for everything that a person is to be told. */
export async function batch(model: string | undefined, flags: BatchFlags): Promise<number> {
  refuseUnavailable(flags)
  const isWatched = mayWatch(flags)
  const source = findModel(model)
  const tokenizer = await openText(source.folder)
  const view = isWatched ? new JobSource(source.name, ceilingOf(flags), tokenizer) : null
  // A job has a folder for keys and values where nobody names one.
  const log = logFor({ ...flags, kvDir: flags.kvDir ?? flags.output }, (line) => {
    view?.log.push(line)
    if (view?.isOpen !== true) tell(line)
  })
  const config = readConfig(source.folder, { ropeScaling: flags.ropeScaling })
  const interrupts = new Interrupts()
  const input = await LineFile.open(flags.input)
  const isSoonRead = (await input.size()) < SMALL_INPUT_BYTES
  const means: QuestionMeans = {
    prompts: new Prompts(source.folder, isSoonRead ? 1 : 2),
    grammars: new GrammarTrials(new GrammarThreads(source.folder)),
    thinking: { tags: thinkingTagsOf(tokenizer), budget: null },
  }
  try {
    const lock = await lockOutput(flags.output)
    try {
      const command = new BatchCommand(flags, source, tokenizer, config, input, means, log, view)
      return await command.run(interrupts)
    } finally {
      lock.release()
    }
  } finally {
    await means.prompts.close()
    await means.grammars.close()
    await input.close()
  }
}

class BatchCommand {
  readonly #journal: string
  readonly #kvTokensFree: number

  constructor(
    private readonly flags: BatchFlags,
    private readonly source: ModelSource,
    private readonly tokenizer: Tokenizer,
    private readonly config: ModelConfig,
    private readonly input: LineFile,
    private readonly means: QuestionMeans,
    private readonly log: Log,
    /** Null: nobody watches. */
    private readonly view: JobSource | null,
  ) {
    this.#journal = journalPath(flags.output)
    const tokenBytes = kvBytesPerToken(config, flags.kvType)
    this.#kvTokensFree = Math.floor((availableBytes() * KV_SHARE) / tokenBytes)
  }

  async run(interrupts: Interrupts): Promise<number> {
    const standing = readJournal(this.#journal)
    const head = await this.#headOf(standing)
    this.#checkPlace(standing, head)
    if (standing?.end) return this.#endedBefore(standing.end)
    const questions = new Questions(
      this.means,
      { config: this.config, plan: head },
      head.input,
      this.flags.predict ?? null,
    )
    const seen = await interrupts.during(
      () => {},
      () => this.#survey(questions, interrupts),
    )
    if (interrupts.received !== null) return statusOfSignal(interrupts.received)
    const graders = await this.#graders(seen)
    return this.#work(interrupts, standing, head, questions, seen, graders)
  }

  /** What this job is, but for the instruction set, which is known once something computes. */
  async #headOf(standing: Standing | null): Promise<JobHead> {
    const { ctxSize, kvType, math, ropeScaling, predict, order, gradeUnconfined } = this.flags
    const { context } = this.config
    if (ctxSize !== undefined && ctxSize > context) {
      throw new Failure(`--ctx-size ${ctxSize}: this model has ${context} positions`)
    }
    // What memory allowed when the job was begun is part of the job.
    const fitting = standing?.head.contextTokens ?? Math.min(context, this.#kvTokensFree)
    return {
      version: 1,
      program: packageVersion(),
      input: await inputName(this.input),
      model: modelName(this.source.folder),
      instructionSet: standing?.head.instructionSet ?? '',
      contextTokens: ctxSize ?? fitting,
      settings: {
        order,
        math,
        'kv-type': kvType,
        ...(ropeScaling === undefined ? {} : { 'rope-scaling': `yarn,${ropeScaling.factor}` }),
        ...(predict === undefined ? {} : { predict: String(predict) }),
        ...(gradeUnconfined === true ? { 'grade-unconfined': 'given' } : {}),
      },
    }
  }

  /** Nothing that is not this job's own is ever written over. */
  #checkPlace(standing: Standing | null, head: JobHead): void {
    const { output } = this.flags
    const isThere = existsSync(output)
    if (isThere && !statSync(output).isFile()) throw new Failure(`${output}: must be a file`)
    if (standing === null) {
      if (!isThere || statSync(output).size === 0) return
      throw new Failure(`${output}: is there already, and is no job's: nothing is written over`)
    }
    const difference = differenceOf(standing.head, head)
    if (difference === null) return
    throw new Failure(
      `${output} is of another job: ${difference}; take another output, or remove it and ${this.#journal}`,
    )
  }

  #endedBefore(end: { readonly bytes: number; readonly crc: number }): number {
    const { output } = this.flags
    if (!isUnchanged(output, end)) {
      throw new Failure(
        `${output} is gone or has changed since the job ended; remove ${this.#journal} to run it anew`,
      )
    }
    clearOwnKv(output)
    this.log.line('the job has ended before; there is nothing to do')
    return Status.done
  }

  async #survey(questions: Questions, interrupts: Interrupts): Promise<Survey> {
    let named = 0
    const onBad = (number: number, reason: string) => {
      named += 1
      if (named <= COMPLAINTS_MAX) tell(`${this.input.name}:${number}: ${reason}`)
    }
    const seen = await survey(this.input, questions, onBad, () => interrupts.received === null)
    const { lines, bad } = seen
    if (bad > 0 && interrupts.received === null) {
      const unnamed = bad > COMPLAINTS_MAX ? ` (the first ${COMPLAINTS_MAX} are named)` : ''
      const text = `${bad} of ${lines} lines cannot be answered${unnamed}`
      if (this.flags.strict) throw new Failure(`${text}; nothing was begun`)
      this.log.line(`${text}; each gets its error in the output`)
    }
    return seen
  }

  /** A line of the input that runs a program is code from wherever the input is from. */
  async #graders({ programs }: Survey): Promise<Graders> {
    const { gradeCommands, gradeUnconfined } = this.flags
    const [first] = programs.values()
    if (first !== undefined && gradeCommands !== true) {
      throw new Failure(
        `${this.input.name}:${first}: grade is a command; --grade-commands lets lines run programs`,
      )
    }
    return Graders.open(programs, gradeUnconfined !== true)
  }

  async #work(
    interrupts: Interrupts,
    standing: Standing | null,
    headSoFar: JobHead,
    questions: Questions,
    seen: Survey,
    graders: Graders,
  ): Promise<number> {
    const { flags, source, tokenizer } = this
    const tuned = await withTuned(source, flags, this.log, true)
    const { size, reason } = this.#sizeOf(seen, tuned)
    const { threads: grammars } = this.means.grammars
    const kv = kvPlaceOf(flags.output, flags.kvDir, flags.kvDisk)
    const ways = { ...openedFor(size), ...kv, grammars }
    const wishes = { ...wishesOf(tuned, tokenizer.size), ...ways }
    const engine = await Engine.open(source.folder, wishes, (line) => this.log.line(line))
    let isDone = false
    try {
      const { facts } = engine
      this.log.opened(source.name, facts, size.contextTokens)
      this.#tellSize(size, seen, reason)
      const head = { ...headSoFar, instructionSet: facts.instructionSet }
      if (standing !== null) this.#checkPlace(standing, head)
      const { lines, bytes, crc } = soundPart(flags.output, standing?.done ?? [])
      if (standing !== null)
        this.log.line(`goes on: ${lines.length} of ${seen.lines} lines are done`)
      const journal = Journal.open(this.#journal, head, standing)
      const output = Durable.open(flags.output, bytes)
      const results = new Results(output, journal, flags.order, crc)
      const tally = new Tally(lines)
      const done = new Set(lines.map(({ line }) => line))
      const isParked = await this.#during(interrupts, engine, tally, seen.lines, {
        ...{ input: this.input, engine, tokenizer, questions, graders, journal, results },
        identity: identityOf(
          source.name,
          ...[head.program, head.model, head.instructionSet, flags.kvType, flags.math],
        ),
        isDone: (line) => done.has(line),
        drawn: standing?.drawn ?? new Map(),
        verdicts: standing?.verdicts ?? new Map(),
        answers: seen.needs.length - answersOf(lines),
        outlooks: seen.outlooks,
        window: flags.window,
        places: size.sequences,
        inWork: size.sequences + ways.waiting,
        interval: flags.journalEvery,
        listener: tally,
      })
      journal.close()
      if (isParked) return this.#parked(interrupts, tally.lines, seen.lines)
      endJournal(this.#journal, head, output.length, results.crc)
      output.close()
      isDone = true
      return Status.done
    } finally {
      await engine.close()
      if (isDone) clearOwnKv(flags.output)
    }
  }

  /** Works until all is done or something parks the job; returns whether it was parked. */
  async #during(
    interrupts: Interrupts,
    engine: Engine,
    tally: Tally,
    lines: number,
    parts: JobParts,
  ): Promise<boolean> {
    const { flags, log, view } = this
    const job = new Job(parts)
    const isShown = flags.quiet !== true && view === null
    const screen = new BatchScreen(tally, lines, engine.facts, flags, isShown)
    const park = () => job.park()
    const work = () => interrupts.during(park, () => job.run())
    const timer = deadlineOf(flags)
    const alarm = timer === null ? undefined : setTimeout(park, timer)
    try {
      const isDone =
        view === null ? await work() : await view.watch(engine, () => screen.figures(), work, park)
      screen.end()
      if (isDone) for (const line of screen.summary()) log.line(line)
      if (isDone && flags.json) process.stdout.write(`${JSON.stringify(screen.report())}\n`)
      return !isDone
    } catch (error) {
      screen.end()
      if (!(error instanceof Failure || error instanceof ModelError)) throw error
      throw new Failure(`${error.message}; ${goesOn(tally.lines, lines)}`)
    } finally {
      clearTimeout(alarm)
      screen.end()
    }
  }

  #parked({ received }: Interrupts, done: number, lines: number): number {
    this.log.line(`parked: ${goesOn(done, lines)}`)
    return received === null ? Status.failed : statusOfSignal(received)
  }

  /** `reason`: why so many, where nobody said how many. */
  #sizeOf(
    { needs }: Survey,
    tuned: BatchFlags,
  ): { readonly size: BatchSize; readonly reason: string | null } {
    const { maxBatch = 'auto', paced, ...flags } = tuned
    if (maxBatch !== 'auto' || needs.length === 0) {
      const wish = maxBatch === 'auto' ? 1 : maxBatch
      return { size: batchSize(needs, wish, this.#kvTokensFree), reason: null }
    }
    const wishes = { ...flags, paced: paced?.bytesPerSecond }
    const { folder } = this.source
    const prospect = new Prospect(folder, this.config, wishes, availableBytes(), process.env)
    const rateOf: RateOf = (...of) => prospect.rateOf(...of)
    const size = batchSize(needs, rateOf, this.#kvTokensFree)
    return { size, reason: prospect.told(size) }
  }

  #tellSize({ sequences, kvTokens }: BatchSize, survey: Survey, reason: string | null): void {
    const { lines, needs } = survey
    this.log.line(
      `${lines} lines, ${needs.length} answers; up to ${sequences} at once, which share the keys and values of ${kvTokens} tokens`,
    )
    if (reason !== null) this.log.line(reason)
  }
}

function answersOf(lines: readonly DoneLine[]): number {
  return lines.reduce((sum, { answers }) => sum + answers, 0)
}

function goesOn(done: number, lines: number): string {
  return `${done} of ${lines} lines are done, the same command goes on`
}

/** Milliseconds from now; null: as long as it takes. */
function deadlineOf({ until, maxHours }: BatchFlags): number | null {
  const least = Math.min(
    until === undefined ? Number.POSITIVE_INFINITY : untilMs(until, new Date()),
    maxHours === undefined ? Number.POSITIVE_INFINITY : maxHours * HOUR_MS,
  )
  return Number.isFinite(least) ? least : null
}

/** To the next time that the clock shows so many minutes after midnight. */
export function untilMs(minutes: number, now: Date): number {
  const then = new Date(now)
  then.setHours(Math.floor(minutes / 60), minutes % 60, 0, 0)
  if (then <= now) then.setDate(then.getDate() + 1)
  return then.getTime() - now.getTime()
}
