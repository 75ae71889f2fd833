// How many sequences may be in work or wait. It counts and does no more: who runs is the engine's
// business, in order of arrival.
import { Refusal } from './refusal.js'

const RETRY_SECONDS_MAX = 600

export class Gate {
  #taken = 0
  /** How long a place is held, smoothed. */
  #heldSeconds = 1

  constructor(
    private readonly parallel: number,
    private readonly queue: number,
  ) {}

  get running(): number {
    return Math.min(this.#taken, this.parallel)
  }

  get waiting(): number {
    return this.#taken - this.running
  }

  /**
   * Takes `count` places and returns what gives them back; that may be called again. Throws 429 when
   * there are too few, 400 when there never will be.
   */
  enter(count: number): () => void {
    const places = this.parallel + this.queue
    if (count > places) {
      throw new Refusal(
        400,
        `${count} answers are asked for at once; this server takes ${places}`,
        {
          param: 'n',
        },
      )
    }
    if (this.#taken + count > places) {
      throw new Refusal(429, 'as many requests wait as this server takes; come again later', {
        code: 'queue_full',
        retryAfterSeconds: this.#patience(),
      })
    }
    this.#taken += count
    const begin = performance.now()
    let isHeld = true
    return () => {
      if (!isHeld) return
      isHeld = false
      this.#taken -= count
      this.#heldSeconds += ((performance.now() - begin) / 1000 - this.#heldSeconds) / 8
    }
  }

  /** About when a place is free: those in work are half done on average. */
  #patience(): number {
    return Math.min(RETRY_SECONDS_MAX, Math.max(1, Math.ceil(this.#heldSeconds / 2)))
  }
}
