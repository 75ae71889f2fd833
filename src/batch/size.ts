// How many sequences a job has in work at once. Pure: what the answers may need and what is free in,
// numbers out. Keys and values are shared by all sequences, so many short ones fit beside a long one;
// the engine lets the next one in when its room is free.
import { blocksFor, kvBlockTokens } from '../engine/kv.js'

export interface BatchSize {
  readonly sequences: number
  /** Positions of the longest. */
  readonly contextTokens: number
  readonly kvTokens: number
}

/**
 * Beyond so many, nearly every expert of a layer is wanted in each step (256 experts, 8 of them a
 * token), and a step of more tokens computes longer for each.
 */
const SEQUENCES_AUTO = 128

/** `needs`: tokens of every answer with its prompt, the most first; `asked`: null for auto. */
export function batchSize(
  needs: readonly number[],
  asked: number | null,
  kvTokensFree: number,
): BatchSize {
  const contextTokens = Math.max(1, needs[0] ?? 1)
  const most = Math.max(1, Math.min(asked ?? SEQUENCES_AUTO, needs.length))
  const rounded = needs.map((tokens) => blocksFor(tokens) * kvBlockTokens)
  const wanted = rounded.slice(0, most).reduce((sum, tokens) => sum + tokens, 0)
  const kvTokens = Math.max(
    blocksFor(contextTokens) * kvBlockTokens,
    Math.min(wanted, kvTokensFree),
  )
  // As many of the shortest as could ever be in work together.
  let [sequences, taken] = [0, 0]
  for (const tokens of rounded.toReversed()) {
    taken += tokens
    if (sequences >= most || taken > kvTokens) break
    sequences += 1
  }
  return { sequences: Math.max(1, sequences), contextTokens, kvTokens }
}
