// Regular expressions of JSON schemas, made into ones that a text in a JSON answer can be held to: of what
// the pattern allows, only characters that JSON writes as themselves, and the pattern found within the text
// made one of the whole text. All that comes out matches the pattern as given; what cannot be kept, such as
// looking ahead, is told. It knows no schema.

/** Thrown with a sentence's end: what of the pattern cannot be kept. */
export class PatternFault extends Error {}

/** Code points from, to, both included. */
type Range = readonly [number, number]

const LAST = 0x10ffff
/** How often something may be repeated by count, and how many such repetitions in each other count. */
const COUNT_MAX = 64
const CHARS_MAX = 512
const SIZE_MAX = 1024

/** What JSON writes as itself, and UTF-8 can write. */
const plain: readonly Range[] = [
  ...[0x20, 0x23, 0x5d].map((from, at): Range => [from, [0x21, 0x5b, 0x7e][at] ?? from]),
  [0x80, 0xd7ff],
  [0xe000, LAST],
]
const ascii: readonly Range[] = [[0, 0x7f]]
const foreign = without(plain, ascii)
/** Characters beyond ASCII that a class may name: each is written out. */
const NAMED_MAX = 64
const digits: readonly Range[] = [[0x30, 0x39]]
const words: readonly Range[] = [...digits, [0x41, 0x5a], [0x5f, 0x5f], [0x61, 0x7a]]
const blanks: readonly Range[] = [
  ...[9, 10, 11, 12, 13, 0x20, 0xa0, 0x1680, 0x2028, 0x2029, 0x202f, 0x205f, 0x3000, 0xfeff].map(
    (code): Range => [code, code],
  ),
  [0x2000, 0x200a],
]
const classes: Readonly<Record<string, readonly Range[]>> = {
  d: digits,
  w: words,
  s: blanks,
  D: without([[0, LAST]], digits),
  W: without([[0, LAST]], words),
  S: without([[0, LAST]], blanks),
}
const controls: Readonly<Record<string, number>> = { t: 9, n: 10, v: 11, f: 12, r: 13, 0: 0 }

/** A pattern in which only what was checked is left, for the whole of a text. Throws a PatternFault. */
export function heldPattern(pattern: string): string {
  if (pattern.length > CHARS_MAX) throw new PatternFault(`of more than ${CHARS_MAX} characters`)
  return new Reader([...pattern]).whole()
}

/** Any text of so many characters; `most` undefined: as many as it likes. */
export function anyText(least: number, most?: number): string {
  return `${anyMark}{${least},${most ?? ''}}`
}

class Reader {
  #at = 0
  #size = 0

  constructor(private readonly marks: readonly string[]) {}

