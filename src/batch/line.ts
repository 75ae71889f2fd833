// One line of a batch file: what OpenAI's and vLLM's tools write, checked as far as it can be without a
// model. The body is looked at elsewhere. A line that is wrong gets a code and one sentence; it never
// stops another line.
import { isRecord } from '../model/json.js'
import { type Grade, gradeOf } from './grade.js'

export const batchUrls = ['/v1/chat/completions', '/v1/completions'] as const
export type BatchUrl = (typeof batchUrls)[number]

/** What is to be answered: its lines that are not blank, from the first, each time that they are asked for. */
export interface Input {
  lines(): AsyncIterable<{
    /** From 1, blank lines counted. */
    readonly number: number
    /** Null: the bytes are no UTF-8. */
    readonly text: string | null
  }>
}

export interface BatchLine {
  /** From 1, blank lines counted. */
  readonly number: number
  readonly customId: string
  readonly url: BatchUrl
  readonly body: Readonly<Record<string, unknown>>
  readonly grade: Grade | null
}

/** A line that asks for nothing that could be done. */
export interface BadLine {
  readonly number: number
  readonly customId: string | null
  readonly code: string
  readonly message: string
}

const ID_CHARS_MAX = 512

/** `seen`: the ids of the lines before this one; this one's is added. */
export function parseLine(
  number: number,
  text: string | null,
  seen: Set<string>,
): BatchLine | BadLine {
  const bad = (code: string, message: string, customId: string | null = null): BadLine => ({
    ...{ number, customId, code, message },
  })
  const value = text === null ? undefined : parsed(text)
  if (text === null) return bad('invalid_json', 'the line is no UTF-8')
  if (value === undefined) return bad('invalid_json', 'the line is no JSON')
  if (!isRecord(value)) return bad('invalid_json', 'the line must be a JSON object')
  const { custom_id: id, method, url, body, grade } = value
  if (typeof id !== 'string' || id === '' || id.length > ID_CHARS_MAX) {
    return bad('invalid_custom_id', `custom_id must be a text of 1 to ${ID_CHARS_MAX} characters`)
  }
  if (seen.has(id)) return bad('duplicate_custom_id', 'an earlier line has the same custom_id', id)
  seen.add(id)
  if (method !== 'POST') return bad('invalid_method', 'method must be POST', id)
  const known = batchUrls.find((one) => one === url)
  if (known === undefined) return bad('invalid_url', `url must be ${batchUrls.join(' or ')}`, id)
  if (!isRecord(body)) return bad('invalid_body', 'body must be a JSON object', id)
  const wanted = grade === undefined || grade === null ? null : gradeOf(grade)
  if (typeof wanted === 'string') return bad('invalid_grade', wanted, id)
  return { number, customId: id, url: known, body, grade: wanted }
}

export function isBad(line: BatchLine | BadLine): line is BadLine {
  return 'code' in line
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
