// Text on a screen as data: a line is spans of one style each, and a style is a name, not a colour. Here
// lines are cut, padded and joined by the columns they take. It knows nothing of terminals or figures.

/** What a span means; what that looks like is decided where it is drawn. */
export type Style =
  | 'plain'
  | 'dim'
  | 'strong'
  | 'title'
  | 'good'
  | 'fair'
  | 'poor'
  | 'cool'
  | 'chosen'

export interface Span {
  readonly text: string
  readonly style: Style
}

export type Line = readonly Span[]

export function span(text: string, style: Style = 'plain'): Span {
  return { text, style }
}

export function line(...parts: readonly (Span | string)[]): Line {
  return parts.map((part) => (typeof part === 'string' ? span(part) : part))
}

const isAscii = /^[ -~]*$/

/** Without what would move the cursor; marks that take no column are dropped too. */
export function printable(text: string): string {
  if (isAscii.test(text)) return text
  return text.replace(/\t/g, '  ').replace(/[\p{Cc}\p{Cf}\p{Mn}\p{Me}\p{Zl}\p{Zp}\p{Cs}]/gu, '')
}

/** Columns of one character: East Asian wide ones and pictures take two. */
export function columnsOf(character: string): number {
  const code = character.codePointAt(0) ?? 0
  // Nearly all.
  if (code < 0x1100) return 1
  const isWide =
    (code >= 0x1100 && code <= 0x115f) ||
    (code >= 0x2e80 && code <= 0xa4cf) ||
    (code >= 0xac00 && code <= 0xd7a3) ||
    (code >= 0xf900 && code <= 0xfaff) ||
    (code >= 0xfe30 && code <= 0xfe6f) ||
    (code >= 0xff00 && code <= 0xff60) ||
    (code >= 0xffe0 && code <= 0xffe6) ||
    (code >= 0x1f300 && code <= 0x1faff) ||
    (code >= 0x20000 && code <= 0x3fffd)
  return isWide ? 2 : 1
}

export function widthOf(text: string): number {
  if (isAscii.test(text)) return text.length
  let columns = 0
  for (const character of text) columns += columnsOf(character)
  return columns
}

/** Exactly so many columns of what may be printed: cut, or filled with blanks. */
export function fitted(spans: Line, columns: number): Line {
  const cut: Span[] = []
  let left = columns
  for (const { text: raw, style } of spans) {
    if (left === 0) break
    const text = printable(raw)
    const part = headOf(text, left)
    if (part !== '') cut.push({ text: part, style })
    left -= widthOf(part)
    // A wide character that does not fit ends the line.
    if (part.length < text.length) break
  }
  return left > 0 ? [...cut, span(' '.repeat(left))] : cut
}

/** The characters that fit into so many columns. */
function headOf(text: string, columns: number): string {
  let taken = 0
  let end = 0
  for (const character of text) {
    taken += columnsOf(character)
    if (taken > columns) break
    end += character.length
  }
  return text.slice(0, end)
}

/** Exactly so many lines of so many columns. */
export function framed(lines: readonly Line[], columns: number, rows: number): Line[] {
  return Array.from({ length: rows }, (_, row) => fitted(lines[row] ?? [], columns))
}

export function padded(text: string, columns: number): string {
  return text + ' '.repeat(Math.max(0, columns - widthOf(text)))
}

export function rightly(text: string, columns: number): string {
  return ' '.repeat(Math.max(0, columns - widthOf(text))) + text
}

export function textOf(spans: Line): string {
  return spans.map(({ text }) => text).join('')
}
