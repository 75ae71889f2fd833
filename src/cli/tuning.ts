// One search for better settings of one model on this machine: opens the model again and again with this
// and that, keeps every winner at once, so that whatever ends the search costs only what was not confirmed
// yet, and in the end lets all winners together meet the settings of the start. Prints nothing but its log.
import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { Prospect } from '../batch/prospect.js'
import { type BatchSize, batchSize, openedFor, type RateOf } from '../batch/size.js'
import { type Contest, contest, median, Noise } from '../engine/contest.js'
import { Engine } from '../engine/engine.js'
import { batchKnobs, type Given, knobsOf } from '../engine/knobs.js'
import { availableBytes } from '../engine/memory.js'
import type { EngineFacts } from '../engine/protocol.js'
import { type Game, type Knob, search, type Trial } from '../engine/search.js'
import { flagOf, type Settings, valueText } from '../engine/settings.js'
import { coresHere } from '../engine/tuned.js'
import { readConfig } from '../model/config.js'
import type { Tokenizer } from '../model/tokenizer.js'
import { benchPrompts } from './benchprompts.js'
import { rawPrompt } from './conversation.js'
import { Failure } from './failure.js'
import { wishesOf } from './flags.js'
import {
  answered,
  jobFor,
  jobSeconds,
  type Load,
  loadFor,
  type Pace,
  paceOf,
  type Work,
  workedOff,
} from './load.js'
import type { Log } from './log.js'
import { timeText } from './progress.js'
import type { ModelSource } from './source.js'
import type { TuneFlags } from './tuneflags.js'

/** So many runs a search shall be able to afford. */
const RUNS_WANTED = 100
/** Of one run. */
const [SECONDS_LEAST, SECONDS_MOST] = [0.25, 12]
/** Runs of the settings at the start, for the noise. */
const RUNS_ALIKE = 6
const none: Settings = {}
/** Runs of a contest that is lost at once. */
const RUNS_LEAST = 4

export interface Found {
  /** What is faster than at the start. */
  readonly settings: Settings
  readonly trials: readonly Trial[]
  /** All of them together against the start, where it came to that. */
  readonly last: Contest | null
  /** Standard deviation of ratios of runs alike. */
  readonly noise: number
  readonly runs: number
  readonly tokensPerRun: number
  /** Whether everything was tried that was wanted. */
  readonly isComplete: boolean
}

/** Called with what is confirmed so far, and how fast it is; null: nobody knows of all together. */
export type Keep = (settings: Settings, speed: number | null) => void

export class Tuning {
  readonly #stop = new AbortController()
  readonly #noise = new Noise()
  readonly #trials: Trial[] = []
  readonly #end: number
  #settings: Settings = none
  #speed: number | null = null
  #last: Contest | null = null
  #runs = 0
  /** Of all runs, with opening and closing. */
  #runSeconds = 0
  /** What each load drew the first time. */
  readonly #drawn = new Map<Load, string>()
  #tokensPerRun = 0
  #prospect: Prospect | null = null
  #isCutShort = false

  constructor(
    private readonly source: ModelSource,
    private readonly tokenizer: Tokenizer,
    private readonly flags: TuneFlags,
    private readonly log: Log,
    private readonly keep: Keep,
  ) {
    this.#end = performance.now() + 60_000 * flags.maxMinutes
  }

  /** Ends the search as soon as what is computed can be left. */
  stop(): void {
    this.#stop.abort()
  }

