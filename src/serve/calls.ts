// Finds tool calls in an answer while it streams: `<tool_call>`, JSON with name and arguments,
// `</tool_call>`, as Ring and Ling write them. A call is given when it is complete and right; until then
// it is held back, since one that turns out to be wrong is given as the text it was. Knows no tokens
// and no wire format. How the text is cut into parts does not change what comes out.
import { isRecord } from '../model/json.js'

export const CALL_OPEN = '<tool_call>'
export const CALL_CLOSE = '</tool_call>'

/** A tool as the model wants it called. */
export interface Call {
  readonly name: string
  /** The JSON text of an object, as the model wrote it. */
  readonly arguments: string
}

/** What must be known to find calls. */
export interface CallReading {
  /** Names that may be called; a call of another one is text. */
  readonly names: readonly string[]
  /** What of the first call the prompt says already. */
  readonly begun: string
  /** What of it follows by itself where the answer ends with a token that ends it. */
  readonly ended: string
  /** Whether the answer ends with its first call. */
  readonly isSingle: boolean
}

/** A piece of the answer; `after`: how many characters taken in so far come after it. */
export type AnswerPart =
  | { readonly kind: 'text'; readonly text: string; readonly after: number }
  | { readonly kind: 'call'; readonly call: Call; readonly after: number }

/**
 * The rules, exactly: white space before and after a call that is right is dropped; the tag that ends a
 * call does not count inside a JSON string; a call that never ends is text.
 */
export class CallFinder {
  readonly #reading: CallReading
  #held: string
  /** Up to here, no closing tag is in what is held. */
  #searched = 0
  #followsCall = false
  #calls = 0
  #parts: AnswerPart[] = []

  constructor(reading: CallReading) {
    this.#reading = reading
    this.#held = reading.begun
  }

  get calls(): number {
    return this.#calls
  }

  /** Whether the rest is not wanted. */
  get isDone(): boolean {
    return this.#reading.isSingle && this.#calls > 0
  }

  /** Takes the next part and returns what is certain by now. */
  push(text: string): AnswerPart[] {
    this.#held += text
    while (!this.isDone && this.#advance()) {}
    return this.#taken()
  }

  /** The answer is complete: returns what was held back. */
  end(): AnswerPart[] {
    const rest = this.#held
    if (!this.isDone && !(this.#followsCall && rest.trim() === '')) this.#giveText(rest.length)
    return this.#taken()
  }

  /** Gives what is certain at the beginning of what is held; returns whether more may be. */
  #advance(): boolean {
    const open = this.#held.indexOf(CALL_OPEN)
    if (open < 0) {
      this.#giveText(lengthWithoutBegunCall(this.#held))
      return false
    }
    // White space before the tag belongs to the call, until that turns out not to be one.
    const textEnd = this.#held.slice(0, open).trimEnd().length
    if (textEnd > 0) {
      this.#giveText(textEnd)
      return true
    }
    return this.#closeCall(open + CALL_OPEN.length)
  }

  #closeCall(bodyBegin: number): boolean {
    const from = Math.max(bodyBegin, this.#searched)
    const close = this.#held.indexOf(CALL_CLOSE, from)
    if (close < 0) {
      this.#searched = Math.max(bodyBegin, this.#held.length - CALL_CLOSE.length + 1)
      return false
    }
    const end = close + CALL_CLOSE.length
    const body = this.#held.slice(bodyBegin, close)
    if (endsInString(body)) {
      this.#searched = end
      return true
    }
    const call = callIn(body, this.#reading.names)
    if (call === null) {
      this.#giveText(end)
      return true
    }
    this.#drop(end)
    this.#calls += 1
    this.#followsCall = true
    this.#parts.push({ kind: 'call', call, after: this.#held.length })
    return true
  }

  /** Gives so many characters from the beginning of what is held. */
  #giveText(length: number): void {
    const text = this.#held.slice(0, length)
    if (text === '') return
    this.#drop(length)
    const given = this.#followsCall ? text.trimStart() : text
    if (given === '') return
    this.#followsCall = false
    this.#parts.push({ kind: 'text', text: given, after: this.#held.length })
  }

  #drop(length: number): void {
    this.#held = this.#held.slice(length)
    this.#searched = 0
  }

  #taken(): AnswerPart[] {
    const parts = this.#parts
    this.#parts = []
    return parts
  }
}

/** Without white space and the first half of a tag at the end: a call may be coming. */
function lengthWithoutBegunCall(text: string): number {
  let length = Math.min(CALL_OPEN.length - 1, text.length)
  while (length > 0 && !text.endsWith(CALL_OPEN.slice(0, length))) length -= 1
  return text.slice(0, text.length - length).trimEnd().length
}

/** Whether JSON that begins so is within a string where it ends. */
function endsInString(json: string): boolean {
  let isInside = false
  for (let at = 0; at < json.length; at += 1) {
    if (json[at] === '"') isInside = !isInside
    else if (json[at] === '\\' && isInside) at += 1
  }
  return isInside
}

/** The call in the text between the tags; null where there is none that a client could follow. */
function callIn(body: string, names: readonly string[]): Call | null {
  const value = parsedOrNull(body)
  if (!isRecord(value) || typeof value.name !== 'string' || !names.includes(value.name)) return null
  const { name, arguments: given = {} } = value
  if (isRecord(given)) return { name, arguments: memberText(body, 'arguments') ?? '{}' }
  // Some models write the object as text.
  if (typeof given === 'string' && isRecord(parsedOrNull(given))) return { name, arguments: given }
  return null
}

/** What a text says as JSON; null where it is none. */
export function parsedOrNull(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return null
  }
}

/** A member of a JSON object as it was written, so that numbers keep all their digits. */
function memberText(json: string, wanted: string): string | null {
  let depth = 0
  let key = ''
  let begin = 0
  let found: string | null = null
  // Strings, and what nests and parts; the text is known to be JSON.
  for (const { 0: mark, index } of json.matchAll(/"[^"\\]*(?:\\.[^"\\]*)*"|[{}[\],:]/g)) {
    if (depth === 1 && mark === ':') begin = index + 1
    if (depth === 1 && (mark === ',' || mark === '}') && key === wanted) {
      found = json.slice(begin, index).trim()
    }
    if (depth === 1 && mark.startsWith('"') && begin <= 0) key = String(JSON.parse(mark))
    if (depth === 1 && mark === ',') {
      begin = 0
      key = ''
    }
    if (mark === '{' || mark === '[') depth += 1
    if (mark === '}' || mark === ']') depth -= 1
  }
  return found
}
