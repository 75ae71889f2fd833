// `bench`: how fast a model runs here, and how near that is to what the drive allows. Ceilings before
// and after, then decode over rotating prompts, cold (empty slots) and warm. --compare alternates two
// settings, so that a machine that changes from minute to minute meets both alike. Of experts on a drive
// the drive is the bound, of experts in memory the memory: both shares are told.
import { type Ceiling, Ceilings } from '../engine/ceiling.js'
import { Engine } from '../engine/engine.js'
import type { EngineFacts } from '../engine/protocol.js'
import { greedy } from '../engine/sampling.js'
import type { RequestStats, Usage } from '../engine/stats.js'
import { openCheckpoint } from '../model/checkpoint.js'
import { inventory } from '../model/inventory.js'
import type { Tokenizer } from '../model/tokenizer.js'
import type { BenchFlags } from './benchflags.js'
import { benchPrompts } from './benchprompts.js'
import { openText, rawPrompt } from './conversation.js'
import { Failure, Status } from './failure.js'
import { refuseUnavailable, wishesOf } from './flags.js'
import { type Log, logFor } from './log.js'
import { runReport } from './report.js'
import { findModel, type ModelSource } from './source.js'
import { withTuned } from './withtuned.js'

/** What one pass over all prompts came to, and what the machine could do meanwhile. */
interface Pass {
  readonly tokens: readonly number[]
  readonly stats: RequestStats
  readonly ceilings: Ceilings
}

interface Measured {
  readonly facts: EngineFacts
  readonly cold: Pass
  readonly warm: Pass
  /** Weights that decoding a token reads. */
  readonly bytesPerToken: number
}

/** Returns the exit status; throws for everything that a person is to be told. */
export async function bench(model: string | undefined, flags: BenchFlags): Promise<number> {
  refuseUnavailable(flags)
  const log = logFor(flags)
  const source = findModel(model)
  const tokenizer = await openText(source.folder)
  if (flags.compare !== undefined) return compare(source, tokenizer, flags, log)
  const measured = await measure(source, tokenizer, await withTuned(source, flags, log), log)
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
  // A cold pass begins with empty slots, and every pass reads its prompts.
  const wishes = {
    ...wishesOf(flags, tokenizer.size),
    remember: undefined,
    reusesPrefixes: false,
    kvDir: undefined,
  }
  const engine = await Engine.open(source.folder, wishes)
  try {
    log.opened(source.name, engine.facts, flags.ctxSize)
    const passOf = (round: number) => {
      const ceilings = new Ceilings(checkpoint, wishes.reads ?? {}, flags.threads ?? 0)
      return pass(engine, tokenizer, flags, round, ceilings)
    }
    const cold = await passOf(0)
    const warm = await passOf(1)
    const bytesPerToken = inventory(checkpoint).bytes.readPerToken
    return { facts: engine.facts, cold, warm, bytesPerToken }
  } finally {
    await engine.close()
  }
}

/**
 * Every prompt once, from another one on in every round, each decoding its share of the tokens.
 * Ceilings are taken before each, and after the last.
 */