  /** Throws ModelError or a Failure where the model does not run at all. */
  async run(): Promise<Found> {
    const folder = mkdtempSync(join(os.tmpdir(), 'ring-tune-'))
    const alarm = setTimeout(() => this.stop(), this.#end - performance.now())
    try {
      await this.#searchAll(join(folder, 'profile.json'))
    } catch (error) {
      if (!this.#stop.signal.aborted) throw error
    } finally {
      clearTimeout(alarm)
      rmSync(folder, { recursive: true })
    }
    return {
      settings: this.#settings,
      trials: this.#trials,
      last: this.#last,
      noise: this.#noise.deviation(),
      runs: this.#runs,
      tokensPerRun: this.#tokensPerRun,
      isComplete: !this.#stop.signal.aborted && !this.#isCutShort,
    }
  }

  async #searchAll(profile: string): Promise<void> {
    const texts = benchPrompts.map((text) => rawPrompt(this.tokenizer, text).tokens)
    const [known, measured] = [0, 1].map((odd) => texts.filter((_, at) => at % 2 === odd))
    const wanted = (60 * this.flags.maxMinutes) / RUNS_WANTED
    const { runSeconds = Math.max(SECONDS_LEAST, Math.min(wanted, SECONDS_MOST)) } = this.flags
    const { facts, pace } = await this.#tryOut(known ?? [], runSeconds, profile)
    const load = loadFor(measured ?? [], pace, runSeconds, facts.plan.contextTokens)
    this.#tokensPerRun = load.prompts.length * load.tokens
    const measure = (changes: Settings) => this.#secondsPerToken(load, changes, profile, false)
    await this.#learnNoise(() => measure({}))
    const knobs = knobsOf(facts, coresHere(), this.#given())
    const faster = await this.#search(knobs, measure, none)
    this.#stop.signal.throwIfAborted()
    await this.#meetStart(faster, measure)
    await this.#searchBatch(pace, texts, profile)
  }

  /** Opens the model as it is, and learns its routing from prompts that are not measured with. */
  async #tryOut(
    prompts: readonly Int32Array[],
    seconds: number,
    profile: string,
  ): Promise<{ facts: EngineFacts; pace: Pace }> {
    const { source, log, flags } = this
    const wishes = { ...this.#wishes({}), profile: undefined, saveProfile: profile }
    const engine = await Engine.open(source.folder, wishes)
    try {
      log.opened(source.name, engine.facts, flags.ctxSize)
      const pace = await paceOf(engine, prompts, seconds, this.#stop.signal)
      return { facts: engine.facts, pace }
    } finally {
      await engine.close()
    }
  }

  async #learnNoise(measure: () => Promise<number>): Promise<void> {
    const alike: number[] = []
    for (let run = 0; run < RUNS_ALIKE; run += 1) alike.push(await measure())
    this.#noise.observe(alike)
    const each = timeText(this.#runSeconds / this.#runs)
    this.log.line(
      `runs of ${this.#tokensPerRun} tokens take ${each}; runs of the same settings differ by ${percent(this.#noise.deviation())}`,
    )
  }

  /** Settings that are faster, with those before that stay as they are. */
  async #search(
    knobs: readonly Knob[],
    measure: (changes: Settings) => Promise<number>,
    before: Settings,
  ): Promise<Settings> {
    const { try: names } = this.flags
    const wanted = knobs.filter(({ name }) => names === undefined || names.includes(name))
    const game: Game = {
      measure,
      noise: this.#noise,
      mayBegin: () => this.#mayBegin(),
      isOver: () => this.#stop.signal.aborted,
      onBegin: (name, to) =>
        this.log.line(
          `trying ${flagOf(name)} ${valueText(name, to)}; ${timeText(this.#secondsLeft())} left`,
        ),
      onTrial: (trial, changes) => {
        this.#trials.push(trial)
        this.log.line(trialText(trial))
        if (!trial.isWon) return
        const isFirst = before === none && Object.keys(changes).length === 1
        const known = before === none ? null : this.#speed
        this.#confirmed({ ...before, ...changes }, isFirst ? trial.speed : known)
      },
    }
    return search(wanted, game)
  }

  /** Winners one after the other are not yet winners together: they must not be slower than the start. */
  async #meetStart(
    faster: Settings,
    measure: (changes: Settings) => Promise<number>,
  ): Promise<void> {
    if (Object.keys(faster).length < 2 || !this.#mayBegin()) return
    this.log.line(`all of it against the start; ${timeText(this.#secondsLeft())} left`)
    const start = () => measure({})
    this.#last = await contest(start, () => measure(faster), this.#noise)
    const speed = speedOf(this.#last)
    if (speed >= 1) return this.#confirmed(faster, speed)
    this.log.line(`together they are ${times(speed)} as fast as the start: none is kept`)
    this.#confirmed(none, null)
  }

  async #searchBatch(pace: Pace, texts: readonly Int32Array[], profile: string): Promise<void> {
    const { try: names } = this.flags
    if (names !== undefined && !names.includes('maxBatch')) return
    if (RUNS_LEAST * jobSeconds(pace) > this.#secondsLeft()) {
      this.#isCutShort = true
      return this.log.line('batch jobs are not tried: they would take longer than what is left')
    }
    const load = jobFor(texts)
    const before = this.#settings
    await this.#search(
      batchKnobs(this.#given(), this.#sizeOf(load, none).sequences),
      (changes) => this.#secondsPerToken(load, { ...before, ...changes }, profile, true),
      before,
    )
  }

  async #secondsPerToken(
    load: Load,
    changes: Settings,
    profile: string,
    isJob: boolean,
  ): Promise<number> {
    this.#stop.signal.throwIfAborted()
    const begin = performance.now()
    const wishes = { ...this.#wishes(changes), profile }
    const size = isJob ? openedFor(this.#sizeOf(load, changes)) : {}
    const engine = await Engine.open(this.source.folder, { ...wishes, ...size })
    try {
      const work = await (isJob ? workedOff : answered)(engine, load, this.#stop.signal)
      this.#checkSame(load, work)
      return work.seconds / (load.prompts.length * load.tokens)
    } finally {
      await engine.close()
      this.#runs += 1
      this.#runSeconds += (performance.now() - begin) / 1000
    }
  }

  /** As many sequences as a job has, or begins with where nobody says; none is tried out while it runs. */
  #sizeOf({ prompts, tokens }: Load, { maxBatch }: Settings): BatchSize {
    const needs = prompts.map((prompt) => prompt.length + tokens)
    const of = (wish: number | RateOf) => batchSize(needs, wish, Number.POSITIVE_INFINITY)
    if (maxBatch !== undefined) return of(maxBatch)
    const prospect = this.#prospect ?? this.#newProspect()
    this.#prospect = prospect
    const { sequences, atFirst } = of((...asked) => prospect.rateOf(...asked))
    return of(atFirst ?? sequences)
  }

  #newProspect(): Prospect {
    const { paced, ...flags } = this.flags
    const { folder } = this.source
    const config = readConfig(folder, { ropeScaling: flags.ropeScaling })
    const wishes = { ...flags, paced: paced?.bytesPerSecond }
    return new Prospect(folder, config, wishes, availableBytes(), process.env)
  }

  /** What would make a run quicker than it is, or depend on those before, is left out. */
  #wishes(changes: Settings) {
    const wishes = wishesOf({ ...this.flags, ...changes }, this.tokenizer.size)
    return {
      ...wishes,
      ...{ saveProfile: undefined, remember: undefined, tracePath: undefined, scores: undefined },
      ...{ kvDir: undefined, reusesPrefixes: false },
    }
  }

  #checkSame(load: Load, { tokens }: Work): void {
    const drawn = JSON.stringify(tokens)
    const expected = this.#drawn.get(load) ?? drawn
    this.#drawn.set(load, expected)
    if (drawn !== expected) throw new Failure('two settings did not draw the same tokens')
  }