  /** Alternatives, each of which may begin and end anywhere in the text unless it says otherwise. */
  whole(): string {
    const parts: string[] = []
    do {
      const begins = this.#takes('^')
      const { text, ends } = this.#sequence(true)
      const any = `${anyMark}*`
      parts.push(`${begins ? '' : any}${text}${ends ? '' : any}`)
    } while (this.#takes('|'))
    if (this.#at < this.marks.length) throw new PatternFault('with a ) too many')
    return parts.length === 1 ? (parts[0] ?? '') : `(${parts.join('|')})`
  }

  #takes(mark: string): boolean {
    if (this.marks[this.#at] !== mark) return false
    this.#at += 1
    return true
  }

  #next(): string {
    const mark = this.marks[this.#at]
    if (mark === undefined) throw new PatternFault('that breaks off')
    this.#at += 1
    return mark
  }

  /** Up to | or ) or the end. */
  #sequence(isOuter: boolean): { text: string; ends: boolean } {
    let text = ''
    for (;;) {
      const mark = this.marks[this.#at]
      if (mark === undefined || mark === '|' || mark === ')') return { text, ends: false }
      if (isOuter && mark === '$') {
        this.#at += 1
        const after = this.marks[this.#at]
        if (after !== undefined && after !== '|') throw new PatternFault('with $ within it')
        return { text, ends: true }
      }
      text += this.#repeated()
    }
  }

  #repeated(): string {
    const before = this.#size
    const one = this.#atom()
    const [least, most] = this.#counts()
    // What is repeated by count is written out as often.
    this.#size += (this.#size - before) * Math.max(0, (most ?? least) - 1)
    if (this.#size > SIZE_MAX) throw new PatternFault('that is too large')
    if (least === 1 && most === 1) return one
    if (least === 0 && most === undefined) return `${one}*`
    if (least === 1 && most === undefined) return `${one}+`
    if (least === 0 && most === 1) return `${one}?`
    return `${one}{${least},${most ?? ''}}`
  }

  #counts(): [number, number | undefined] {
    const counts = this.#quantifier()
    if (counts === null) return [1, 1]
    // Reluctance changes what is found first, not what matches.
    this.#takes('?')
    return counts
  }

  #quantifier(): [number, number | undefined] | null {
    if (this.#takes('*')) return [0, undefined]
    if (this.#takes('+')) return [1, undefined]
    if (this.#takes('?')) return [0, 1]
    if (!this.#takes('{')) return null
    let inside = ''
    for (let mark = this.#next(); mark !== '}'; mark = this.#next()) inside += mark
    const [, first, comma, second] = /^(\d{1,4})(,?)(\d{0,4})$/.exec(inside) ?? []
    if (first === undefined || (comma === '' && second !== ''))
      throw new PatternFault('with a { that is no count')
    const least = Number(first)
    const most = comma === '' ? least : second === '' ? undefined : Number(second)
    if (least > COUNT_MAX || (most ?? 0) > COUNT_MAX || least > (most ?? least)) {
      throw new PatternFault(`with counts that are not from 0 to ${COUNT_MAX}`)
    }
    return [least, most]
  }

  #atom(): string {
    this.#size += 1
    const mark = this.#next()
    if (mark === '(') return this.#group()
    if (mark === '[') return this.#written(this.#class())
    // Line separators beyond ASCII, which it does not match either, are nothing that is written.
    if (mark === '.') return anyMark
    if (mark === '\\') return this.#written(this.#escape())
    if ('^$'.includes(mark)) throw new PatternFault(`with ${mark} within it`)
    if ('*+?{}]'.includes(mark)) throw new PatternFault(`with ${mark} where nothing is to repeat`)
    return this.#written([rangeOf(mark)])
  }

  #group(): string {
    if (this.#takes('?') && !this.#takes(':')) {
      throw new PatternFault('that looks around or names a group')
    }
    const parts: string[] = []
    do parts.push(this.#sequence(false).text)
    while (this.#takes('|'))
    if (!this.#takes(')')) throw new PatternFault('that breaks off')
    return `(${parts.join('|')})`
  }

  #class(): readonly Range[] {
    const isNegative = this.#takes('^')
    const ranges: Range[] = []
    for (let mark = this.#next(); mark !== ']'; mark = this.#next()) {
      const first = mark === '\\' ? this.#escape(true) : [rangeOf(mark)]
      const isSpan = this.marks[this.#at] === '-' && this.marks[this.#at + 1] !== ']'
      if (!isSpan) {
        ranges.push(...first)
        continue
      }
      this.#at += 1
      const end = this.#next()
      const last = end === '\\' ? this.#escape(true) : [rangeOf(end)]
      const [from, to] = [first[0]?.[0] ?? 0, last[0]?.[1] ?? 0]
      const areSingle = [first, last].every(
        ([one, more]) => more === undefined && one?.[0] === one?.[1],
      )
      if (!areSingle || from > to) throw new PatternFault('with a class that is no span')
      ranges.push([from, to])
    }
    return isNegative ? without([[0, LAST]], ranges) : ranges
  }

  #escape(isInClass = false): readonly Range[] {
    const mark = this.#next()
    const named = classes[mark]
    if (named !== undefined) return named
    const control = controls[mark]
    if (control !== undefined && !/\d/.test(this.marks[this.#at] ?? '')) return [[control, control]]
    if (mark === 'x') return this.#coded(/^[0-9a-f]{2}/i)
    if (mark === 'u') return this.#coded(/^[0-9a-f]{4}/i)
    if (/[A-Za-z0-9]/.test(mark)) throw new PatternFault(`with \\${mark}`)
    if (mark === '-' && !isInClass) throw new PatternFault('with \\-')
    return [rangeOf(mark)]
  }

  #coded(shape: RegExp): readonly Range[] {
    const [digits] = shape.exec(this.marks.slice(this.#at, this.#at + 4).join('')) ?? []
    if (digits === undefined) throw new PatternFault('with a code that is none')
    this.#at += digits.length
    const code = Number.parseInt(digits, 16)
    return [[code, code]]
  }

  #written(ranges: readonly Range[]): string {
    const kept = without(plain, without([[0, LAST]], ranges))
    const text = setText(kept)
    if (text === null) throw new PatternFault('with a class that cannot be written')
    if (text === '') throw new PatternFault('that wants characters which JSON escapes')
    return text
  }
}

function rangeOf(mark: string): Range {
  const code = mark.codePointAt(0) ?? 0
  return [code, code]
}

/** Rising and apart. */
function without(ranges: readonly Range[], others: readonly Range[]): Range[] {
  let left = [...ranges]
  for (const [from, to] of others) {
    left = left.flatMap(([begin, end]): Range[] => {
      if (to < begin || from > end) return [[begin, end]]
      const parts: Range[] = []
      if (begin < from) parts.push([begin, from - 1])
      if (end > to) parts.push([to + 1, end])
      return parts
    })
  }
  return left
}

/**
 * One of these characters, in the words that the library reads rightly: classes of ASCII, classes of all but
 * some ASCII, and single characters. Of a class that leaves out some of what is beyond ASCII only ASCII is
 * kept. Empty: there is none; null: it has no such words.
 */
function setText(set: readonly Range[]): string | null {
  const [near, far] = [without(set, foreign), without(set, ascii)]
  const missing = without(foreign, far)
  if (missing.length === 0) return allBut(without(without(ascii, controlCodes), near))
  const count = sizeOf(far)
  const isNearlyAll = sizeOf(missing) < sizeOf(foreign) / 2
  if (count > NAMED_MAX && !isNearlyAll) return null
  const marks = isNearlyAll ? [] : far.flatMap(([from, to]) => codesOf(from, to))
  const parts = [...nearText(near), ...marks.map((code) => String.fromCodePoint(code))]
  return parts.length > 1 ? `(${parts.join('|')})` : (parts[0] ?? '')
}

/** A class, and what cannot stand in one. */
function nearText(set: readonly Range[]): string[] {
  // At the beginning it would turn the class into its opposite.
  const caret = rangeOf('^')
  const rest = without(set, [caret])
  const hasCaret = sizeOf(rest) < sizeOf(set)
  const parts = rest.length === 0 ? [] : [`[${rest.map(spanText).join('')}]`]
  return hasCaret ? [...parts, '\\^'] : parts
}

/** All but these of ASCII. What is written as a code stands at the end, where no digit can follow it. */
function allBut(set: readonly Range[]): string {
  return `[^${set.map(spanText).join('')}\\u{7f}\\u{0}-\\u{1f}]`
}

function spanText([from, to]: Range): string {
  return from === to ? markText(from) : `${markText(from)}-${markText(to)}`
}

function markText(code: number): string {
  const mark = String.fromCodePoint(code)
  return '[]\\^-'.includes(mark) ? `\\${mark}` : mark
}

function sizeOf(set: readonly Range[]): number {
  return set.reduce((sum, [from, to]) => sum + to - from + 1, 0)
}

function codesOf(from: number, to: number): number[] {
  return Array.from({ length: to - from + 1 }, (_, at) => from + at)
}

const controlCodes: readonly Range[] = [
  [0, 0x1f],
  [0x7f, 0x7f],
]
const anyMark = allBut(without(without(ascii, controlCodes), plain))