async function pass(
  engine: Engine,
  tokenizer: Tokenizer,
  flags: BenchFlags,
  round: number,
  ceilings: Ceilings,
): Promise<Pass> {
  const tokens: number[] = []
  const all: RequestStats[] = []
  const each = Math.ceil(flags.predict / benchPrompts.length) + 1
  for (let turn = 0; turn < benchPrompts.length; turn += 1) {
    ceilings.take()
    const text = benchPrompts[(turn + round) % benchPrompts.length] ?? ''
    const generation = engine.generate({
      prompt: lengthened(rawPrompt(tokenizer, text).tokens, flags.promptTokens),
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
  ceilings.take()
  return { tokens, stats: all.reduce(addStats), ceilings }
}

/** The first tokens of the prompt said again and again. */
function lengthened(prompt: Int32Array, tokens: number | undefined): Int32Array {
  if (tokens === undefined) return prompt
  return Int32Array.from({ length: tokens }, (_, at) => prompt[at % prompt.length] ?? 0)
}

function addStats(one: RequestStats, other: RequestStats): RequestStats {
  return {
    promptTokens: one.promptTokens + other.promptTokens,
    cachedTokens: one.cachedTokens + other.cachedTokens,
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
  { facts, cold, warm, bytesPerToken }: Measured,
  flags: BenchFlags,
): Record<string, unknown> {
  const isDirect = facts.experts.loadMode === 'direct'
  const of = (pass: Pass) => ({
    ...runReport({
      model: source.name,
      engine: facts,
      tokens: pass.tokens,
      text: '',
      reasoning: '',
      finishReason: 'length',
      stats: pass.stats,
      seed: null,
      isExact: flags.math === 'f32',
      ceiling: isDirect ? pass.ceilings.drive.mean : null,
    }),
    memory: {
      bytes_per_token: bytesPerToken,
      ceiling_bytes_s: pass.ceilings.memory.mean,
      share_of_bound: (decodeRate(pass) * bytesPerToken) / pass.ceilings.memory.mean,
    },
  })
  return { ...of(cold), warm: of(warm) }
}

function prefillRate({ stats }: Pass): number {
  return stats.promptTokens / stats.firstTokenSeconds
}

/** Where the computing of a decode went. */
function kernelsLine(usage: Usage): string {
  const share = (seconds: number) => (seconds / usage.computeSeconds).toFixed(3)
  return (
    `of computing, attention ${share(usage.attendSeconds)}, router ${share(usage.routeSeconds)}, ` +
    `experts ${share(usage.mixSeconds)}, shared expert ${share(usage.settleSeconds)}, head ${share(usage.sampleSeconds)}`
  )
}

function decodeRate({ stats }: Pass): number {
  return (stats.completionTokens - benchPrompts.length) / stats.decodeSeconds
}

function tellPasses(measured: Measured, log: Log): void {
  const { cold, warm, facts, bytesPerToken } = measured
  for (const [name, one] of [
    ['cold', cold],
    ['warm', warm],
  ] as const) {
    const { decode } = one.stats
    const { drive, memory } = one.ceilings
    log.line(
      `${name}: ${decodeRate(one).toPrecision(3)} tokens/s, prefill ${prefillRate(one).toPrecision(3)} tokens/s`,
    )
    if (decode !== null) log.line(`${name}: ${kernelsLine(decode)}`)
    const ofMemory = (decodeRate(one) * bytesPerToken) / memory.mean
    log.line(`${name}: ${ofMemory.toFixed(3)} of reading memory at ${gigabytes(memory)}`)
    if (decode === null || facts.experts.loadMode !== 'direct') continue
    log.line(`${name}: ${driveLine(one, decode, facts)}`)
    log.line(`${name}: drive ${gigabytes(drive)}`)
  }
}

function driveLine(
  { stats, ceilings }: Pass,
  decode: Usage,
  { experts: { expertReadBytes } }: EngineFacts,
): string {
  const needed = decode.misses * expertReadBytes
  const ideal = needed / ceilings.drive.mean
  const exposed = decode.computeSeconds - decode.overlappedSeconds + decode.policySeconds
  return (
    `${(decode.hits / decode.requests).toFixed(3)} of ${decode.requests} expert requests hit, ` +
    `share of bound ${(ideal / stats.decodeSeconds).toFixed(3)} of attainable ${(ideal / (ideal + exposed)).toFixed(3)}, ` +
    `read ${(decode.bytesRead / Math.max(1, needed)).toFixed(3)} of what was missed, ` +
    `reader ${(decode.readerCpuSeconds / (decode.bytesRead / 1e9 || 1)).toFixed(3)} s/GB`
  )
}

/** A B A B: the ratio of their cold and warm rates, median with spread. */
async function compare(
  source: ModelSource,
  tokenizer: Tokenizer,
  flags: BenchFlags,
  log: Log,
): Promise<number> {
  const first = await withTuned(source, flags, log)
  const second = await withTuned(source, { ...flags, ...flags.compare }, log)
  const ratios: { cold: number; warm: number }[] = []
  for (let pair = 0; pair < flags.pairs; pair += 1) {
    const one = await measure(source, tokenizer, first, log)
    tellPasses(one, log)
    const two = await measure(source, tokenizer, second, log)
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

function gigabytes({ mean, least, most }: Ceiling): string {
  const of = (bytesPerSecond: number) => (bytesPerSecond / 1e9).toPrecision(3)
  return `${of(mean)} GB/s [${of(least)} to ${of(most)}]`
}
