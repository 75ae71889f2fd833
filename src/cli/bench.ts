// `bench`: how fast a model runs here, and how near that is to what the drive allows. Ceilings before
// and after, then decode over rotating prompts, cold (empty slots) and warm. --compare alternates two
// settings, so that a drive that changes from minute to minute meets both alike.
import { driveCeiling } from '../engine/ceiling.js'
import { Engine } from '../engine/engine.js'
import type { EngineFacts } from '../engine/protocol.js'
import type { RequestStats, Usage } from '../engine/stats.js'
import { openCheckpoint } from '../model/checkpoint.js'
import type { Tokenizer } from '../model/tokenizer.js'
import { benchPrompts } from './benchprompts.js'
import { openText, rawPrompt } from './conversation.js'
import { Failure, Status } from './failure.js'
import { type BenchFlags, refuseUnavailable, wishesOf } from './flags.js'
import { type Log, logFor } from './log.js'
import { runReport } from './report.js'
import { findModel, type ModelSource } from './source.js'

/** What one pass over all prompts came to. */
interface Pass {
  readonly tokens: readonly number[]
  readonly stats: RequestStats
}

interface Measured {
  readonly facts: EngineFacts
  readonly cold: Pass
  readonly warm: Pass
  readonly ceiling: number
}

/** Returns the exit status; throws for everything that a person is to be told. */
export async function bench(model: string | undefined, flags: BenchFlags): Promise<number> {
  refuseUnavailable(flags)
  const log = logFor(flags)
  const source = findModel(model)
  const tokenizer = await openText(source.folder)
  if (flags.compare !== undefined) return compare(source, tokenizer, flags, log)
  const measured = await measure(source, tokenizer, flags, log)
  tellPasses(measured, log)
  process.stdout.write(`${JSON.stringify(reportOf(source, measured, flags))}\n`)
  return Status.done
}

async function measure(
  source: ModelSource,
  tokenizer: Tokenizer,
  flags: BenchFlags,
  log: Log,
): Promise<Measured> {
  const checkpoint = openCheckpoint(source.folder)
  const wishes = wishesOf(flags, tokenizer.size)
  const ceilingBefore = driveCeiling(checkpoint, wishes.reads ?? {}, 1)
  const engine = await Engine.open(source.folder, wishes)
  try {
    log.opened(source.name, engine.facts, flags.ctxSize)
    const cold = await pass(engine, tokenizer, flags, 0)
    const warm = await pass(engine, tokenizer, flags, 1)
    const ceilingAfter = driveCeiling(checkpoint, wishes.reads ?? {}, 2)
    log.line(`drive: ${gigabytes(ceilingBefore)} before, ${gigabytes(ceilingAfter)} after`)
    return { facts: engine.facts, cold, warm, ceiling: (ceilingBefore + ceilingAfter) / 2 }
  } finally {
    await engine.close()
  }
}

/** Every prompt once, from another one on in every round, each decoding its share of the tokens. */
async function pass(
  engine: Engine,
  tokenizer: Tokenizer,
  flags: BenchFlags,
  round: number,
): Promise<Pass> {
  const tokens: number[] = []
  const all: RequestStats[] = []
  const each = Math.ceil(flags.predict / benchPrompts.length) + 1
  for (let turn = 0; turn < benchPrompts.length; turn += 1) {
    const text = benchPrompts[(turn + round) % benchPrompts.length] ?? ''
    const generation = engine.generate({
      prompt: rawPrompt(tokenizer, text).tokens,
      maxTokens: each,
      stopIds: [],
      sampling: greedy,
      topLogprobs: 0,
      score: false,
      routing: false,
    })
    for await (const { token } of generation) tokens.push(token)
    const ending = await generation.ending
    if (ending.reason === 'failed') throw new Failure(ending.message)
    all.push(ending.stats)
  }
  return { tokens, stats: all.reduce(addStats) }
}

const greedy = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  presencePenalty: 0,
  frequencyPenalty: 0,
  seed: 0n,
  biases: [],
}

