// Reads given tokens through the engine, teacher-forced, some at once, and hands on what was scored in the
// order in which it was asked for. Knows nothing of files.
import type { Engine, Generation } from '../engine/engine.js'
import { kvBytesPerToken } from '../engine/layout.js'
import { availableBytes } from '../engine/memory.js'
import type { EngineFacts } from '../engine/protocol.js'
import { greedy } from '../engine/sampling.js'
import type { Scored } from '../engine/score.js'
import { readConfig } from '../model/config.js'
import { openTokenizer, type Tokenizer } from '../model/tokenizer.js'
import { Failure } from './failure.js'
import type { SharedFlags } from './flags.js'
import type { ScoreLimits } from './scoreline.js'

/** Texts in work at once, where memory allows; more would only wait for each other. */
const SEQUENCES_MAX = 4

/** As many sequences as can each have the whole context in half of the free memory, at least one. */
export function forcedSequences(
  folder: string,
  { ctxSize, kvType, ropeScaling }: SharedFlags,
): number {
  const config = readConfig(folder, { ropeScaling })
  const sequenceBytes = (ctxSize ?? config.context) * kvBytesPerToken(config, kvType)
  const fitting = Math.floor(availableBytes() / 2 / sequenceBytes)
  return Math.max(1, Math.min(SEQUENCES_MAX, fitting))
}

/** What a text must keep to; the tokenizer is opened when a line asks for it. */
export function forcedLimits({ config, plan }: EngineFacts, folder: string): ScoreLimits {
  let tokenizer: Tokenizer | null = null
  return {
    vocabulary: config.vocabulary,
    contextTokens: plan.contextTokens,
    tokenizer: () => {
      tokenizer ??= openTokenizer(folder)
      return tokenizer
    },
  }
}

/** Throws a Failure. */
export function checkTopLogprobs(topLogprobs: number, { config }: EngineFacts): void {
  if (topLogprobs <= config.vocabulary) return
  throw new Failure(`--top-logprobs ${topLogprobs}: this model has ${config.vocabulary} tokens`)
}

export interface ForcedWishes {
  readonly topLogprobs: number
  readonly hasRouting: boolean
}

interface InWork {
  readonly generation: Generation
  /** For messages. */
  readonly name: string
  readonly take: (scored: Scored) => Promise<void> | void
}

export class Forced {
  readonly #inWork: InWork[] = []
  #isCancelled = false

  constructor(
    private readonly engine: Engine,
    private readonly wishes: ForcedWishes,
    private readonly inWorkMax: number,
  ) {}

  get isCancelled(): boolean {
    return this.#isCancelled
  }

  /** Nothing more is begun; what is in work ends, and nobody is told of it. */
  cancel(): void {
    this.#isCancelled = true
    for (const { generation } of this.#inWork) generation.cancel()
  }

  /** Begins; `take` is called in turn. Throws a Failure for what could not be read earlier. */
  async read(tokens: Int32Array, name: string, take: InWork['take']): Promise<void> {
    if (this.#isCancelled) return
    const { topLogprobs, hasRouting } = this.wishes
    const generation = this.engine.generate({
      prompt: tokens,
      maxTokens: 0,
      stopIds: [],
      sampling: greedy,
      topLogprobs,
      score: true,
      routing: hasRouting,
    })
    this.#inWork.push({ generation, name, take })
    if (this.#inWork.length >= this.inWorkMax) await this.#finishFirst()
  }

  /** All that was begun is done. */
  async finish(): Promise<void> {
    while (this.#inWork.length > 0) await this.#finishFirst()
  }

  async #finishFirst(): Promise<void> {
    const first = this.#inWork.shift()
    if (first === undefined) return
    const { reason, message, scored } = await first.generation.ending
    if (reason === 'cancelled') return
    if (reason === 'failed' || scored === undefined) throw new Failure(`${first.name}: ${message}`)
    await first.take(scored)
  }
}
