// What the flags and a prompt ask of the engine. Chooses what the flags leave open: how many tokens
// may be drawn, and the seed.
import { randomInt } from 'node:crypto'
import type { EngineFacts } from '../engine/protocol.js'
import type { Sampling } from '../engine/sampling.js'
import type { Request } from '../engine/sequence.js'
import type { ThinkingLimit } from '../engine/thinkinglimit.js'
import { type ThinkingTags, thinkingTagsOf } from '../model/thinkingtags.js'
import type { Tokenizer } from '../model/tokenizer.js'
import type { Prompt } from './conversation.js'
import { Failure } from './failure.js'
import type { DrawFlags, TalkFlags } from './flags.js'

/** The seed of the draws: the given one, a random one, or none where nothing is drawn by chance. */
export function seedOf(flags: DrawFlags): number | null {
  if (flags.seed !== undefined) return flags.seed
  return flags.temp === 0 ? null : randomInt(2 ** 32)
}

/** Throws a Failure when the prompt leaves no room, or names a token that the model lacks, as a bias may. */
export function requestOf(
  { tokens, thinking }: Prompt,
  flags: DrawFlags & TalkFlags,
  seed: number | null,
  facts: EngineFacts,
  tokenizer: Tokenizer,
): Request {
  const { contextTokens } = facts.plan
  const { vocabulary, eosIds } = facts.config
  const strange = tokens.find((token) => token >= vocabulary)
  if (strange !== undefined) {
    throw new Failure(
      `tokenizer.json gives token ${strange}, and the model has ids 0 to ${vocabulary - 1}`,
    )
  }
  const left = contextTokens - tokens.length
  if (left < 1) {
    throw new Failure(
      `the prompt has ${tokens.length} tokens, and the context holds ${contextTokens} with the answer (--ctx-size)`,
    )
  }
  return {
    prompt: tokens,
    maxTokens: flags.predict ?? left,
    stopIds: eosIds,
    sampling: samplingOf(flags, seed, vocabulary),
    topLogprobs: 0,
    score: false,
    routing: false,
    thinking: thinking === null ? undefined : limitOf(thinking.startsInside, flags, tokenizer),
  }
}

function limitOf(
  startsInside: boolean,
  { reasoningBudget: budget }: TalkFlags,
  tokenizer: Tokenizer,
): ThinkingLimit | undefined {
  return budget === undefined ? undefined : { budget, tags: neededTags(tokenizer), startsInside }
}

/** Throws a Failure for a model whose thinking nothing can end. */
export function neededTags(tokenizer: Tokenizer): ThinkingTags {
  const tags = thinkingTagsOf(tokenizer)
  if (tags !== null) return tags
  throw new Failure(
    '--reasoning-budget: tokenizer.json has no tokens for <think> and </think>, so nothing can end the thinking early',
  )
}

function samplingOf(flags: DrawFlags, seed: number | null, vocabulary: number): Sampling {
  const biases = [...(flags.logitBias ?? [])]
  const strange = biases.find(([id]) => id >= vocabulary)
  if (strange !== undefined) {
    throw new Failure(
      `--logit-bias ${strange[0]}=${strange[1]}: this model has token ids 0 to ${vocabulary - 1}`,
    )
  }
  return {
    temperature: flags.temp,
    topK: flags.topK,
    topP: flags.topP,
    minP: flags.minP,
    repetitionPenalty: flags.repetitionPenalty,
    presencePenalty: flags.presencePenalty,
    frequencyPenalty: flags.frequencyPenalty,
    seed: BigInt(seed ?? 0),
    biases,
  }
}
