// Has a forecast learn beside a loop that a proof drives itself, as the engine has it: in a thread of its own,
// the built one, after every so many steps since the model was opened.
import { setImmediate } from 'node:timers/promises'
import { Learner } from '../dist/src/engine/learner.js'
import type { ForecastMemory } from '../src/prefetch/forecast.js'

const stepsPerLesson = 32
/** After so many, the thread may be heard; the engine's own loop never waits for that. */
const stepsPerHearing = 8

export class Learning {
  readonly #learner: Learner | null
  #steps = 0

  /** `forecast`: of an open model; null: nothing is foreseen. */
  constructor(forecast: ForecastMemory | null) {
    this.#learner = forecast === null ? null : new Learner(forecast)
  }

  /** So many steps are over. */
  async stepped(steps = 1): Promise<void> {
    const before = this.#steps
    this.#steps += steps
    const reaches = (every: number) => Math.floor(this.#steps / every) > Math.floor(before / every)
    if (reaches(stepsPerLesson)) this.#learner?.learn()
    if (reaches(stepsPerHearing)) await setImmediate()
  }

  async close(): Promise<void> {
    await this.#learner?.close()
  }
}
