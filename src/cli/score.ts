// `score`: how likely given tokens are, and which experts they choose. The whole input is checked
// before the first line is computed, and the output appears whole or not at all. Several lines are in
// work at once; results are written in the order of the input.
import { Engine, type Generation } from '../engine/engine.js'
import { kvBytesPerToken } from '../engine/layout.js'
import { availableBytes } from '../engine/memory.js'
import type { EngineFacts } from '../engine/protocol.js'
import { greedy } from '../engine/sampling.js'
import { readConfig } from '../model/config.js'
import { openTokenizer, type Tokenizer } from '../model/tokenizer.js'
import { Failure, Status, tell } from './failure.js'
import { refuseUnavailable, type ScoreFlags, wishesOf } from './flags.js'
import { Interrupts, statusOfSignal } from './interrupt.js'
import { LineFile } from './jsonl.js'
import { type Log, logFor } from './log.js'
import { OutFile } from './outfile.js'
import { parseTask, type RoutingShape, resultLine, type ScoreLimits } from './scoreline.js'
import { findModel } from './source.js'

/** Lines in work at once, where memory allows; more would only wait for each other. */
const SEQUENCES_MAX = 4
/** Bad lines that are named; a file of another kind would name every line. */
const COMPLAINTS_MAX = 20

/** Returns the exit status; throws for everything that a person is to be told. */
export async function score(model: string | undefined, flags: ScoreFlags): Promise<number> {
  refuseUnavailable(flags)
  const log = logFor(flags)
  if (flags.json) log.line('--json has no effect on score: its output is JSON lines')
  const source = findModel(model)
  const interrupts = new Interrupts()
  const sequences = sequencesFor(source.folder, flags)
  const input = await LineFile.open(flags.input)
  const engine = await Engine.open(source.folder, { ...wishesOf(flags), sequences })
  try {
    log.opened(source.name, engine.facts, flags.ctxSize)
    const scoring = new Scoring(engine, input, source.folder, flags)
    await interrupts.during(
      () => scoring.cancel(),
      () => scoring.work(2 * sequences, log),
    )
    return interrupts.received === null ? Status.done : statusOfSignal(interrupts.received)
  } finally {
    await engine.close()
    await input.close()
  }
}

/** As many sequences as can each have the whole context in half of the free memory, at least one. */
function sequencesFor(folder: string, { ctxSize, kvType, ropeScaling }: ScoreFlags): number {
  const config = readConfig(folder, { ropeScaling })
  const sequenceBytes = (ctxSize ?? config.context) * kvBytesPerToken(config, kvType)
  const fitting = Math.floor(availableBytes() / 2 / sequenceBytes)
  return Math.max(1, Math.min(SEQUENCES_MAX, fitting))
}

class Scoring {
  readonly #limits: ScoreLimits
  readonly #routing: RoutingShape | null
  readonly #inWork: { generation: Generation; number: number; finish: () => Promise<string> }[] = []
  #isCancelled = false

  constructor(
    private readonly engine: Engine,
    private readonly input: LineFile,
    folder: string,
    private readonly flags: ScoreFlags,
  ) {
    const { config, plan } = engine.facts
    let tokenizer: Tokenizer | null = null
    this.#limits = {
      vocabulary: config.vocabulary,
      contextTokens: plan.contextTokens,
      tokenizer: () => {
        tokenizer ??= openTokenizer(folder)
        return tokenizer
      },
    }
    this.#routing = flags.routing ? routingShape(engine.facts) : null
    if (flags.topLogprobs > config.vocabulary) {
      throw new Failure(
        `--top-logprobs ${flags.topLogprobs}: this model has ${config.vocabulary} tokens`,
      )
    }
  }

  /** Nothing more is begun; what is in work ends. */
  cancel(): void {
    this.#isCancelled = true
    for (const { generation } of this.#inWork) generation.cancel()
  }

  async work(inWorkMax: number, log: Log): Promise<void> {
    await this.#checkAll()
    const output = await OutFile.create(this.flags.output)
    try {
      const lines = await this.#computeAll(output, inWorkMax)
      if (this.#isCancelled) return
      await output.keep()
      log.line(`${lines} ${lines === 1 ? 'line' : 'lines'} scored`)
    } finally {
      await output.drop()
    }
  }

  async #checkAll(): Promise<void> {
    let bad = 0
    for await (const { number, text } of this.input.lines()) {
      if (this.#isCancelled) return
      const task = parseTask(text, this.#limits)
      if (typeof task !== 'string') continue
      bad += 1
      if (bad <= COMPLAINTS_MAX) tell(`${this.input.name}:${number}: ${task}`)
    }
    if (bad === 0) return
    const unnamed = bad > COMPLAINTS_MAX ? ` (the first ${COMPLAINTS_MAX} are named)` : ''
    throw new Failure(`${bad} bad ${bad === 1 ? 'line' : 'lines'}${unnamed}; nothing was scored`)
  }

  /** Returns how many lines there were. */
  async #computeAll(output: OutFile, inWorkMax: number): Promise<number> {
    let lines = 0
    for await (const { number, text } of this.input.lines()) {
      if (this.#isCancelled) break
      this.#begin(number, text)
      lines += 1
      if (this.#inWork.length >= inWorkMax) await this.#writeFirst(output)
    }
    while (this.#inWork.length > 0) await this.#writeFirst(output)
    return lines
  }

  #begin(number: number, text: string | null): void {
    const task = parseTask(text, this.#limits)
    // It was checked before, so the file has changed meanwhile.
    if (typeof task === 'string') throw new Failure(`${this.input.name}:${number}: ${task}`)
    const generation = this.engine.generate({
      prompt: task.tokens,
      maxTokens: 0,
      stopIds: [],
      sampling: greedy,
      topLogprobs: this.flags.topLogprobs,
      score: true,
      routing: this.#routing !== null,
    })
    const finish = async () => {
      const { reason, message, scored } = await generation.ending
      if (reason === 'cancelled') return ''
      if (reason === 'failed' || scored === undefined) {
        throw new Failure(`${this.input.name}:${number}: ${message}`)
      }
      return `${resultLine(task, scored, this.#routing)}\n`
    }
    this.#inWork.push({ generation, number, finish })
  }

  async #writeFirst(output: OutFile): Promise<void> {
    const result = await this.#inWork.shift()?.finish()
    if (result !== undefined && result !== '') await output.write(result)
  }
}

function routingShape({ config }: EngineFacts): RoutingShape {
  const { firstMoeLayer, layers, topK } = config
  return { firstMoeLayer, moeLayers: layers - firstMoeLayer, topK }
}
