// Finds the first of several stop texts in a text that streams. What may still become one is held
// back; the stop text itself, and what follows, is never given. How the text is cut into parts does
// not change what comes out.

export class StopFinder {
  #held = ''
  #found: string | null = null

  constructor(private readonly stops: readonly string[]) {}

  /** The stop text that ended the answer; null: none so far. */
  get found(): string | null {
    return this.#found
  }

  /** Takes the next part and returns what is certain by now. */
  push(text: string): string {
    if (this.#found !== null) return ''
    const all = this.#held + text
    let end = all.length
    for (const stop of this.stops) {
      const at = all.indexOf(stop)
      if (at < 0 || at >= end) continue
      end = at
      this.#found = stop
    }
    if (this.#found !== null) {
      this.#held = ''
      return all.slice(0, end)
    }
    const certain = all.length - this.#lengthOfBegunStop(all)
    this.#held = all.slice(certain)
    return all.slice(0, certain)
  }

  /** The text is complete: returns what was held back. */
  end(): string {
    const rest = this.#held
    this.#held = ''
    return rest
  }

  /** How many characters at the end of `text` may be the beginning of a stop. */
  #lengthOfBegunStop(text: string): number {
    let longest = 0
    for (const stop of this.stops) {
      for (let length = Math.min(stop.length - 1, text.length); length > longest; length -= 1) {
        if (text.endsWith(stop.slice(0, length))) longest = length
      }
    }
    return longest
  }
}
