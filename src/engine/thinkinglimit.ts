// An end to a sequence's thinking: once as many tokens as may be thought have been drawn, the closing tag
// is what comes next, whatever the model would say. Until then nothing is changed, so a sequence draws
// the same tokens with a limit and without. It knows ids only, and nothing of steps or of other sequences.
import type { ThinkingTags } from '../model/thinkingtags.js'

/** What is asked; crosses to the engine's thread as it is. */
export interface ThinkingLimit {
  /** Tokens that may be thought, tags not counted; a line break after the opening tag is. */
  readonly budget: number
  readonly tags: ThinkingTags
  /** Whether the prompt ends within a thought. If not, thinking begins with an opening tag, drawn first. */
  readonly startsInside: boolean
}

export class ThinkingWatch {
  #isThinking: boolean
  #left: number
  #drawn = 0

  constructor(private readonly limit: ThinkingLimit) {
    this.#isThinking = limit.startsInside
    this.#left = limit.budget
  }

  /** The id that must come next, or -1 where the model is free. */
  get forced(): number {
    return this.#isThinking && this.#left === 0 ? this.limit.tags.close : -1
  }

  /** Takes the next token of the sequence. */
  accept(token: number): void {
    const { open, close } = this.limit.tags
    const isFirst = this.#drawn === 0
    this.#drawn += 1
    if (isFirst && token === open) this.#isThinking = true
    else if (token === close) this.#isThinking = false
    else if (this.#isThinking) this.#left -= 1
  }
}
