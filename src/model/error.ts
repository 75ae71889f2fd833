/**
 * The one error that this folder throws for a damaged or unsupported model, and whoever stands on it for what a
 * person can mend; the way a value from a file is quoted inside its message; what the system says of a failed
 * call. Files come from strangers, so a message never carries more than one short line of what they contain:
 * control characters are escaped, length is cut.
 */
import { getSystemErrorMap } from 'node:util'

/** The longest message a person is shown; longer ones are cut, not wrapped. */
const MESSAGE_LIMIT = 390

/** What is wrong, mostly with a model, as one sentence: where (file, tensor), what was expected, what was found. */
export class ModelError extends Error {
  override readonly name = 'ModelError'

  constructor(message: string) {
    super(cut(message.replace(/[\s\p{Cc}\u2028\u2029]+/gu, ' '), MESSAGE_LIMIT))
  }
}

/**
 * A value from a file as it may stand in a message: strings quoted, escaped and cut; numbers as
 * written; a list of up to 8 numbers in full; anything larger by its kind only; undefined as "nothing".
 */
export function shown(value: unknown): string {
  if (value === undefined) return 'nothing'
  if (typeof value === 'string') return quoted(value)
  if (Array.isArray(value)) {
    const isShort = value.length <= 8 && value.every((item) => typeof item === 'number')
    return isShort ? `[${value.join(', ')}]` : `a list of ${value.length}`
  }
  return typeof value === 'object' && value !== null ? 'an object' : String(value)
}

function quoted(text: string): string {
  const printable = cut(text, 120).replace(/[\p{C}\u2028\u2029"\\]/gu, (character) =>
    character === '"' || character === '\\'
      ? `\\${character}`
      : `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`,
  )
  return `"${cut(printable, 160)}"`
}

function cut(text: string, limit: number): string {
  return text.length <= limit ? text : `${text.slice(0, limit - 1)}…`
}

/** What the system says of a failed call, in its own words: "no such file or directory". */
export function systemReason(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const { errno } = error as NodeJS.ErrnoException
  return (errno === undefined ? undefined : getSystemErrorMap().get(errno)?.[1]) ?? error.message
}
