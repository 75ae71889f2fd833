// The lines of a job's output, as OpenAI's batches have them: an answer, a refusal of the body with the
// status that a server would give, or an error of the line itself.
import type { Told } from '../serve/form.js'
import type { Refusal } from '../serve/refusal.js'
import type { Verdict } from './grade.js'
import type { BadLine, BatchLine } from './line.js'

/** A line of the output, and what the journal keeps of it. */
export interface Result {
  readonly line: number
  /** Without its line feed. */
  readonly text: string
  readonly isAnswered: boolean
  readonly promptTokens: number
  readonly completionTokens: number
  readonly answers: number
  readonly right: number | null
}

const nothing = {
  ...{ isAnswered: false, promptTokens: 0, completionTokens: 0, answers: 0, right: null },
}

export function badResult(id: string, { number, customId, code, message }: BadLine): Result {
  const text = outputLine(id, customId, { response: null, error: { code, message } })
  return { ...nothing, line: number, text }
}

export function refusedResult(id: string, line: BatchLine, refusal: Refusal): Result {
  const { status, body } = refusal
  return { ...nothing, line: line.number, text: responded(id, line, status, body) }
}

export interface Answered {
  readonly told: readonly Told[]
  /** One for each; null: the line asks for none. */
  readonly verdicts: readonly Verdict[] | null
  readonly body: object
  readonly promptTokens: number
  readonly completionTokens: number
}

/** `model`: who answers, which need not be whom the line asks. */
export function answeredResult(id: string, line: BatchLine, model: string, all: Answered): Result {
  const { told, verdicts, body, promptTokens, completionTokens } = all
  const asked = line.body.model
  const extra = {
    ...(typeof asked === 'string' && asked !== model ? { requested_model: asked } : {}),
    ...(verdicts === null ? {} : { grade: gradeObject(verdicts) }),
  }
  return {
    line: line.number,
    text: responded(id, line, 200, body, extra),
    isAnswered: true,
    ...{ promptTokens, completionTokens },
    answers: told.length,
    right: verdicts === null ? null : verdicts.filter(({ isRight }) => isRight).length,
  }
}

/** How programs ended stands beside what they found. */
function gradeObject(verdicts: readonly Verdict[]): object {
  const reasons = verdicts.flatMap(({ reason }) => (reason === null ? [] : [reason]))
  const right = verdicts.map(({ isRight }) => isRight)
  return { right, ...(reasons.length === 0 ? {} : { reason: reasons }) }
}

function responded(
  id: string,
  line: BatchLine,
  status: number,
  body: object,
  extra: object = {},
): string {
  const response = { status_code: status, request_id: `req_${id}`, body }
  return outputLine(id, line.customId, { response, error: null, ...extra })
}

function outputLine(id: string, customId: string | null, rest: object): string {
  return JSON.stringify({ id: `batch_req_${id}`, custom_id: customId, ...rest })
}
