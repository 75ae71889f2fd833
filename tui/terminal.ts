// Lines of styled cells on a terminal, and keys from it, over blessed. Only cells that changed are sent;
// colours are the sixteen that every terminal has, and none with NO_COLOR. The terminal is put back as it
// was on every end of the program but SIGKILL. It knows nothing of what is shown.
import blessed, { type Widgets } from 'blessed'
import { columnsOf, type Line, printable, type Style } from './cells.js'
import type { Key } from './keys.js'

/** Bits of a cell's attribute, as blessed packs them. */
const bold = 1 << 18
const inverse = 8 << 18
const ownColours = (0x1ff << 9) | 0x1ff

const signals = ['SIGTERM', 'SIGINT'] as const

interface Look {
  /** One of the sixteen colours; left out: the terminal's own. */
  readonly colour?: number
  readonly flags: number
}

const looks: Readonly<Record<Style, Look>> = {
  plain: { flags: 0 },
  dim: { colour: 8, flags: 0 },
  strong: { flags: bold },
  title: { colour: 6, flags: bold },
  good: { colour: 2, flags: 0 },
  fair: { colour: 3, flags: 0 },
  poor: { colour: 1, flags: bold },
  cool: { colour: 6, flags: 0 },
  chosen: { flags: inverse },
}

/** A row of blessed's picture of the screen: [attribute, character] pairs. */
type Row = [attribute: number, character: string][] & { dirty: boolean }

/** What blessed has and its types do not name. */
interface Picture {
  readonly lines: Row[]
  readonly tput: { readonly colors?: number }
}

interface PressedKey {
  readonly full?: string
  readonly name?: string
  readonly sequence?: string
}

export class Terminal {
  readonly #screen: Widgets.Screen
  readonly #attributes: Readonly<Record<Style, number>>
  #isClosed = false
  readonly #restore = (): void => this.close()

  constructor(
    onKey: (key: Key) => void,
    onResize: () => void,
    environment: Readonly<Record<string, string | undefined>> = process.env,
  ) {
    // Else lines and bars would be letters of another character set to whatever reads along.
    process.env.NCURSES_NO_UTF8_ACS = '1'
    this.#screen = blessed.screen({ fullUnicode: true, smartCSR: false, warnings: false })
    // What ends the program is told by it, and must be told on the terminal as it was.
    process.prependListener('uncaughtException', this.#restore)
    for (const signal of signals) process.prependListener(signal, this.#restore)
    const picture = this.#screen as unknown as Picture
    this.#attributes = attributesOf((environment.NO_COLOR ?? '') !== '', picture.tput.colors ?? 8)
    this.#screen.program.hideCursor()
    this.#screen.on('keypress', (text: string | undefined, key: PressedKey) => {
      // A carriage return comes twice, under two names.
      if (key.name !== 'return') onKey(keyOf(text, key))
    })
    this.#screen.on('resize', onResize)
  }

  get columns(): number {
    return this.#screen.cols
  }

  get rows(): number {
    return this.#screen.rows
  }

  /** Shows the lines, one for each row. Returns false where the terminal is not done with the last. */
  draw(lines: readonly Line[]): boolean {
    if (this.#isClosed) return true
    if (process.stdout.writableNeedDrain) return false
    const rows = (this.#screen as unknown as Picture).lines
    for (const [at, row] of rows.entries()) {
      // Rows that stay as they are cost nothing further.
      if (fill(row, lines[at] ?? [], this.#attributes)) row.dirty = true
    }
    this.#screen.draw(0, rows.length - 1)
    return true
  }

  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    process.removeListener('uncaughtException', this.#restore)
    for (const signal of signals) process.removeListener(signal, this.#restore)
    this.#screen.destroy()
    process.stdin.pause()
  }
}

function attributesOf(isColourless: boolean, colours: number): Record<Style, number> {
  const of = ({ colour, flags }: Look): number => {
    // The darkest grey is black where there are eight.
    if (colour === undefined || isColourless || (colours <= 8 && colour >= 8)) {
      return flags | ownColours
    }
    return flags | (colour << 9) | 0x1ff
  }
  const entries = Object.entries(looks).map(([style, look]) => [style, of(look)])
  return Object.fromEntries(entries)
}

/** Returns whether anything of the row has changed. */
function fill(row: Row, line: Line, attributes: Readonly<Record<Style, number>>): boolean {
  let column = 0
  let isChanged = false
  const put = (attribute: number, character: string) => {
    const cell = row[column]
    if (cell === undefined) return
    column += 1
    if (cell[0] === attribute && cell[1] === character) return
    cell[0] = attribute
    cell[1] = character
    isChanged = true
  }
  for (const { text, style } of line) {
    for (const character of printable(text)) {
      put(attributes[style], character)
      if (columnsOf(character) === 2) put(attributes[style], ' ')
    }
  }
  while (column < row.length) put(attributes.plain, ' ')
  return isChanged
}

function keyOf(text: string | undefined, key: PressedKey): Key {
  return { name: key.full ?? text ?? '', text: text ?? '' }
}
