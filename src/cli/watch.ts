// The dashboard in the program that computes: `run`, `chat` and `serve` with --tui. What would have gone
// to the terminal, answers and log, goes to its views while it is open. Its code is loaded only then.
import type { Dashboard } from '../../tui/dashboard.js'
import type { Said, View } from '../../tui/scene.js'
import type { Source } from '../../tui/source.js'
import type { Engine } from '../engine/engine.js'
import { snapshotOf } from '../engine/observer.js'
import type { RequestRow, Snapshot } from '../engine/telemetry.js'
import type { TextPiece } from '../model/thinking.js'
import { tell } from './failure.js'
import type { SharedFlags } from './flags.js'
import type { ScreenFlags } from './screenflags.js'

/** Characters of a talk that are kept for the screen. */
const saidCharsMost = 200_000

/** Whether there is a terminal to watch on; says so where one was asked for in vain. */
export function mayWatch({ tui, json }: ScreenFlags & SharedFlags): boolean {
  if (tui !== true) return false
  const isTerminal = process.stdin.isTTY === true && process.stdout.isTTY === true
  if (isTerminal && json !== true) return true
  tell(`--tui has no effect ${isTerminal ? 'with --json' : 'without a terminal'}`)
  return false
}

/** What drives the drive at most, where the flags say so: bytes per second. */
export function ceilingOf({ ceiling, paced }: SharedFlags): number | undefined {
  return ceiling ?? paced?.bytesPerSecond
}

/** The engine of this process as the dashboard sees it. */
export class EngineSource implements Source {
  readonly name = 'the engine'
  readonly log: string[] = []
  readonly say?: (text: string) => void
  #engine: Engine | null = null
  #said: Said[] = []
  #chars = 0

  constructor(
    private readonly model: string,
    private readonly ceiling: number | undefined,
    say?: (text: string) => void,
  ) {
    if (say !== undefined) this.say = say
  }

  /** From now on there is something to see. */
  opened(engine: Engine): void {
    this.#engine = engine
  }

  async take(hasMap: boolean): Promise<Snapshot> {
    const { model, ceiling } = this
    return snapshotOf(this.#engine?.facts ?? null, { model, waiting: 0, ceiling }, hasMap)
  }

  async cancel({ slot, number }: RequestRow): Promise<void> {
    this.#engine?.cancelNumber(slot, number)
  }

  said(): readonly Said[] {
    return this.#said
  }

  /** One more piece of the talk. */
  heard({ kind, text }: TextPiece | Said): void {
    const last = this.#said.at(-1)
    if (last?.kind === kind) this.#said[this.#said.length - 1] = { kind, text: last.text + text }
    else {
      const gap = last === undefined ? '' : '\n\n'
      this.#said.push({ kind, text: gap + text })
    }
    this.#chars += text.length
    for (const first of this.#said) {
      if (this.#chars <= saidCharsMost || this.#said.length === 1) break
      this.#chars -= first.text.length
      this.#said = this.#said.slice(1)
    }
  }
}

/**
 * Works while a person watches, until the work is done and the person has left; who leaves earlier ends
 * the work.
 */
export async function watched<Result>(
  source: Source,
  view: View,
  work: (dashboard: Dashboard) => Promise<Result>,
  leave: () => void,
): Promise<Result> {
  const { Dashboard } = await import('../../tui/dashboard.js')
  const dashboard = new Dashboard(source, view)
  const left = dashboard.run().finally(leave)
  try {
    const result = await work(dashboard)
    await left
    return result
  } catch (error) {
    dashboard.end()
    await left
    throw error
  }
}
