// Learning to foresee, beside the engine: a thread of its own (learnerthread.ts) fits the forecast's weights
// to what layers have used, in memory that the engine's thread shares. It begins when the first lessons are
// worth it, so short runs never start one.
import { Worker } from 'node:worker_threads'
import type { ForecastMemory } from '../prefetch/forecast.js'

export class Learner {
  readonly #memory: ForecastMemory
  #thread: Worker | null = null
  #isBusy = false

  constructor(memory: ForecastMemory) {
    this.#memory = memory
  }

  /** Learns from the latest lessons, unless that is being done already. */
  learn(): void {
    if (this.#isBusy) return
    this.#isBusy = true
    this.#thread ??= this.#start()
    this.#thread.postMessage(this.#memory)
  }

  async close(): Promise<void> {
    await this.#thread?.terminate()
  }

  #start(): Worker {
    const thread = new Worker(new URL('./learnerthread.js', import.meta.url), { execArgv: [] })
    thread.on('message', () => {
      this.#isBusy = false
    })
    // What goes wrong here costs a better guess and nothing else: it was computed with a copy.
    thread.on('error', () => {})
    thread.unref()
    return thread
  }
}
