// `chat`: a talk with the model, line by line. Each round reads the whole talk again. A round that
// fails is told and forgotten, and the talk goes on. What is piped in is answered line by line too.
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

const help = `/reset  forget what was said
/exit   leave, as does Ctrl-D
/help   this list
Ctrl-C ends an answer; at an empty prompt it leaves.`

/** Returns the exit status; throws for what is wrong before the first line is read. */
export async function chat(model: string | undefined, flags: ChatFlags): Promise<number> {
  refuseUnavailable(flags)
  const log = logFor(flags)
  if (flags.json) log.line('--json has no effect on chat')
  const source = findModel(model)
  const tokenizer = await openText(source.folder)
  const conversation = new Conversation(source.folder, tokenizer, flags)
  const engine = await Engine.open(source.folder, wishesOf(flags, tokenizer.size))
  try {
    log.opened(source.name, engine.facts, flags.ctxSize)
    if (process.stdin.isTTY) log.line('/help lists what can be said beside text')
    return await new Chat(engine, tokenizer, conversation, flags, log).talk()
  } finally {
    await engine.close()
  }
}

class Chat {
  readonly #screen = new Screen()
  readonly #interrupts = new Interrupts()

  constructor(
    private readonly engine: Engine,
    private readonly tokenizer: Tokenizer,
    private readonly conversation: Conversation,
    private readonly flags: ChatFlags,
    private readonly log: Log,
  ) {}

  /** Until the lines end, or /exit, or a signal that asks the program to end. */
  async talk(): Promise<number> {
    const lines = new Lines()
    try {
      for (;;) {
        const line = await lines.next()
        if (lines.isInterrupted) return statusOfSignal('SIGINT')
        const word = line?.trim()
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

  #obey(word: string): void {
    if (word === '/reset') {
      this.conversation.forget()
      this.log.line('forgotten')
    } else {
      if (word !== '/help') tell(`${word} is no command here`)
      process.stderr.write(`${help}\n`)
    }
  }

  async #round(line: string): Promise<void> {
    try {
      await this.#answer(line)
    } catch (error) {
      // What is wrong with this round only; anything else ends the talk.
      if (!(error instanceof Failure || error instanceof ModelError)) throw error
      tell(error.message)
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
    const show = (piece: TextPiece) => this.#screen.piece(piece)
    const answer = await this.#interrupts
      .during(
        () => generation.cancel(),
        () => readAnswer(generation, this.tokenizer, prompt, request.stopIds, show),
      )
      .finally(() => this.#screen.end())
    if (answer.ending.reason === 'failed') throw new Failure(answer.ending.message)
    if (answer.ending.reason === 'length')
      this.log.line('the answer was cut short (-n, --ctx-size)')
    // An answer that never came would only confuse the next one.
    if (answer.text !== '') this.conversation.remember(line, answer)
  }
}
