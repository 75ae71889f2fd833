// A job as the dashboard sees it: the engine of this process, how far the job is, and what its answers say
// while they are drawn. Leaving the dashboard parks the job.
import type { Dashboard } from '../../tui/dashboard.js'
import type { Said } from '../../tui/scene.js'
import { type Source, saidOf } from '../../tui/source.js'
import type { Engine } from '../engine/engine.js'
import type { JobFigures, RequestRow, Snapshot } from '../engine/telemetry.js'
import type { Tokenizer } from '../model/tokenizer.js'
import { Streams } from '../serve/streams.js'
import { EngineSource, watched } from './watch.js'

export class JobSource implements Source {
  readonly name = 'the job'
  readonly log: string[] = []
  /** Whether the terminal is the dashboard's. */
  isOpen = false
  readonly #engine: EngineSource
  readonly #streams: Streams
  #figures: (() => JobFigures) | null = null

  constructor(model: string, ceiling: number | undefined, tokenizer: Tokenizer) {
    this.#engine = new EngineSource(model, ceiling)
    this.#streams = new Streams(tokenizer)
  }

  /** Works while a person watches; what is done stays to be seen, what was parked does not. */
  async watch(
    engine: Engine,
    figures: () => JobFigures,
    work: () => Promise<boolean>,
    park: () => void,
  ): Promise<boolean> {
    this.#engine.opened(engine)
    this.#figures = figures
    engine.onToken = (number, token) => this.#streams.drew(number, token)
    const run = async (dashboard: Dashboard) => {
      const isDone = await work()
      if (!isDone) dashboard.end()
      return isDone
    }
    this.isOpen = true
    try {
      return await watched(this, 'overview', run, park)
    } finally {
      this.isOpen = false
    }
  }

  async take(hasMap: boolean): Promise<Snapshot> {
    const snapshot = await this.#engine.take(hasMap)
    return this.#figures === null ? snapshot : { ...snapshot, job: this.#figures() }
  }

  async cancel(): Promise<void> {
    throw new Error('a job wants all of its answers; q parks it')
  }

  said(row: RequestRow | null): readonly Said[] | null {
    return saidOf(row === null ? undefined : this.#streams.textOf(row.number))
  }
}
