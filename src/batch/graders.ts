// Verdicts on answers: by their text, or by the program that the line names, a few at once beside the engine.
// That a program may be run at all, and under which limits, is settled when this is opened.
import os from 'node:os'
import { ModelError } from '../model/error.js'
import { type Limits, runProgram } from './confined.js'
import { type Grade, isRight, type Verdict } from './grade.js'

/** For looking whether a program is there. */
const lookLimits: Limits = { seconds: 10, memoryBytes: 2 ** 28, fileBytes: 2 ** 16 }
const look = ['sh', '-c', 'command -v "$0" > /dev/null || exit 3']

export class Graders {
  /** Programs at once: the engine has the processor before them. */
  #free = Math.max(2, os.availableParallelism() >> 1)
  readonly #waiting: (() => void)[] = []

  private constructor(private readonly isConfined: boolean) {}

  /**
   * `programs`: what lines name, each with the number of its first line. Throws ModelError where one is not
   * there, or where the system does not keep the limits and they are asked for.
   */
  static async open(programs: ReadonlyMap<string, number>, isConfined: boolean): Promise<Graders> {
    const never = new AbortController().signal
    for (const [program, line] of programs) {
      const run = await runProgram([...look, program], '', lookLimits, isConfined, never)
      const { ended, said } = run
      if (ended === 'status 0') continue
      if (ended === 'refused' && isConfined) {
        const why = said.trim() === '' ? '' : ` (${said.trim()})`
        throw new ModelError(
          `this system does not keep graders from network and files${why}; --grade-unconfined does without`,
        )
      }
      const who = isConfined && process.getuid?.() === 0 ? ' by nobody, as whom root runs it' : ''
      throw new ModelError(`line ${line}: grade: ${JSON.stringify(program)} cannot be run${who}`)
    }
    return new Graders(isConfined)
  }

  /** Null: the signal was raised before there was a verdict. */
  async verdict(grade: Grade, answer: string, signal: AbortSignal): Promise<Verdict | null> {
    if (!('command' in grade)) return { isRight: isRight(grade, answer), reason: null }
    await this.#turn()
    try {
      if (signal.aborted) return null
      const { ended } = await runProgram(grade.command, answer, grade, this.isConfined, signal)
      return ended === 'stopped' ? null : { isRight: ended === 'status 0', reason: ended }
    } finally {
      this.#free += 1
      this.#waiting.shift()?.()
    }
  }

  async #turn(): Promise<void> {
    while (this.#free === 0) await new Promise<void>((resolve) => this.#waiting.push(resolve))
    this.#free -= 1
  }
}
