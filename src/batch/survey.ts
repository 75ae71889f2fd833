// A look at the whole input before the first token: every line that cannot be answered, by number and
// with its reason, and what the others may need, which is what memory is divided by, and what they are about.
import { Refusal } from '../serve/refusal.js'
import { type Sketch, sketchOf } from './likeness.js'
import { type BadLine, type BatchLine, type Input, isBad, parseLine } from './line.js'
import type { Questions } from './question.js'

/** What is known of a line that can be answered before it begins. */
export interface Outlook {
  /** Most tokens that an answer to it may have. */
  readonly mayDraw: number
  /** Of its prompt. */
  readonly sketch: Sketch
}

export interface Survey {
  readonly lines: number
  readonly bad: number
  /** Tokens that each answer may have with its prompt, the most first. */
  readonly needs: readonly number[]
  /** By the line's number; lines that cannot be answered have none. */
  readonly outlooks: ReadonlyMap<number, Outlook>
  /** Programs that lines name as graders, each with the number of its first line. */
  readonly programs: ReadonlyMap<string, number>
}

/** Prompts that are read at once; threads read them, and each shall have its next one at hand. */
const ASKED_MAX = 16

/** What a line that can be answered may need. */
interface Needed extends Outlook {
  /** Tokens of every answer with its prompt. */
  readonly positions: readonly number[]
}

/** `onBad` is told of every bad line; `isWanted` ends the look early. */
export async function survey(
  input: Input,
  questions: Questions,
  onBad: (number: number, reason: string) => void,
  isWanted: () => boolean,
): Promise<Survey> {
  const seen = new Set<string>()
  const needs: number[] = []
  const outlooks = new Map<number, Outlook>()
  const programs = new Map<string, number>()
  let [lines, bad] = [0, 0]
  const asked: { readonly number: number; readonly found: Promise<Needed | string> }[] = []
  const takeFirst = async () => {
    const first = asked.shift()
    const found = await first?.found
    if (first === undefined || found === undefined) return
    lines += 1
    if (typeof found === 'string') {
      bad += 1
      onBad(first.number, found)
    } else {
      const { positions, mayDraw, sketch } = found
      needs.push(...positions)
      outlooks.set(first.number, { mayDraw, sketch })
    }
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
  return { lines, bad, needs: needs.sort((one, other) => other - one), outlooks, programs }
}

function programOf(line: BatchLine | BadLine): string | null {
  if (isBad(line) || line.grade === null || !('command' in line.grade)) return null
  return line.grade.command[0]
}

/** Or why there can be no answer. */
async function needsOf(line: BatchLine | BadLine, questions: Questions): Promise<Needed | string> {
  if (isBad(line)) return line.message
  try {
    const { choices } = await questions.ask(line)
    return {
      positions: choices.map(({ request }) => request.prompt.length + request.maxTokens),
      mayDraw: Math.max(...choices.map(({ request }) => request.maxTokens)),
      sketch: sketchOf(choices[0]?.request.prompt ?? []),
    }
  } catch (error) {
    if (error instanceof Refusal) return error.message
    throw error
  }
}
