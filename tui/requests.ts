// One row for each request: how far it is and how fast; and the text of the chosen one.
import type { RequestRow, Snapshot } from '../src/engine/telemetry.js'
import {
  columnsOf,
  type Line,
  line,
  padded,
  printable,
  rightly,
  type Span,
  type Style,
  span,
} from './cells.js'
import { absent, countText, rateText, secondsText } from './figures.js'
import type { Said, Scene } from './scene.js'

export function requests({ snapshot, place }: Scene, rows: number): Line[] {
  const head = line(
    span(
      ` ${rightly('no', 6)}  ${padded('state', 10)}${rightly('prompt', 8)}${rightly('cached', 8)}${rightly('read', 8)}${rightly('drawn', 8)}${rightly('tok/s', 8)}${rightly('first', 9)}${rightly('age', 11)}`,
      'title',
    ),
  )
  const all = snapshot?.requests.rows ?? []
  if (snapshot === null || all.length === 0)
    return [head, line(span(' nobody has asked yet', 'dim'))]
  const chosen = Math.min(place.row, all.length - 1)
  const first = Math.max(0, Math.min(all.length - (rows - 1), chosen - (rows >> 1)))
  return [
    head,
    ...all
      .slice(first, first + rows - 1)
      .map((row, at) => requestLine(row, snapshot.time, first + at === chosen)),
  ]
}

/** The request under the cursor. */
export function chosenOf(snapshot: Snapshot | null, row: number): RequestRow | null {
  const rows = snapshot?.requests.rows ?? []
  return rows[Math.min(row, rows.length - 1)] ?? null
}

export function isAtWork({ state }: RequestRow): boolean {
  return state === 'waiting' || state === 'reading' || state === 'drawing'
}

function requestLine(row: RequestRow, time: number, isChosen: boolean): Line {
  const { firstToken, lastToken, tokensDrawn, arrived } = row
  const seconds = firstToken === undefined || lastToken === undefined ? 0 : lastToken - firstToken
  const rate = seconds > 0 ? (tokensDrawn - 1) / seconds : undefined
  const first = firstToken === undefined ? absent : secondsText(Math.max(0, firstToken - arrived))
  const text = [
    ` ${rightly(String(row.number), 6)}  ${padded(row.state, 10)}`,
    rightly(countText(row.promptTokens), 8),
    rightly(countText(row.tokensCached), 8),
    rightly(countText(row.tokensRead), 8),
    rightly(countText(tokensDrawn), 8),
    rightly(rateText(rate), 8),
    rightly(first, 9),
    rightly(secondsText(Math.max(0, time - arrived)), 11),
  ].join('')
  return line(span(text, isChosen ? 'chosen' : styleOf(row)))
}

function styleOf(row: RequestRow): Style {
  if (row.state === 'failed') return 'poor'
  return isAtWork(row) ? 'good' : 'dim'
}

const styleOfSaid: Readonly<Record<Said['kind'], Style>> = {
  prompt: 'title',
  reasoning: 'dim',
  text: 'plain',
}

/** The last lines of what was said, wrapped, and what is being typed. */
export function text({ said, place }: Scene, columns: number, rows: number): Line[] {
  if (said === null) {
    return [line(span(' the text of requests is not told here', 'dim'))]
  }
  const typed =
    place.draft === null ? [] : [line(), draftLine(place.draft, place.isTyping, columns)]
  const room = rows - typed.length
  const lines = wrapped(said, columns - 2)
  const end = Math.max(Math.min(room, lines.length), lines.length - place.back)
  const shown = lines.slice(Math.max(0, end - room), end).map((one) => [span(' '), ...one])
  const blanks = typed.length === 0 ? [] : Array.from({ length: room - shown.length }, () => line())
  return [...shown, ...blanks, ...typed]
}

function draftLine(draft: string, isTyping: boolean, columns: number): Line {
  if (!isTyping) return line(span(' Enter: say something', 'dim'))
  let tail = draft
  while (tail !== '' && [...tail].reduce((sum, one) => sum + columnsOf(one), 0) > columns - 5) {
    tail = tail.slice((tail.codePointAt(0) ?? 0) > 0xffff ? 2 : 1)
  }
  return line(span(' > ', 'title'), tail, span(' ', 'chosen'))
}

/** Pieces as lines of at most so many columns; words are not cut where a line can hold them. */
export function wrapped(said: readonly Said[], columns: number): Line[] {
  const lines: Line[] = []
  let current: Span[] = []
  let used = 0
  const end = () => {
    lines.push(current)
    current = []
    used = 0
  }
  for (const { kind, text: whole } of said) {
    const style = styleOfSaid[kind]
    for (const [at, part] of whole.split('\n').entries()) {
      if (at > 0) end()
      for (const word of printable(part).match(/\s+|\S+/g) ?? []) {
        const width = [...word].reduce((sum, one) => sum + columnsOf(one), 0)
        if (used > 0 && used + width > columns) {
          end()
          // A blank has done its work then.
          if (word.trim() === '') continue
        }
        for (const character of word) {
          if (used + columnsOf(character) > columns) end()
          const last = current.at(-1)
          if (last?.style === style)
            current[current.length - 1] = span(last.text + character, style)
          else current.push(span(character, style))
          used += columnsOf(character)
        }
      }
    }
  }
  if (current.length > 0) end()
  return lines
}

/** The last lines that were logged, wrapped. */
export function log({ log: told, place }: Scene, columns: number, rows: number): Line[] {
  if (told.length === 0) return [line(span(' nothing was logged here', 'dim'))]
  // No more of them can be seen than there are rows.
  const seen = told.slice(-rows - place.back)
  const lines = seen.flatMap((one) => wrapped([{ kind: 'text', text: one }], columns - 2))
  const end = Math.max(Math.min(rows, lines.length), lines.length - place.back)
  return lines.slice(Math.max(0, end - rows), end).map((one) => [span(' '), ...one])
}
