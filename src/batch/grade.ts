// Whether an answer is right: the field `grade` of a line says what the final answer, without the
// thinking, must be. And what many verdicts amount to: pass@k. No command is run here.
import { isRecord } from '../model/json.js'

export type Grade = { readonly exact: string } | { readonly number: number }

/** The grade that a line asks for, or what is wrong with it. */
export function gradeOf(value: unknown): Grade | string {
  const said = 'grade must be {"exact": text} or {"number": number}'
  if (!isRecord(value) || Object.keys(value).length !== 1) return said
  const { exact, number } = value
  if (typeof exact === 'string') return { exact }
  if (typeof number === 'number') return { number }
  return said
}

/** Exact: the same text but for white space around it. Number: the last number that the answer names. */
export function isRight(grade: Grade, answer: string): boolean {
  if ('exact' in grade) return answer.trim() === grade.exact.trim()
  const last = lastNumberOf(answer)
  if (last === null) return false
  // Digits are written out by a model: what differs in the last bit is the same number.
  return Math.abs(last - grade.number) <= 1e-9 * Math.max(1, Math.abs(grade.number))
}

/** Commas between thousands are no part of a number: 1,234.5 is 1234.5. */
function lastNumberOf(text: string): number | null {
  const found = text.match(/[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?/g)
  const last = found?.at(-1)
  return last === undefined ? null : Number(last.replaceAll(',', ''))
}

/**
 * The chance that one of `k` answers is right, drawn without putting back from `answers` of which
 * `right` are (Chen et al. 2021, arXiv 2107.03374 §2.1). 1 <= k <= answers.
 */
export function passAtK(answers: number, right: number, k: number): number {
  if (answers - right < k) return 1
  let allWrong = 1
  for (let count = answers - right + 1; count <= answers; count += 1) allWrong *= 1 - k / count
  return 1 - allWrong
}
