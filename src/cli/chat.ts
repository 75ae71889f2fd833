// `chat`: a talk with the model, line by line. Each round reads the whole talk again. A round that
// fails is told and forgotten, and the talk goes on. What is piped in is answered line by line too.
import type { Dashboard } from '../../tui/dashboard.js'
import type { Said } from '../../tui/scene.js'
import { Engine, type Generation } from '../engine/engine.js'
import { ModelError } from '../model/error.js'
import type { TextPiece } from '../model/thinking.js'
import type { Tokenizer } from '../model/tokenizer.js'
import { readAnswer } from './answer.js'
import { Conversation, openText } from './conversation.js'
import { Failure, Status, tell } from './failure.js'
import { type ChatFlags, refuseUnavailable, wishesOf } from './flags.js'
import { Interrupts, statusOfSignal } from './interrupt.js'
import { Lines } from './lines.js'
import { type Log, logFor } from './log.js'
import { requestOf, seedOf } from './request.js'
import { Screen } from './show.js'
import { findModel } from './source.js'
import { SpokenLines } from './spokenlines.js'
import { ceilingOf, EngineSource, mayWatch, watched } from './watch.js'
import { withTuned } from './withtuned.js'

const help = `/reset  forget what was said
/exit   leave, as does Ctrl-D
/help   this list
Ctrl-C ends an answer; at an empty prompt it leaves.`

/** Returns the exit status; throws for what is wrong before the first line is read. */
export async function chat(model: string | undefined, flags: ChatFlags): Promise<number> {
  refuseUnavailable(flags)
  const source = findModel(model)
  const spoken = mayWatch(flags) ? new SpokenLines() : null
  const view = new EngineSource(source.name, ceilingOf(flags), (text) => spoken?.push(text))
  const log = logFor(flags, spoken === null ? undefined : (line) => view.log.push(line))
  if (flags.json) log.line('--json has no effect on chat')
  const tokenizer = await openText(source.folder)
  const conversation = new Conversation(source.folder, tokenizer, flags)
  const wishes = wishesOf(await withTuned(source, flags, log), tokenizer.size)
  const engine = await Engine.open(source.folder, wishes, (line) => log.line(line))
  try {
    log.opened(source.name, engine.facts, flags.ctxSize)
    if (process.stdin.isTTY) log.line('/help lists what can be said beside text')
    const talk = new Chat(engine, tokenizer, conversation, flags, log)
    if (spoken === null) return await talk.talk(new Lines())
    view.opened(engine)
    return await watched(
      view,
      'text',
      (dashboard) => talk.talk(spoken, { view, dashboard }).finally(() => dashboard.end()),
      () => {
        spoken.close()
        talk.cancel()
      },
    )
  } finally {
    await engine.close()
  }
}

/** Where a talk is shown that is not on plain lines. */
interface Stage {
  readonly view: EngineSource
  readonly dashboard: Dashboard
}

class Chat {
  readonly #screen = new Screen()
  #stage: Stage | null = null
  #generation: Generation | null = null
  readonly #interrupts = new Interrupts()

  constructor(
    private readonly engine: Engine,
    private readonly tokenizer: Tokenizer,
    private readonly conversation: Conversation,
    private readonly flags: ChatFlags,
    private readonly log: Log,
  ) {}

  /** Until the lines end, or /exit, or a signal that asks the program to end. */
  async talk(lines: Lines | SpokenLines, stage: Stage | null = null): Promise<number> {
    this.#stage = stage
    try {
      for (;;) {
        const line = await lines.next()
        if (lines.isInterrupted) return statusOfSignal('SIGINT')
        const word = line?.trim()
        if (line !== null) this.#heard({ kind: 'prompt', text: line })
        if (line === null || word === '/exit') return Status.done
        if (word === '') continue
        if (word?.startsWith('/')) this.#obey(word)
        else await this.#round(line)
        if (this.#interrupts.received === 'SIGTERM') return statusOfSignal('SIGTERM')
      }
    } finally {
      lines.close()
    }
  }

  /** Ends the answer that is given, if one is. */
  cancel(): void {
    this.#generation?.cancel()
  }

  #heard(said: Said): void {
    this.#stage?.view.heard(said)
    this.#stage?.dashboard.touch()
  }

  #tell(text: string): void {
    if (this.#stage === null) tell(text)
    else this.#heard({ kind: 'reasoning', text })
  }

  #obey(word: string): void {
    if (word === '/reset') {
      this.conversation.forget()
      this.log.line('forgotten')
    } else {
      if (word !== '/help') this.#tell(`${word} is no command here`)
      if (this.#stage === null) process.stderr.write(`${help}\n`)
      else this.#tell(help)
    }
  }

  async #round(line: string): Promise<void> {
    try {
      await this.#answer(line)
    } catch (error) {
      // What is wrong with this round only; anything else ends the talk.
      if (!(error instanceof Failure || error instanceof ModelError)) throw error
      this.#tell(error.message)
    }
  }

  async #answer(line: string): Promise<void> {
    const prompt = this.conversation.ask(line)
    const request = requestOf(
      prompt,
      this.flags,
      seedOf(this.flags),
      this.engine.facts,
      this.tokenizer,
    )
    const generation: Generation = this.engine.generate(request)
    this.#generation = generation
    const show = (piece: TextPiece) =>
      this.#stage === null ? this.#screen.piece(piece) : this.#heard(piece)
    const answer = await this.#interrupts
      .during(
        () => generation.cancel(),
        () => readAnswer(generation, this.tokenizer, prompt, request.stopIds, show),
      )
      .finally(() => {
        this.#generation = null
        this.#screen.end()
      })
    if (answer.ending.reason === 'failed') throw new Failure(answer.ending.message)
    if (answer.ending.reason === 'length')
      this.log.line('the answer was cut short (-n, --ctx-size)')
    // An answer that never came would only confuse the next one.
    if (answer.text !== '') this.conversation.remember(line, answer)
  }
}
