// The prompts of a batch's lines by custom_id: an answer of another engine names only the id of its line, so
// what was asked is rendered anew by the checkpoint's own template, as `batch` does it.
import { type BatchLine, isBad, parseLine } from '../batch/line.js'
import { type Question, Questions } from '../batch/question.js'
import { GrammarThreads } from '../engine/grammarthreads.js'
import type { EngineFacts } from '../engine/protocol.js'
import { shown } from '../model/error.js'
import { thinkingTagsOf } from '../model/thinkingtags.js'
import { GrammarTrials } from '../serve/grammars.js'
import { Prompts } from '../serve/prompts.js'
import { Refusal } from '../serve/refusal.js'
import { openText } from './conversation.js'
import { LineFile } from './jsonl.js'
import type { AskedPrompts } from './samples.js'

export class Asked implements AskedPrompts {
  readonly #lines = new Map<string, BatchLine>()
  /** Of the line that was last asked for: its answers come one after the other. */
  #last: { readonly id: string; readonly question: Question | string } | null = null

  private constructor(
    private readonly prompts: Prompts,
    private readonly grammars: GrammarTrials,
    private readonly questions: Questions,
  ) {}

  /** Lines that are bad were not asked. Throws a Failure for a file that cannot be read. */
  static async open(path: string, folder: string, facts: EngineFacts): Promise<Asked> {
    const tags = thinkingTagsOf(await openText(folder))
    const prompts = new Prompts(folder, 1)
    const grammars = new GrammarTrials(new GrammarThreads(folder))
    const means = { prompts, grammars, thinking: { tags, budget: null } }
    // The least of an answer, since only the prompt is wanted.
    const asked = new Asked(prompts, grammars, new Questions(means, facts, '', 1))
    try {
      await asked.#read(path)
      return asked
    } catch (error) {
      await asked.close()
      throw error
    }
  }

  async prompt(id: string, choice: number): Promise<Int32Array | string> {
    if (this.#last?.id !== id) this.#last = { id, question: await this.#question(id) }
    const { question } = this.#last
    if (typeof question === 'string') return question
    return question.choices[choice]?.request.prompt ?? `${shown(id)} asks for fewer answers`
  }

  async close(): Promise<void> {
    await this.prompts.close()
    await this.grammars.close()
  }

  async #read(path: string): Promise<void> {
    const file = await LineFile.open(path)
    try {
      const seen = new Set<string>()
      for await (const { number, text } of file.lines()) {
        const line = parseLine(number, text, seen)
        if (!isBad(line)) this.#lines.set(line.customId, line)
      }
    } finally {
      await file.close()
    }
  }

  async #question(id: string): Promise<Question | string> {
    const line = this.#lines.get(id)
    if (line === undefined) return `no line that was asked has the custom_id ${shown(id)}`
    try {
      return await this.questions.ask(line)
    } catch (error) {
      if (error instanceof Refusal) return error.message
      throw error
    }
  }
}
