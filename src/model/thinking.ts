/**
 * Splits what a reasoning model says into its reasoning and its answer while it streams. It knows
 * only the two tags, not tokens: a tag may arrive in any number of parts, so text that may still
 * become one is held back. How the text is cut into parts never changes what comes out.
 */

export const OPEN = '<think>'
export const CLOSE = '</think>'

/** A part of the output; parts of one kind follow each other and are to be joined. Never empty. */
export interface TextPiece {
  readonly kind: 'reasoning' | 'text'
  readonly text: string
}

/**
 * Whether a prompt leaves the model in the middle of its reasoning: it ends with the opening tag,
 * whitespace aside. The model then never writes that tag itself.
 */
export function promptEndsInsideThinking(promptText: string): boolean {
  return promptText.trimEnd().endsWith(OPEN)
}

/** start: before the first visible character; opened: right after <think>; closed: after </think>. */
type Phase = 'start' | 'opened' | 'reasoning' | 'closed' | 'text'

/**
 * The rules, exactly:
 * - Reasoning begins at once with `startsInside`, else only if the output, whitespace aside, begins
 *   with `<think>`; that leading whitespace is dropped. A repeated `<think>` at the start is
 *   dropped in the first case too. Else all is text, unchanged.
 * - One line break (LF or CR LF) where reasoning begins is dropped.
 * - Reasoning ends at the first `</think>`. Whitespace before and after that tag is dropped.
 * - Everything later is text, tags and trailing whitespace included. Reasoning that never ends is
 *   given whole, its trailing whitespace and an unfinished tag included.
 */
export class ThinkingSplitter {
  readonly #startsInside: boolean
  #phase: Phase = 'start'
  /** Whitespace that is dropped or given depending on what follows; kept apart so that it costs nothing to grow. */
  #space = ''
  /** Text that may be the beginning of a tag or of a line break. */
  #held = ''
  #pieces: TextPiece[] = []

  constructor(options: { startsInside: boolean }) {
    this.#startsInside = options.startsInside
  }

  /** Takes the next part of the output and returns what is certain by now. */
  push(text: string): TextPiece[] {
    let rest = this.#held + text
    this.#held = ''
    let phase: Phase
    do {
      phase = this.#phase
      rest = this.#advance(rest)
    } while (phase !== this.#phase)
    return this.#taken()
  }

  /** The output is complete: returns what was held back. Nothing may be pushed afterwards. */
  end(): TextPiece[] {
    const rest = this.#held
    this.#held = ''
    // Nothing follows, so what was held is no tag and no line break's first half.
    if (this.#phase === 'start') {
      return [...this.push(this.#leaveStart(rest)), ...this.end()]
    }
    if (this.#phase === 'opened' || this.#phase === 'reasoning') {
      this.#give('reasoning', this.#space + rest)
      this.#space = ''
    }
    return this.#taken()
  }

  /** Consumes `text` as far as the phase goes; returns what belongs to the next phase. */
  #advance(text: string): string {
    switch (this.#phase) {
      case 'start':
        return this.#findOpening(text)
      case 'opened':
        return this.#dropLineBreak(text)
      case 'reasoning':
        return this.#findClosing(text)
      case 'closed':
        return this.#dropSpace(text)
      case 'text':
        this.#give('text', text)
        return ''
    }
  }

  #findOpening(text: string): string {
    const visible = text.trimStart()
    this.#space += text.slice(0, text.length - visible.length)
    if (visible.startsWith(OPEN)) {
      this.#space = ''
      this.#phase = 'opened'
      return visible.slice(OPEN.length)
    }
    if (OPEN.startsWith(visible)) {
      this.#held = visible
      return ''
    }
    return this.#leaveStart(visible)
  }

  /** There is no opening tag: the whitespace before `visible` counts. */
  #leaveStart(visible: string): string {
    const all = this.#space + visible
    this.#space = ''
    this.#phase = this.#startsInside ? 'opened' : 'text'
    return all
  }

  #dropLineBreak(text: string): string {
    if (text === '' || text === '\r') {
      this.#held = text
      return ''
    }
    this.#phase = 'reasoning'
    return text.replace(/^\r?\n/, '')
  }

  #dropSpace(text: string): string {
    const visible = text.trimStart()
    if (visible !== '') this.#phase = 'text'
    return visible
  }

  #findClosing(text: string): string {
    const at = text.indexOf(CLOSE)
    if (at >= 0) {
      this.#giveReasoning(text.slice(0, at))
      this.#space = ''
      this.#phase = 'closed'
      return text.slice(at + CLOSE.length)
    }
    const tagBegins = text.length - lengthOfBegunTag(text)
    this.#held = text.slice(tagBegins)
    this.#giveReasoning(text.slice(0, tagBegins))
    return ''
  }

  /** Gives reasoning, but keeps whitespace at its end until something follows. */
  #giveReasoning(text: string): void {
    const visible = text.trimEnd()
    if (visible === '') {
      this.#space += text
      return
    }
    this.#give('reasoning', this.#space + visible)
    this.#space = text.slice(visible.length)
  }

  #give(kind: TextPiece['kind'], text: string): void {
    if (text !== '') this.#pieces.push({ kind, text })
  }

  #taken(): TextPiece[] {
    const pieces = this.#pieces
    this.#pieces = []
    return pieces
  }
}

/** How many characters at the end of `text` may be the beginning of the closing tag. */
function lengthOfBegunTag(text: string): number {
  for (let length = Math.min(CLOSE.length - 1, text.length); length > 0; length--) {
    if (text.endsWith(CLOSE.slice(0, length))) return length
  }
  return 0
}
