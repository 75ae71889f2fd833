// The lines that a person types or pipes into `chat`. On a terminal they can be edited and recalled,
// and while nobody asks for one the terminal is an ordinary one again: otherwise the keys of Ctrl-C
// would wait here as text instead of becoming a signal.
import { createInterface, type Interface } from 'node:readline'

export class Lines {
  readonly #reader: Interface
  readonly #output: NodeJS.WriteStream
  readonly #isTerminal: boolean
  readonly #arrived: string[] = []
  #isOver = false
  #isInterrupted = false
  #wake: () => void = () => {}

  constructor() {
    const { stdin, stdout, stderr } = process
    this.#output = stdout.isTTY ? stdout : stderr
    this.#isTerminal = stdin.isTTY === true && this.#output.isTTY === true
    this.#reader = createInterface({
      input: stdin,
      output: this.#output,
      terminal: this.#isTerminal,
      prompt: this.#isTerminal ? '> ' : '',
    })
    this.#reader.on('line', (line) => {
      this.#arrived.push(line)
      this.#wake()
    })
    this.#reader.on('close', () => {
      this.#isOver = true
      this.#wake()
    })
    this.#reader.on('SIGINT', () => this.#interrupt())
    this.#rest()
  }

  /** Whether a person ended the lines with Ctrl-C at an empty prompt. */
  get isInterrupted(): boolean {
    return this.#isInterrupted
  }

  /** The next line; null at the end of input. */
  async next(): Promise<string | null> {
    if (this.#arrived.length === 0 && !this.#isOver) {
      if (this.#isTerminal) {
        process.stdin.setRawMode(true)
        this.#reader.prompt()
      } else {
        this.#reader.resume()
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
      if (!this.#isOver) this.#rest()
    }
    const line = this.#arrived.shift() ?? null
    // The shell's own prompt shall not stand behind ours.
    if (line === null && this.#isTerminal) this.#output.write('\n')
    return line
  }

  close(): void {
    this.#reader.close()
  }

  #rest(): void {
    this.#reader.pause()
    if (this.#isTerminal) process.stdin.setRawMode(false)
  }

  /** A begun line is dropped; an empty one is the end. */
  #interrupt(): void {
    if (this.#reader.line === '') {
      this.#isInterrupted = true
      this.#reader.close()
      return
    }
    this.#reader.write(null, { ctrl: true, name: 'e' })
    this.#reader.write(null, { ctrl: true, name: 'u' })
  }
}
