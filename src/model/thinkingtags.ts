/**
 * The tags of thinking as tokens. Only tags that are one token each can be told in a stream of ids
 * without its text: where a tag is spelt with several, a neighbour may be drawn into its last one.
 */
import { CLOSE, OPEN } from './thinking.js'
import type { Tokenizer } from './tokenizer.js'

export interface ThinkingTags {
  /** The id of <think>. */
  readonly open: number
  /** The id of </think>. */
  readonly close: number
}

/** Null where this tokenizer has no token of its own for one of them. */
export function thinkingTagsOf(tokenizer: Pick<Tokenizer, 'idOf'>): ThinkingTags | null {
  const open = tokenizer.idOf(OPEN)
  const close = tokenizer.idOf(CLOSE)
  return open === null || close === null ? null : { open, close }
}