function addStats(one: RequestStats, other: RequestStats): RequestStats {
  return {
    promptTokens: one.promptTokens + other.promptTokens,
    completionTokens: one.completionTokens + other.completionTokens,
    firstTokenSeconds: one.firstTokenSeconds + other.firstTokenSeconds,
    decodeSeconds: one.decodeSeconds + other.decodeSeconds,
    expertRequests: one.expertRequests + other.expertRequests,
    decode:
      one.decode !== null && other.decode !== null ? addUsage(one.decode, other.decode) : null,
  }
}

function addUsage(one: Usage, other: Usage): Usage {
  const total = { ...one }
  for (const name of Object.keys(total) as (keyof Usage)[]) total[name] = one[name] + other[name]
  return total
}

function reportOf(
  source: ModelSource,
  { facts, cold, warm, ceiling }: Measured,
  flags: BenchFlags,
): Record<string, unknown> {
  const of = ({ tokens, stats }: Pass) =>
    runReport({
      model: source.name,
      engine: facts,
      tokens,
      text: '',
      reasoning: '',
      finishReason: 'length',
      stats,
      seed: null,
      isExact: flags.math === 'f32',
      ceiling: facts.experts.loadMode === 'direct' ? ceiling : null,
    })
  return { ...of(cold), warm: of(warm) }
}

function decodeRate({ stats }: Pass): number {
  return (stats.completionTokens - benchPrompts.length) / stats.decodeSeconds
}

function tellPasses({ cold, warm, facts, ceiling }: Measured, log: Log): void {
  for (const [name, one] of [
    ['cold', cold],
    ['warm', warm],
  ] as const) {
    const { decode, decodeSeconds } = one.stats
    const rate = `${name}: ${decodeRate(one).toPrecision(3)} tokens/s`
    if (decode === null || facts.experts.loadMode !== 'direct') {
      log.line(rate)
      continue
    }
    const needed = decode.misses * facts.experts.expertReadBytes
    const ideal = needed / ceiling
    const exposed = decode.computeSeconds - decode.overlappedSeconds + decode.policySeconds
    log.line(
      `${rate}, ${(decode.hits / decode.requests).toFixed(3)} of ${decode.requests} expert requests hit, ` +
        `share of bound ${(ideal / decodeSeconds).toFixed(3)} of attainable ${(ideal / (ideal + exposed)).toFixed(3)}, ` +
        `read ${(decode.bytesRead / Math.max(1, needed)).toFixed(3)} of what was missed, ` +
        `reader ${(decode.readerCpuSeconds / (decode.bytesRead / 1e9 || 1)).toFixed(3)} s/GB`,
    )
  }
}

/** A B A B: the ratio of their cold and warm rates, median with spread. */
async function compare(
  source: ModelSource,
  tokenizer: Tokenizer,
  flags: BenchFlags,
  log: Log,
): Promise<number> {
  const other = { ...flags, ...flags.compare }
  const ratios: { cold: number; warm: number }[] = []
  for (let pair = 0; pair < flags.pairs; pair += 1) {
    const one = await measure(source, tokenizer, flags, log)
    tellPasses(one, log)
    const two = await measure(source, tokenizer, other, log)
    tellPasses(two, log)
    const same = one.cold.tokens.join() === two.cold.tokens.join()
    if (!same) throw new Failure('the two settings did not draw the same tokens')
    ratios.push({
      cold: decodeRate(two.cold) / decodeRate(one.cold),
      warm: decodeRate(two.warm) / decodeRate(one.warm),
    })
  }
  const spread = (values: number[]) => {
    const sorted = values.sort((a, b) => a - b)
    return {
      median: sorted[Math.floor(sorted.length / 2)],
      least: sorted[0],
      most: sorted.at(-1),
    }
  }
  const result = {
    pairs: flags.pairs,
    ratio: {
      cold: spread(ratios.map(({ cold }) => cold)),
      warm: spread(ratios.map(({ warm }) => warm)),
    },
  }
  process.stdout.write(`${JSON.stringify(result)}\n`)
  return Status.done
}

function gigabytes(bytesPerSecond: number): string {
  return `${(bytesPerSecond / 1e9).toPrecision(3)} GB/s`
}
