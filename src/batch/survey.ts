// A look at the whole input before the first token: every line that cannot be answered, by number and
// with its reason, and how many tokens the others may need, which is what memory is divided by.
import type { LineFile } from '../cli/jsonl.js'
import { Refusal } from '../serve/refusal.js'
import { type BadLine, type BatchLine, isBad, parseLine } from './line.js'
import type { Questions } from './question.js'

export interface Survey {
  readonly lines: number
  readonly bad: number
  /** Tokens that each answer may have with its prompt, the most first. */
  readonly needs: readonly number[]
  /** Programs that lines name as graders, each with the number of its first line. */
  readonly programs: ReadonlyMap<string, number>
}

/** Prompts that are read at once; threads read them, and each shall have its next one at hand. */
const ASKED_MAX = 16

/** `onBad` is told of every bad line; `isWanted` ends the look early. */
export async function survey(
  input: LineFile,
  questions: Questions,
  onBad: (number: number, reason: string) => void,
  isWanted: () => boolean,
): Promise<Survey> {
  const seen = new Set<string>()
  const needs: number[] = []
  const programs = new Map<string, number>()
  let [lines, bad] = [0, 0]
  const asked: { readonly number: number; readonly found: Promise<number[] | string> }[] = []
  const takeFirst = async () => {
    const first = asked.shift()
    const found = await first?.found
    if (first === undefined || found === undefined) return
    lines += 1
    if (typeof found !== 'string') return void needs.push(...found)
    bad += 1
    onBad(first.number, found)
  }
  for await (const { number, text } of input.lines()) {
    if (!isWanted()) break
    const line = parseLine(number, text, seen)
    const program = programOf(line)
    if (program !== null && !programs.has(program)) programs.set(program, number)
    asked.push({ number, found: needsOf(line, questions) })
    if (asked.length >= ASKED_MAX) await takeFirst()
  }
  while (asked.length > 0) await takeFirst()
  return { lines, bad, needs: needs.sort((one, other) => other - one), programs }
}

function programOf(line: BatchLine | BadLine): string | null {
  if (isBad(line) || line.grade === null || !('command' in line.grade)) return null
  return line.grade.command[0]
}

/** Tokens that each answer may have with its prompt, or why there can be none. */
async function needsOf(
  line: BatchLine | BadLine,
  questions: Questions,
): Promise<number[] | string> {
  if (isBad(line)) return line.message
  try {
    const { choices } = await questions.ask(line)
    return choices.map(({ request }) => request.prompt.length + request.maxTokens)
  } catch (error) {
    if (error instanceof Refusal) return error.message
    throw error
  }
}
