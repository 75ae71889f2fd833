// Lines that are typed elsewhere than in a terminal of lines, as `chat` reads them.

export class SpokenLines {
  /** Nobody interrupts these: whoever has had enough ends them. */
  readonly isInterrupted = false
  readonly #arrived: string[] = []
  #isOver = false
  #wake: () => void = () => {}

  push(line: string): void {
    this.#arrived.push(line)
    this.#wake()
  }

  /** The next line; null when there will be none. */
  async next(): Promise<string | null> {
    if (this.#arrived.length === 0 && !this.#isOver) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
    return this.#isOver ? null : (this.#arrived.shift() ?? null)
  }

  close(): void {
    this.#isOver = true
    this.#wake()
  }
}
