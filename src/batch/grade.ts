// Whether an answer is right: the field `grade` of a line says what the final answer, without the
// thinking, must be, or which program judges it. And what many verdicts amount to: pass@k. No program is
// run here; that is graders.ts.
import { isRecord } from '../model/json.js'
import type { Limits } from './confined.js'

export type TextGrade = { readonly exact: string } | { readonly number: number }

/** A program that has the answer on its standard input and ends with status 0 where it is right. */
export interface CommandGrade extends Limits {
  readonly command: readonly [program: string, ...words: string[]]
}

export type Grade = TextGrade | CommandGrade

export interface Verdict {
  readonly isRight: boolean
  /** How the program ended; null: there was none. */
  readonly reason: string | null
}

const usualLimits: Limits = { seconds: 10, memoryBytes: 2 ** 30, fileBytes: 2 ** 26 }
/** Least and most of each. */
const bounds = { seconds: [0.1, 3600], memory: [2 ** 24, 2 ** 42], files: [4096, 2 ** 36] } as const

/** The grade that a line asks for, or what is wrong with it. */
export function gradeOf(value: unknown): Grade | string {
  const said = 'grade must be {"exact": text}, {"number": number} or {"command": [program, ...]}'
  if (!isRecord(value)) return said
  if (value.command !== undefined) return commandOf(value)
  if (Object.keys(value).length !== 1) return said
  const { exact, number } = value
  if (typeof exact === 'string') return { exact }
  if (typeof number === 'number') return { number }
  return said
}

function commandOf({
  command,
  seconds = usualLimits.seconds,
  memory = usualLimits.memoryBytes,
  files = usualLimits.fileBytes,
  ...others
}: Readonly<Record<string, unknown>>): CommandGrade | string {
  const [other] = Object.keys(others)
  if (other !== undefined) {
    return `grade has ${other}: beside command there may be seconds, memory and files`
  }
  const isWord = (word: unknown) => typeof word === 'string' && !word.includes('\0')
  if (!Array.isArray(command) || command[0] === '' || !command.every(isWord)) {
    return 'grade.command must be a list of texts, the program first'
  }
  const [program, ...words]: string[] = command
  if (program === undefined) return 'grade.command must name a program'
  for (const [name, number] of Object.entries({ seconds, memory, files })) {
    const [least, most] = bounds[name as keyof typeof bounds]
    if (typeof number !== 'number' || !(number >= least && number <= most)) {
      return `grade.${name} must be a number from ${least} to ${most}`
    }
  }
  return {
    command: [program, ...words],
    ...{ seconds: Number(seconds), memoryBytes: Number(memory), fileBytes: Number(files) },
  }
}

/** Exact: the same text but for white space around it. Number: the last number that the answer names. */
export function isRight(grade: TextGrade, answer: string): boolean {
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
