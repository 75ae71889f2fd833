// `run`: one prompt, one answer. The text streams to stdout; with --json it comes in one object at the
// end instead. The order of its parts is that of a person's likely mistakes: flags, model, prompt,
// tokenizer, and only then the weights.
import { Engine } from '../engine/engine.js'
import type { EngineFacts } from '../engine/protocol.js'
import type { TextPiece } from '../model/thinking.js'
import { type Answer, readAnswer } from './answer.js'
import { Conversation, openText, rawPrompt } from './conversation.js'
import { Failure, Status, tell } from './failure.js'
import { type RunFlags, refuseUnavailable, wishesOf } from './flags.js'
import { Interrupts, statusOfSignal } from './interrupt.js'
import { type Log, logFor } from './log.js'
import { readPrompt } from './prompt.js'
import { runReport } from './report.js'
import { requestOf, seedOf } from './request.js'
import { Screen } from './show.js'
import { findModel, type ModelSource } from './source.js'
import { ceilingOf, EngineSource, mayWatch, watched } from './watch.js'
import { withTuned } from './withtuned.js'

/** Returns the exit status; throws for everything that a person is to be told. */
export async function run(model: string | undefined, flags: RunFlags): Promise<number> {
  refuseUnavailable(flags)
  const isWatched = mayWatch(flags)
  const source = findModel(model)
  const view = new EngineSource(source.name, ceilingOf(flags))
  let isOpen = isWatched
  const log = logFor(flags, (line) => (isOpen ? view.log.push(line) : tell(line)))
  const { text, isChosen } = await readPrompt(flags, source.isBundled)
  const tokenizer = await openText(source.folder)
  const prompt = flags.raw
    ? rawPrompt(tokenizer, text)
    : new Conversation(source.folder, tokenizer, flags).ask(text)
  const interrupts = new Interrupts()
  const wishes = wishesOf(await withTuned(source, flags, log), tokenizer.size)
  const engine = await Engine.open(source.folder, wishes, (line) => log.line(line))
  try {
    log.opened(source.name, engine.facts, flags.ctxSize)
    if (isChosen) log.line(`no prompt given (-p TEXT), so the question is: ${text}`)
    const seed = seedOf(flags)
    if (seed !== null && flags.seed === undefined) log.line(`seed ${seed}`)
    const request = requestOf(prompt, flags, seed, engine.facts, tokenizer)
    const generation = engine.generate(request)
    const screen = flags.json ? null : new Screen()
    const read = (show: (piece: TextPiece) => void) =>
      readAnswer(generation, tokenizer, prompt, request.stopIds, show)
    view.opened(engine)
    view.heard({ kind: 'prompt', text })
    const answer = await interrupts
      .during(
        () => generation.cancel(),
        isWatched
          ? () => readWatched(view, read, () => generation.cancel())
          : () => read((piece) => screen?.piece(piece)),
      )
      .finally(() => screen?.end())
    isOpen = false
    if (isWatched) printAnswer(answer)
    finish(answer, source, seed, engine.facts, flags, log)
    return interrupts.received === null ? Status.done : statusOfSignal(interrupts.received)
  } finally {
    await engine.close()
  }
}

/** The answer streams into the dashboard, which stays until it is left. */
function readWatched(
  view: EngineSource,
  read: (show: (piece: TextPiece) => void) => Promise<Answer>,
  cancel: () => void,
): Promise<Answer> {
  return watched(
    view,
    'text',
    (dashboard) =>
      read((piece) => {
        view.heard(piece)
        dashboard.touch()
      }),
    cancel,
  )
}

/** What was read in the dashboard stays behind it. */
function printAnswer({ reasoning, text }: Answer): void {
  const screen = new Screen()
  if (reasoning !== '') screen.piece({ kind: 'reasoning', text: reasoning })
  if (text !== '') screen.piece({ kind: 'text', text })
  screen.end()
}

function finish(
  answer: Answer,
  source: ModelSource,
  seed: number | null,
  engine: EngineFacts,
  flags: RunFlags,
  log: Log,
): void {
  if (answer.ending.reason === 'failed') throw new Failure(answer.ending.message)
  if (flags.json) {
    const { tokens, text, reasoning, ending } = answer
    const report = runReport({
      model: source.name,
      engine,
      ...{ tokens, text, reasoning, seed, stats: ending.stats, finishReason: ending.reason },
      isExact: flags.math === 'f32',
      ceiling: null,
    })
    process.stdout.write(`${JSON.stringify(report)}\n`)
  }
  log.rates(answer.ending.stats, engine)
}
