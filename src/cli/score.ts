// `score`: how likely given tokens are, and which experts they choose. The whole input is checked
// before the first line is computed, and the output appears whole or not at all. Several lines are in
// work at once; results are written in the order of the input. Other engines' samples are against.ts.
import { Engine } from '../engine/engine.js'
import { scoreAgainst } from './against.js'
import { Failure, Status, tell } from './failure.js'
import { refuseUnavailable, wishesOf } from './flags.js'
import { checkTopLogprobs, Forced, forcedLimits, forcedSequences } from './forced.js'
import { Interrupts, statusOfSignal } from './interrupt.js'
import { LineFile } from './jsonl.js'
import { logFor } from './log.js'
import { OutFile } from './outfile.js'
import { checkScoreFlags, type ScoreFlags } from './scoreflags.js'
import {
  parseTask,
  type RoutingShape,
  resultLine,
  routingShape,
  type ScoreLimits,
} from './scoreline.js'
import { findModel } from './source.js'

/** Bad lines that are named; a file of another kind would name every line. */
const COMPLAINTS_MAX = 20

/** Returns the exit status; throws for everything that a person is to be told. */
export async function score(model: string | undefined, flags: ScoreFlags): Promise<number> {
  refuseUnavailable(flags)
  checkScoreFlags(flags)
  const log = logFor(flags)
  const { input: inputPath = '-', output = '-', against } = flags
  const source = findModel(model)
  if (against !== undefined) return scoreAgainst(source, against, flags, log)
  if (flags.json) log.line('--json has no effect on score: its output is JSON lines')
  const interrupts = new Interrupts()
  const sequences = forcedSequences(source.folder, flags)
  const input = await LineFile.open(inputPath)
  const engine = await Engine.open(source.folder, { ...wishesOf(flags), sequences })
  try {
    log.opened(source.name, engine.facts, flags.ctxSize)
    checkTopLogprobs(flags.topLogprobs, engine.facts)
    const { topLogprobs, routing = false } = flags
    const forced = new Forced(engine, { topLogprobs, hasRouting: routing }, 2 * sequences)
    const limits = forcedLimits(engine.facts, source.folder)
    const shape = routing ? routingShape(engine.facts.config) : null
    await interrupts.during(
      () => forced.cancel(),
      async () => {
        await checkAll(input, limits, forced)
        const lines = await computeAll(input, output, limits, shape, forced)
        if (lines !== null) log.line(`${lines} ${lines === 1 ? 'line' : 'lines'} scored`)
      },
    )
    return interrupts.received === null ? Status.done : statusOfSignal(interrupts.received)
  } finally {
    await engine.close()
    await input.close()
  }
}

async function checkAll(input: LineFile, limits: ScoreLimits, forced: Forced): Promise<void> {
  let bad = 0
  for await (const { number, text } of input.lines()) {
    if (forced.isCancelled) return
    const task = parseTask(text, limits)
    if (typeof task !== 'string') continue
    bad += 1
    if (bad <= COMPLAINTS_MAX) tell(`${input.name}:${number}: ${task}`)
  }
  if (bad === 0) return
  const unnamed = bad > COMPLAINTS_MAX ? ` (the first ${COMPLAINTS_MAX} are named)` : ''
  throw new Failure(`${bad} bad ${bad === 1 ? 'line' : 'lines'}${unnamed}; nothing was scored`)
}

/** Returns how many lines there were; null: it was cancelled. */
async function computeAll(
  input: LineFile,
  path: string,
  limits: ScoreLimits,
  shape: RoutingShape | null,
  forced: Forced,
): Promise<number | null> {
  const output = await OutFile.create(path)
  try {
    let lines = 0
    for await (const { number, text } of input.lines()) {
      if (forced.isCancelled) break
      const name = `${input.name}:${number}`
      const task = parseTask(text, limits)
      // It was checked before, so the file has changed meanwhile.
      if (typeof task === 'string') throw new Failure(`${name}: ${task}`)
      await forced.read(task.tokens, name, (scored) =>
        output.write(`${resultLine(task, scored, shape)}\n`),
      )
      lines += 1
    }
    await forced.finish()
    if (forced.isCancelled) return null
    await output.keep()
    return lines
  } finally {
    await output.drop()
  }
}
