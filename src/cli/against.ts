// `score --against`: another engine's samples, read by this one token by token, and how the two differ. The
// whole file is looked at before the first sample is computed; a damaged one is refused at its first bad
// line. The figures are discrepancy.ts, what files may hold samples.ts.
import { Engine } from '../engine/engine.js'
import type { EngineFacts } from '../engine/protocol.js'
import { Asked } from './asked.js'
import { Discrepancy } from './discrepancy.js'
import { discrepancyLines, discrepancyObject } from './discrepancytext.js'
import { Failure, Status } from './failure.js'
import { wishesOf } from './flags.js'
import { checkTopLogprobs, Forced, forcedLimits, forcedSequences } from './forced.js'
import { Interrupts, statusOfSignal } from './interrupt.js'
import { LineFile } from './jsonl.js'
import type { Log } from './log.js'
import { OutFile } from './outfile.js'
import { type AskedPrompts, type Sample, samplesOf } from './samples.js'
import type { ScoreFlags } from './scoreflags.js'
import { resultLine, routingShape, type ScoreLimits } from './scoreline.js'
import type { ModelSource } from './source.js'

/** Returns the exit status; throws for everything that a person is to be told. */
export async function scoreAgainst(
  source: ModelSource,
  against: string,
  flags: ScoreFlags,
  log: Log,
): Promise<number> {
  const interrupts = new Interrupts()
  const sequences = forcedSequences(source.folder, flags)
  const file = await LineFile.open(against)
  const engine = await Engine.open(source.folder, { ...wishesOf(flags), sequences })
  try {
    const { facts } = engine
    const { topLogprobs, routing, input } = flags
    log.opened(source.name, facts, flags.ctxSize)
    checkTopLogprobs(topLogprobs, facts)
    const asked = input === undefined ? null : await Asked.open(input, source.folder, facts)
    const samples = new SampleFile(file, forcedLimits(facts, source.folder), asked)
    const work = async () => {
      const { count, isRouted } = await samples.look()
      if (samples.isCancelled) return
      log.line(`${count} ${count === 1 ? 'sample' : 'samples'} to compare`)
      const wishes = { topLogprobs, hasRouting: isRouted || routing === true }
      await compare(source.name, samples, new Forced(engine, wishes, 2 * sequences), facts, flags)
    }
    await interrupts.during(() => samples.cancel(), work).finally(() => asked?.close())
    return interrupts.received === null ? Status.done : statusOfSignal(interrupts.received)
  } finally {
    await engine.close()
    await file.close()
  }
}

async function compare(
  model: string,
  samples: SampleFile,
  forced: Forced,
  { config }: EngineFacts,
  flags: ScoreFlags,
): Promise<void> {
  const shape = routingShape(config)
  const discrepancy = new Discrepancy(shape)
  const output = flags.output === undefined ? null : await OutFile.create(flags.output)
  try {
    samples.onCancel = () => forced.cancel()
    for await (const { name, sample } of samples.all()) {
      await forced.read(sample.tokens, name, async (scored) => {
        discrepancy.add(sample, scored)
        await output?.write(`${resultLine(sample, scored, flags.routing ? shape : null)}\n`)
      })
    }
    await forced.finish()
    if (forced.isCancelled) return
    const figures = discrepancy.figures(flags.band)
    if (figures === null) {
      throw new Failure(`${samples.name}: says no log-probability, so nothing can be compared`)
    }
    await output?.keep()
    const text = flags.json
      ? JSON.stringify(discrepancyObject(model, figures, flags.band))
      : discrepancyLines(figures, flags.band).join('\n')
    process.stdout.write(`${text}\n`)
  } finally {
    await output?.drop()
  }
}

/** The samples of a file, which is read twice. */
class SampleFile {
  onCancel: () => void = () => {}
  #isCancelled = false

  constructor(
    private readonly file: LineFile,
    private readonly limits: ScoreLimits,
    private readonly asked: AskedPrompts | null,
  ) {}

  get name(): string {
    return this.file.name
  }

  get isCancelled(): boolean {
    return this.#isCancelled
  }

  cancel(): void {
    this.#isCancelled = true
    this.onCancel()
  }

  /** Throws a Failure for the first line that is no sample. */
  async look(): Promise<{ readonly count: number; readonly isRouted: boolean }> {
    let [count, isRouted] = [0, false]
    for await (const { sample } of this.all()) {
      count += 1
      if (sample.routing !== null) isRouted = true
    }
    return { count, isRouted }
  }

  async *all(): AsyncGenerator<{ readonly name: string; readonly sample: Sample }> {
    for await (const { number, text } of this.file.lines()) {
      if (this.#isCancelled) return
      const name = `${this.file.name}:${number}`
      const samples = await samplesOf(text, this.limits, this.asked)
      if (typeof samples === 'string') throw new Failure(`${name}: ${samples}`)
      for (const sample of samples) yield { name, sample }
    }
  }
}