  #confirmed(settings: Settings, speed: number | null): void {
    this.#settings = settings
    this.#speed = speed
    this.keep(settings, speed)
  }

  #given(): Given {
    const { threads, prefetch, policy, readDepth, readChunk, expertRamMost, expertRam } = this.flags
    return {
      ...{ threads, prefetch, policy, readDepth, readChunk, expertRamMost },
      hasBudget: expertRam !== undefined,
      hasLoadMode: (this.flags.loadMode ?? 'auto') !== 'auto',
    }
  }

  #mayBegin(): boolean {
    const mean = this.#runSeconds / Math.max(1, this.#runs)
    if (this.#secondsLeft() >= RUNS_LEAST * mean) return true
    if (!this.#isCutShort) this.log.line('no time is left for another contest')
    this.#isCutShort = true
    return false
  }

  #secondsLeft(): number {
    return Math.max(0, (this.#end - performance.now()) / 1000)
  }
}

/** Times as fast as the champion. */
export function speedOf({ forward, reverse }: Contest): number {
  return median([...forward, ...reverse])
}

/** "1.06 times [1.04 to 1.09, 4 pairs]" */
export function speedText(contest: Contest): string {
  const all = [...contest.forward, ...contest.reverse]
  const pairs = `${all.length} ${all.length === 1 ? 'pair' : 'pairs'}`
  const spread = `${Math.min(...all).toFixed(3)} to ${Math.max(...all).toFixed(3)}`
  return `${times(speedOf(contest))} [${spread}, ${pairs}]`
}

function trialText(trial: Trial): string {
  const { name, from, to, isWon, refusal } = trial
  const of = `${flagOf(name)} ${valueText(name, to)}`
  if (refusal !== null) return `${of} cannot be had: ${refusal}`
  return `${of}: ${speedText(trial)} as fast as ${valueText(name, from)}: ${isWon ? 'kept' : 'no'}`
}

function times(speed: number): string {
  return `${speed.toFixed(3)} times`
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`
}
