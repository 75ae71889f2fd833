// A job at work: lines become questions, questions sequences of the engine, as many at once as it takes,
// and what is drawn goes into the journal now and then and into the output when a line is whole. It can
// be parked at any time. A fault of a line is that line's; what the job itself cannot go on with parks it.
import type { Engine, Generation } from '../engine/engine.js'
import type { Emission, Ending } from '../engine/loop.js'
import type { Tokenizer } from '../model/tokenizer.js'
import { endedOf, usageOf } from '../serve/deliver.js'
import type { Choice } from '../serve/draw.js'
import { type Identity, joined, type Told } from '../serve/form.js'
import { AnswerReader, type Delta } from '../serve/reader.js'
import { barred, Refusal } from '../serve/refusal.js'
import type { Grade, Verdict } from './grade.js'
import type { Graders } from './graders.js'
import { answerKey, type Journal } from './journal.js'
import { blankSketch, Company } from './likeness.js'
import { type BadLine, type BatchLine, type Input, isBad, parseLine } from './line.js'
import { nextOf, type WaitingLine, waitingMost } from './order.js'
import type { Question, Questions } from './question.js'
import { tokensOf } from './records.js'
import { answeredResult, badResult, type Result, refusedResult } from './result.js'
import type { Results } from './results.js'
import type { Outlook } from './survey.js'

/** What was drawn may be lost for so long, or for so many tokens of one answer. */
export interface Interval {
  readonly seconds: number
  readonly tokens: number
}

export interface JobParts {
  readonly input: Input
  readonly engine: Engine
  readonly tokenizer: Tokenizer
  readonly questions: Questions
  readonly graders: Graders
  readonly identity: Identity
  readonly journal: Journal
  readonly results: Results
  /** Lines that are in the output already. */
  readonly isDone: (line: number) => boolean
  /** Tokens of answers that an earlier run has drawn. */
  readonly drawn: ReadonlyMap<string, readonly Emission[]>
  /** What programs have said of answers. */
  readonly verdicts: ReadonlyMap<string, Verdict>
  /** Answers that are not in the output. */
  readonly answers: number
  readonly outlooks: ReadonlyMap<number, Outlook>
  /** Lines that wait at most, for those like what is in work to begin first. */
  readonly window: number
  /** Answers that share a step, at most. */
  readonly places: number
  /** Answers asked of the engine at once: those that share a step, and those that wait for a place. */
  readonly inWork: number
  readonly interval: Interval
  readonly listener: JobListener
}

/** Hears how a job goes. */
export interface JobListener {
  onToken(): void
  onEnding(ending: Ending): void
  onResult(result: Result): void
}

/** A line that has not begun. */
interface Waiting extends WaitingLine {
  readonly line: BatchLine | BadLine
}

/** A line that can be answered, and what is asked. */
interface Asked {
  readonly line: BatchLine
  readonly question: Question
}

/** Of a line that cannot be answered. */
const noOutlook: Outlook = { mayDraw: 0, sketch: blankSketch }

/** An answer in work. */
interface Drawing {
  readonly line: number
  readonly answer: number
  readonly hasLogprobs: boolean
  /** Tokens in the journal. */
  kept: number
  /** Tokens since. */
  readonly fresh: Emission[]
}

/** Whoever waits for an answer of a job that is parked. */
class Parked extends Error {}

export class Job {
  readonly #generations = new Set<Generation>()
  readonly #drawings = new Set<Drawing>()
  readonly #tasks = new Set<Promise<void>>()
  #inWork = 0
  readonly #company = new Company()
  #begun = 0
  readonly #parking = new AbortController()
  #toCome: number
  #fault: unknown = null
  #keptMs = performance.now()
  #onRoom: () => void = () => {}

  constructor(private readonly parts: JobParts) {
    this.#toCome = parts.answers
  }

  /** Nothing more is begun, and what is in work ends within a layer's time; nothing is lost. */
  park(): void {
    this.#parking.abort()
    for (const generation of this.#generations) generation.cancel(true)
    this.#onRoom()
  }

  get #isParked(): boolean {
    return this.#parking.signal.aborted
  }

