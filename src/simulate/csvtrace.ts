// Reads a routing trace as lines of commas: comments that begin with #, of which one tells n_expert,
// then turn, phase (0 prompt, 1 decode), step, layer, slot (rank), expert, and more that is not read.
// What may surprise: the lines of a prompt stand layer after layer, and the last layer often has only
// those of the prompt's last token. So a prompt is walked layer after layer, token by token.
import { closeSync, openSync, readSync } from 'node:fs'
import { StringDecoder } from 'node:string_decoder'
import { ModelError, shown } from '../model/error.js'
import { nobody, type RoutedSequence, type Routing } from './routing.js'

const titles = ['turn', 'phase', 'step', 'layer', 'slot', 'expert'] as const
const fields = titles.length
/** Larger numbers are no step, layer or expert of any model. */
const numberMost = 2 ** 24
const layersMost = 1024
const expertsMost = 65_535
const topKMost = 1024
/** Places for one line. A few layers may lack lines; a file that lacks most would fill memory. */
const emptyMost = 64
const pieceBytes = 2 ** 20
const lineMost = 2 ** 16

/** Throws ModelError with one sentence when the file is no such trace. */
export function readCsvTrace(path: string, name: string): Routing {
  const lines = new TraceLines(name)
  const file = openSync(path, 'r')
  try {
    eachLine(file, name, (line) => lines.add(line))
  } finally {
    closeSync(file)
  }
  return lines.routing()
}

/** What one line says. */
interface Row {
  readonly turn: number
  readonly phase: number
  readonly step: number
  readonly layer: number
  readonly rank: number
  readonly expert: number
}

class TraceLines {
  /** [row][fields] */
  #rows = new Int32Array(fields * 4096)
  #count = 0
  #line = 0
  #hasTitles = false
  #model = ''
  #experts = 0

  constructor(private readonly name: string) {}

  add(line: string): void {
    this.#line += 1
    if (line === '') return
    if (line.startsWith('#')) this.#comment(line)
    else if (this.#hasTitles) this.#row(line)
    else this.#titles(line)
  }

  /** All lines are there. */
  routing(): Routing {
    if (this.#experts === 0) throw this.#error('expected a comment with n_expert, found none')
    if (this.#count === 0) throw this.#error('expected lines of routing, found none')
    const layers = this.#numbers(({ layer }) => layer)
    const topK = Math.max(...this.#numbers(({ rank }) => rank)) + 1
    if (layers.length > layersMost || topK > topKMost) {
      throw this.#error(`expected at most ${layersMost} layers and ${topKMost} experts a token`)
    }
    const { sequences, tokenOf } = this.#tokens()
    const experts = this.#experts
    const ids = this.#ids(layers, topK, tokenOf)
    const [name, model] = [this.name, this.#model]
    return {
      name,
      model,
      layers,
      experts,
      topK,
      sequences,
      isPromptJoint: false,
      ids,
      scores: null,
    }
  }

  #comment(line: string): void {
    this.#model = /\bmodel=(\S+)/.exec(line)?.[1] ?? this.#model
    const experts = Number(/\bn_expert=(\d{1,8})\b/.exec(line)?.[1] ?? this.#experts)
    if (experts > expertsMost) throw this.#error(`expected at most ${expertsMost} experts`)
    this.#experts = experts
  }

  #titles(line: string): void {
    const found = line.split(',', fields)
    if (titles.some((title, at) => found[at] !== title)) {
      throw this.#error(`line ${this.#line}: expected ${titles.join(',')}, found ${shown(line)}`)
    }
    this.#hasTitles = true
  }

  #row(line: string): void {
    const words = line.split(',', fields)
    const start = this.#count * fields
    if (start === this.#rows.length) this.#grow()
    for (let at = 0; at < fields; at += 1) {
      const word = words[at] ?? ''
      const value = /^\d{1,8}$/.test(word) ? Number(word) : numberMost
      if (value >= numberMost || (titles[at] === 'phase' && value > 1)) {
        throw this.#error(`line ${this.#line}: expected a ${titles[at]}, found ${shown(word)}`)
      }
      this.#rows[start + at] = value
    }
    this.#count += 1
    const { expert } = this.#at(this.#count - 1)
    if (expert >= this.#experts) {
      throw this.#error(`line ${this.#line}: names expert ${expert} of ${this.#experts}`)
    }
  }

  #grow(): void {
    const larger = new Int32Array(2 * this.#rows.length)
    larger.set(this.#rows)
    this.#rows = larger
  }

  #at(row: number): Row {
    const [turn = 0, phase = 0, step = 0, layer = 0, rank = 0, expert = 0] = this.#rows.subarray(
      row * fields,
      (row + 1) * fields,
    )
    return { turn, phase, step, layer, rank, expert }
  }

  /** The different values of the rows, rising. */
  #numbers(numberOf: (row: Row) => number): number[] {
    const found = new Set<number>()
    for (let row = 0; row < this.#count; row += 1) found.add(numberOf(this.#at(row)))
    return [...found].sort((a, b) => a - b)
  }

  /** Every turn is a sequence: the steps of its prompt, then those of its decode. */
  #tokens(): { sequences: RoutedSequence[]; tokenOf: ReadonlyMap<number, number> } {
    const keys = this.#numbers(keyOf)
    const tokenOf = new Map(keys.map((key, token) => [key, token]))
    const sequences: { first: number; tokens: number; prompt: number }[] = []
    let turn = -1
    for (const [token, key] of keys.entries()) {
      if (turnOf(key) !== turn) sequences.push({ first: token, tokens: 0, prompt: 0 })
      turn = turnOf(key)
      const sequence = sequences.at(-1)
      if (sequence === undefined) continue
      sequence.tokens += 1
      if (isPromptOf(key)) sequence.prompt += 1
    }
    return { sequences, tokenOf }
  }

  #ids(layers: number[], topK: number, tokenOf: ReadonlyMap<number, number>): Uint16Array {
    const layerOf = new Map(layers.map((layer, moeLayer) => [layer, moeLayer]))
    const size = tokenOf.size * layers.length * topK
    if (size > this.#count * emptyMost)
      throw this.#error('expected a line for most ranks of a layer')
    const ids = new Uint16Array(new SharedArrayBuffer(2 * size)).fill(nobody)
    for (let at = 0; at < this.#count; at += 1) {
      const row = this.#at(at)
      const token = tokenOf.get(keyOf(row)) ?? 0
      const moeLayer = layerOf.get(row.layer) ?? 0
      ids[(token * layers.length + moeLayer) * topK + row.rank] = row.expert
    }
    return ids
  }

  #error(what: string): ModelError {
    return new ModelError(`${this.name}: ${what}`)
  }
}

// Turn, phase and step in one number that sorts as they do: the last two take 25 bits.
function keyOf({ turn, phase, step }: Row): number {
  return (2 * turn + phase) * numberMost + step
}

function turnOf(key: number): number {
  return Math.floor(key / (2 * numberMost))
}

function isPromptOf(key: number): boolean {
  return Math.floor(key / numberMost) % 2 === 0
}

function eachLine(file: number, name: string, use: (line: string) => void): void {
  const decoder = new StringDecoder('utf8')
  const piece = Buffer.alloc(pieceBytes)
  let rest = ''
  for (let read = readSync(file, piece); read > 0; read = readSync(file, piece)) {
    const lines = (rest + decoder.write(piece.subarray(0, read))).split(/\r?\n/)
    rest = lines.pop() ?? ''
    if (rest.length > lineMost)
      throw new ModelError(`${name}: expected lines, found none that ends`)
    for (const line of lines) use(line)
  }
  use(rest)
}
