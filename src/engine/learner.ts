// Learning to foresee, beside the engine: a thread of its own fits the forecast's weights to what layers
// have used, in memory that the engine's thread shares. It begins when the first lessons are worth it, so
// short runs never start one, nor load what starts it.
import type { Piscina } from 'piscina'
import type { ForecastMemory } from '../prefetch/forecast.js'

export class Learner {
  readonly #memory: ForecastMemory
  #pool: Promise<Piscina<ForecastMemory, number>> | null = null
  #isBusy = false

  constructor(memory: ForecastMemory) {
    this.#memory = memory
  }

  /** Learns from the latest lessons, unless that is being done already. */
  learn(): void {
    if (this.#isBusy) return
    this.#pool ??= poolOfOne()
    this.#isBusy = true
    // What goes wrong here costs a better guess and nothing else: it was computed with a copy.
    this.#pool
      .then((pool) => pool.run(this.#memory))
      .then(
        () => {
          this.#isBusy = false
        },
        () => {},
      )
  }

  async close(): Promise<void> {
    await (await this.#pool)?.destroy()
  }
}

async function poolOfOne(): Promise<Piscina<ForecastMemory, number>> {
  const { Piscina } = await import('piscina')
  return new Piscina<ForecastMemory, number>({
    filename: new URL('../prefetch/fitworker.js', import.meta.url).href,
    maxThreads: 1,
    execArgv: [],
  })
}