  /** Returns whether all lines are in the output. Throws what the job could not go on with. */
  async run(): Promise<boolean> {
    const { inWork } = this.parts
    // The first begin together: the engine would begin with one of them, and each step is dear.
    let first: Asked[] | null = []
    let answers = 0
    const beginFirst = () => {
      for (const asked of first ?? []) this.#begin(asked)
      first = null
    }
    try {
      for await (const line of this.#lines()) {
        const question = await this.#ask(line)
        if (question === null || isBad(line)) continue
        if (first === null) {
          this.#begin({ line, question })
          continue
        }
        first.push({ line, question })
        answers += question.choices.length
        if (answers >= inWork) beginFirst()
      }
      beginFirst()
    } catch (error) {
      this.#stop(error)
    }
    await Promise.all(this.#tasks)
    if (this.#fault === null) this.#keep()
    if (this.#fault !== null) throw this.#fault
    return !this.#isParked
  }

  /** Every line that is to begin, when it is to. */
  async *#lines(): AsyncGenerator<BatchLine | BadLine> {
    const { input, isDone, results, window, places } = this.parts
    const seen = new Set<string>()
    const waiting: Waiting[] = []
    for await (const { number, text } of input.lines()) {
      const line = parseLine(number, text, seen)
      if (isDone(number)) continue
      results.expect(number)
      waiting.push(this.#waiting(line))
      if (waiting.length <= waitingMost(window, places)) continue
      const next = await this.#next(waiting, false)
      if (next === null) return
      yield next
    }
    while (waiting.length > 0) {
      const next = await this.#next(waiting, true)
      if (next === null) return
      yield next
    }
  }

  #waiting(line: BatchLine | BadLine): Waiting {
    const { number } = line
    const hasTokens = this.parts.drawn.has(answerKey(number, 0))
    return { ...this.#outlookOf(number), number, line, hasTokens, begunBefore: this.#begun }
  }

  #outlookOf(line: number): Outlook {
    return this.parts.outlooks.get(line) ?? noOutlook
  }

  /** The line that begins next, once there is room; null: the job is parked. */
  async #next(waiting: Waiting[], areLast: boolean): Promise<BatchLine | BadLine | null> {
    const { results, inWork, window, places } = this.parts
    while (!this.#isParked) {
      if (this.#inWork < inWork) {
        const { oldest, areTooMany } = results
        const company = this.#company
        const choosing = { company, begun: this.#begun, window, places, areLast }
        const at = nextOf(waiting, { ...choosing, oldest, areTooMany })
        const [next] = at === null ? [] : waiting.splice(at, 1)
        if (next !== undefined) {
          this.#begun += 1
          company.join(next.sketch)
          return next.line
        }
      }
      await this.#room()
    }
    return null
  }

  #idOf(line: number): string {
    return this.parts.questions.lineId(line)
  }

  /** Null: the line cannot be answered, and its result says why. */
  async #ask(line: BatchLine | BadLine): Promise<Question | null> {
    const id = this.#idOf(line.number)
    try {
      if (!isBad(line)) return await this.parts.questions.ask(line)
      this.#add(badResult(id, line))
    } catch (error) {
      if (!(error instanceof Refusal) || isBad(line)) throw error
      this.#add(refusedResult(id, line, error))
    }
    return null
  }

  #begin({ line, question }: Asked): void {
    const task = this.#answer(line, question).catch((error) => this.#stop(error))
    this.#tasks.add(task)
    void task.then(() => this.#tasks.delete(task))
  }

  /** Draws all answers of a line; what it needs of the engine is asked for before anything is awaited. */
  async #answer(line: BatchLine, question: Question): Promise<void> {
    const { questions, identity, tokenizer } = this.parts
    const { choices } = question
    this.#inWork += choices.length
    this.#toCome -= choices.length
    const readers = choices.map(({ reading }) => new AnswerReader(tokenizer, reading))
    try {
      const drawn = choices.map((choice, at) =>
        this.#draw(line.number, choice, question, readers[at]),
      )
      this.parts.engine.expect(this.#toCome)
      const told = await allOf(drawn)
      const verdicts = line.grade === null ? null : await this.#judge(line, line.grade, told)
      const usage = usageOf(choices.flatMap((choice, at) => pairOf(choice, readers[at])))
      const form = questions.formOf(line.number, question, identity, tokenizer)
      const body = form.whole(told, usage)
      const { promptTokens, completionTokens } = usage
      const all = { told, verdicts, body, promptTokens, completionTokens }
      this.#add(answeredResult(this.#idOf(line.number), line, identity.model, all))
    } catch (error) {
      if (!(error instanceof Refusal)) throw error
      this.#add(refusedResult(this.#idOf(line.number), line, error))
    } finally {
      this.#company.leave(this.#outlookOf(line.number).sketch)
      this.#inWork -= choices.length
      this.#onRoom()
    }
  }

