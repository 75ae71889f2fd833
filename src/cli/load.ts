// The work on which settings are compared: prompts that are answered one after the other, or many at once.
// It is the same from run to run, tokens included, and as long as a search can afford. How settings are
// searched is not known here.
import type { Engine, Generation } from '../engine/engine.js'
import { greedy } from '../engine/sampling.js'
import { Failure } from './failure.js'

export interface Load {
  readonly prompts: readonly Int32Array[]
  /** Of every answer. */
  readonly tokens: number
}

/** What some work took, and the tokens that were drawn in it. */
export interface Work {
  readonly seconds: number
  readonly tokens: readonly (readonly number[])[]
}

/** Seconds for a token of a prompt and of an answer. */
export interface Pace {
  readonly promptSeconds: number
  readonly answerSeconds: number
}

/** Of the time of a run, for prompts. */
const PROMPT_SHARE = 0.25
const LONG_PROMPT_MOST = 256
/** Of all answers of a run together. */
const [ANSWER_LEAST, ANSWER_MOST] = [8, 1024]
/** Of a first answer, from which the pace is taken. */
const [PACE_LEAST, PACE_MOST] = [4, 64]
/** Answers of a job: as many as are ever in work at once without being asked for. */
const JOB_ANSWERS = 128
const JOB_PROMPT_TOKENS = 16
const JOB_ANSWER_TOKENS = 8

/** Answers some prompts for about so many seconds, to learn how fast this machine is. */
export async function paceOf(
  engine: Engine,
  prompts: readonly Int32Array[],
  seconds: number,
  signal: AbortSignal,
): Promise<Pace> {
  const start = performance.now()
  const taken = { prompt: 0, answer: 0 }
  const count = { prompt: 0, answer: 0 }
  for (const prompt of prompts) {
    const begin = performance.now()
    const generation = begun(engine, prompt, roomFor(engine, prompt, PACE_MOST), signal)
    let drawn = 0
    for await (const _ of generation) {
      drawn += 1
      const isEnough = performance.now() - begin > (1000 * seconds) / prompts.length
      if (isEnough && drawn >= PACE_LEAST) generation.cancel()
    }
    const { stats } = await ended(generation, signal)
    taken.prompt += stats.firstTokenSeconds
    taken.answer += stats.decodeSeconds
    count.prompt += prompt.length
    count.answer += Math.max(0, stats.completionTokens - 1)
    // Where a prompt alone takes longer than all of them should, the others would tell no more.
    if (performance.now() - start > 2000 * seconds) break
  }
  return {
    promptSeconds: taken.prompt / Math.max(1, count.prompt),
    answerSeconds: taken.answer / Math.max(1, count.answer),
  }
}

/** Of these prompts, at this pace, so much that it takes about so many seconds; the first is made longer. */
export function loadFor(
  prompts: readonly Int32Array[],
  { promptSeconds, answerSeconds }: Pace,
  seconds: number,
  contextTokens: number,
): Load {
  const [first = new Int32Array(1), ...others] = prompts
  const affordable = (PROMPT_SHARE * seconds) / promptSeconds
  const rest = others.reduce((sum, { length }) => sum + length, 0)
  const longest = Math.min(LONG_PROMPT_MOST, contextTokens / 2)
  const length = Math.floor(Math.max(1, Math.min(affordable - rest, longest)))
  const long = Int32Array.from({ length: Math.max(length, first.length) }, (_, at) => {
    return first[at % first.length] ?? 0
  })
  // Where a prompt alone takes longer than a run may, it is the only one.
  const taken = affordable < rest ? [first] : [long, ...others]
  const wanted = ((1 - PROMPT_SHARE) * seconds) / answerSeconds
  const all = Math.max(ANSWER_LEAST, Math.min(wanted, ANSWER_MOST))
  const room = contextTokens - Math.max(...taken.map((prompt) => prompt.length))
  return { prompts: taken, tokens: Math.max(2, Math.min(Math.ceil(all / taken.length), room)) }
}

/** Many short answers from different places of the prompts. */
export function jobFor(prompts: readonly Int32Array[]): Load {
  const all = prompts.flatMap((prompt) => [...prompt])
  const of = (first: number) =>
    Int32Array.from({ length: JOB_PROMPT_TOKENS }, (_, at) => all[(first + at) % all.length] ?? 0)
  return {
    prompts: Array.from({ length: JOB_ANSWERS }, (_, at) => of(7 * at)),
    tokens: JOB_ANSWER_TOKENS,
  }
}

/** A cautious guess of how long a job takes where answers one at a time have this pace. */
export function jobSeconds({ promptSeconds, answerSeconds }: Pace): number {
  return (JOB_ANSWERS * (JOB_PROMPT_TOKENS * promptSeconds + JOB_ANSWER_TOKENS * answerSeconds)) / 2
}

/** One answer after the other: the time of prompts and answers, without what lies between. */
export async function answered(engine: Engine, load: Load, signal: AbortSignal): Promise<Work> {
  let seconds = 0
  const tokens: number[][] = []
  for (const prompt of load.prompts) {
    const drawn: number[] = []
    const generation = begun(engine, prompt, load.tokens, signal)
    for await (const { token } of generation) drawn.push(token)
    const { stats } = await ended(generation, signal)
    seconds += stats.firstTokenSeconds + stats.decodeSeconds
    tokens.push(drawn)
  }
  return { seconds, tokens }
}

/** All answers as soon as there is a place for each: the time from the first to the last. */
export async function workedOff(engine: Engine, load: Load, signal: AbortSignal): Promise<Work> {
  const begin = performance.now()
  const all = load.prompts.map((prompt) => begun(engine, prompt, load.tokens, signal))
  const tokens = await Promise.all(
    all.map(async (generation) => {
      const drawn: number[] = []
      for await (const { token } of generation) drawn.push(token)
      await ended(generation, signal)
      return drawn
    }),
  )
  return { seconds: (performance.now() - begin) / 1000, tokens }
}

function begun(
  engine: Engine,
  prompt: Int32Array,
  maxTokens: number,
  signal: AbortSignal,
): Generation {
  signal.throwIfAborted()
  const generation = engine.generate({
    prompt,
    maxTokens,
    stopIds: [],
    sampling: greedy,
    topLogprobs: 0,
    score: false,
    routing: false,
  })
  const cancel = () => generation.cancel()
  signal.addEventListener('abort', cancel, { once: true })
  const forget = () => signal.removeEventListener('abort', cancel)
  void generation.ending.then(forget, forget)
  return generation
}

async function ended(generation: Generation, signal: AbortSignal) {
  const ending = await generation.ending
  signal.throwIfAborted()
  if (ending.reason === 'failed') throw new Failure(ending.message)
  return ending
}

function roomFor(engine: Engine, prompt: Int32Array, tokens: number): number {
  return Math.max(1, Math.min(tokens, engine.facts.plan.contextTokens - prompt.length))
}
