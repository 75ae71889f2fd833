// An answer on standard output while it streams: thinking between its tags, dimmed where a terminal
// shows it, then the answer. Elsewhere, and with NO_COLOR, the same text without colours. A model's
// text may hold control sequences; a terminal gets none of them, a file or pipe gets the text as it is.
import type { TextPiece } from '../model/thinking.js'

const DIM = '\u001b[2m'
const UNDIM = '\u001b[22m'

export class Screen {
  #kind: TextPiece['kind'] | null = null
  #last = '\n'
  readonly #isDimmed: boolean

  constructor(
    private readonly stream: NodeJS.WriteStream = process.stdout,
    environment: Readonly<Record<string, string | undefined>> = process.env,
  ) {
    const isPlain = (environment.NO_COLOR ?? '') !== '' || environment.TERM === 'dumb'
    this.#isDimmed = stream.isTTY === true && !isPlain
  }

  piece({ kind, text }: TextPiece): void {
    if (kind !== this.#kind) {
      if (kind === 'reasoning') this.#write(`<think>\n`, true)
      else if (this.#kind === 'reasoning') {
        this.#write('\n</think>', true)
        this.#write('\n\n', false)
      }
      this.#kind = kind
    }
    this.#write(this.stream.isTTY ? printable(text) : text, kind === 'reasoning')
  }

  /** Ends the last line. The next piece begins another answer. */
  end(): void {
    if (this.#last !== '\n') this.stream.write('\n')
    this.#kind = null
    this.#last = '\n'
  }

  /** Every write undoes its own dimming: a program that is killed leaves the terminal as it was. */
  #write(text: string, isThinking: boolean): void {
    if (text === '') return
    this.#last = text.slice(-1)
    this.stream.write(isThinking && this.#isDimmed ? `${DIM}${text}${UNDIM}` : text)
  }
}

function printable(text: string): string {
  return text.replace(/\p{Cc}/gu, (control) => {
    if (control === '\n' || control === '\t') return control
    return control === '\r' ? '' : '\u{FFFD}'
  })
}