  /** What a program has said of an answer is asked once. */
  #judge({ number }: BatchLine, grade: Grade, told: readonly Told[]): Promise<Verdict[]> {
    const { graders, verdicts, journal } = this.parts
    const judge = async ({ index, deltas }: Told) => {
      const known = verdicts.get(answerKey(number, index))
      if (known !== undefined) return known
      const text = joined(deltas, 'text')
      const verdict = await graders.verdict(grade, text, this.#parking.signal)
      if (verdict === null) throw new Parked()
      const { isRight, reason } = verdict
      if (reason !== null) journal.verdict({ line: number, answer: index, isRight, reason })
      return verdict
    }
    return allOf(told.map(judge))
  }

  async #draw(
    line: number,
    { index, request }: Choice,
    { hasLogprobs }: Question,
    reader: AnswerReader | undefined,
  ): Promise<Told> {
    if (reader === undefined) throw new Error('an answer without a reader')
    const before = this.parts.drawn.get(answerKey(line, index)) ?? []
    const deltas: Delta[] = before.flatMap((emission) => reader.push(emission))
    let last = before.at(-1)?.token ?? -1
    let count = before.length
    const isOver = () =>
      reader.isStopped || count >= request.maxTokens || request.stopIds.includes(last)
    if (!isOver()) {
      const drawing: Drawing = { line, answer: index, hasLogprobs, kept: count, fresh: [] }
      const drawnBefore = Int32Array.from(before, ({ token }) => token)
      const generation = this.#generate({ ...request, drawnBefore })
      for await (const emission of this.#drawn(generation, drawing)) {
        deltas.push(...reader.push(emission))
        last = emission.token
        count += 1
        if (isOver()) break
      }
      if (!isOver()) throw new Parked()
    }
    deltas.push(...reader.end())
    const ended = endedOf(!request.stopIds.includes(last) && count >= request.maxTokens, reader)
    return { index, deltas, ended }
  }

  #generate(request: Choice['request']): Generation {
    if (this.#isParked) throw new Parked()
    const generation = this.parts.engine.generate(request)
    this.#generations.add(generation)
    return generation
  }

  /** Every token that is drawn, which the journal is given too; ends early when it is left or parked. */
  async *#drawn(generation: Generation, drawing: Drawing): AsyncGenerator<Emission> {
    const { listener } = this.parts
    this.#drawings.add(drawing)
    try {
      for await (const emission of generation) {
        drawing.fresh.push(emission)
        listener.onToken()
        yield emission
        this.#keepIfDue(drawing.fresh.length)
      }
      const { reason, message, isBarred } = await generation.ending
      if (reason === 'failed' && isBarred === true) throw barred(message)
      // The line's own fault: a part of the model that it wants cannot be read.
      if (reason === 'failed') throw new Refusal(500, message, { mayRetry: false })
    } finally {
      generation.cancel()
      this.#generations.delete(generation)
      this.#note(drawing)
      this.#drawings.delete(drawing)
      await generation.ending.then(
        (ending) => listener.onEnding(ending),
        () => {},
      )
    }
  }

  #add(result: Result): void {
    this.parts.results.add(result)
    for (const one of this.parts.results.keep()) this.parts.listener.onResult(one)
  }

  #keepIfDue(freshTokens: number): void {
    const { seconds, tokens } = this.parts.interval
    const isDue = performance.now() - this.#keptMs >= seconds * 1000
    if (isDue || freshTokens >= tokens) this.#keep()
  }

  #keep(): void {
    for (const drawing of this.#drawings) this.#note(drawing)
    this.parts.journal.keep()
    this.#keptMs = performance.now()
  }

  /** Hands the journal what was drawn since. */
  #note(drawing: Drawing): void {
    const { line, answer, kept, fresh, hasLogprobs } = drawing
    if (fresh.length === 0) return
    this.parts.journal.tokens(tokensOf(line, answer, kept, fresh, hasLogprobs))
    drawing.kept += fresh.length
    fresh.length = 0
  }

  #room(): Promise<void> {
    return new Promise((resolve) => {
      this.#onRoom = resolve
    })
  }

  /** The first fault is the one that is told. */
  #stop(error: unknown): void {
    if (!(error instanceof Parked)) this.#fault ??= error
    this.park()
  }
}

/** The results of all; the first fault of any, once none is in work. */
async function allOf<Value>(tasks: readonly Promise<Value>[]): Promise<Value[]> {
  await Promise.allSettled(tasks)
  return Promise.all(tasks)
}

function pairOf(choice: Choice, reader: AnswerReader | undefined) {
  // How much of a prompt was known is another figure when the job is run again.
  return reader === undefined ? [] : [{ choice, reader, cachedTokens: 0 }]
}
