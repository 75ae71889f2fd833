// What passes and what does not, when a far machine is asked: a pause and another try, longer each time
// and as long as the other side says, until a number of tries in a row brought nothing. It knows no
// routes and no files. Whoever is cancelled is cancelled while it waits, too.
import { setMaxListeners } from 'node:events'
import { ModelError } from '../model/error.js'

/** Something that may go well at another time. */
export class Passing extends Error {
  override readonly name = 'Passing'

  constructor(
    message: string,
    /** What the other side asks for. */
    readonly waitSeconds: number | null = null,
  ) {
    super(message)
  }
}

export interface Patience {
  readonly signal: AbortSignal
  /** No byte for so long: the connection is given up. */
  readonly stallSeconds: number
  /** Of the first pause; each one after it is twice as long, up to a minute. */
  readonly pauseSeconds: number
  /** Called before each pause. */
  readonly onWait: (reason: string, seconds: number) => void
}

/** Tries in a row that bring nothing. */
const TRIES = 7
const PAUSE_SECONDS_MOST = 60
/** Whoever asks for more is not waited for. */
const WAIT_SECONDS_MOST = 3600

/**
 * The result of the first try that does not throw Passing. `hasGained`: whether the last try brought
 * anything, which makes the count begin anew. Throws ModelError, beginning with `what`, when it is given up.
 */
export async function patiently<Result>(
  what: string,
  { signal, pauseSeconds, onWait }: Patience,
  attempt: () => Promise<Result>,
  hasGained: () => boolean = () => false,
): Promise<Result> {
  for (let tries = 1; ; tries += 1) {
    try {
      signal.throwIfAborted()
      return await attempt()
    } catch (error) {
      if (signal.aborted || !(error instanceof Passing)) throw error
      if (hasGained()) tries = 1
      const asked = error.waitSeconds ?? 0
      if (tries >= TRIES || asked > WAIT_SECONDS_MOST) {
        throw new ModelError(`${what}: ${error.message}; given up after ${tries} tries`)
      }
      const seconds = Math.max(asked, Math.min(PAUSE_SECONDS_MOST, pauseSeconds * 2 ** (tries - 1)))
      onWait(`${what}: ${error.message}`, seconds)
      await pause(seconds, signal)
    }
  }
}

/** Ends early, with the signal's reason, when it is cancelled. */
export function pause(seconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const end = () => {
      clearTimeout(timer)
      signal.removeEventListener('abort', end)
      if (signal.aborted) reject(signal.reason)
      else resolve()
    }
    const timer = setTimeout(end, seconds * 1000)
    signal.addEventListener('abort', end)
    if (signal.aborted) end()
  })
}

/** A controller that is aborted with the signal as well. */
export function follower(signal: AbortSignal): { controller: AbortController; end: () => void } {
  const controller = new AbortController()
  // Every connection listens.
  setMaxListeners(0, signal, controller.signal)
  const abort = () => controller.abort(signal.reason)
  if (signal.aborted) abort()
  else signal.addEventListener('abort', abort)
  return { controller, end: () => signal.removeEventListener('abort', abort) }
}

/** Gives a connection up when nothing has come for a while, or when all is cancelled. */
export class Watchdog {
  readonly #following
  readonly signal: AbortSignal
  readonly #timer: NodeJS.Timeout
  #hasStalled = false

  constructor(private readonly patience: Patience) {
    this.#following = follower(patience.signal)
    this.signal = this.#following.controller.signal
    this.#timer = setTimeout(() => this.#stall(), patience.stallSeconds * 1000)
  }

  /** A byte has come. */
  fed(): void {
    this.#timer.refresh()
  }

  /**
   * The work, or the signal's reason as soon as it is aborted: what fetch has promised is now and then
   * forgotten when it is aborted, and whoever waited for it would wait for ever.
   */
  async during(work: Promise<void>): Promise<void> {
    work.catch(() => {})
    let abort = () => {}
    const aborted = new Promise<never>((_, reject) => {
      abort = () => reject(this.signal.reason)
      this.signal.addEventListener('abort', abort)
      if (this.signal.aborted) abort()
    })
    try {
      await Promise.race([work, aborted])
    } finally {
      this.signal.removeEventListener('abort', abort)
    }
  }

  end(): void {
    clearTimeout(this.#timer)
    this.#following.end()
  }

  /** What a connection that broke is called; errors that are not the connection's stay what they are. */
  reason(error: unknown): unknown {
    if (this.patience.signal.aborted) return this.patience.signal.reason
    if (this.#hasStalled) {
      return new Passing(`nothing came for ${this.patience.stallSeconds} s`)
    }
    // What fetch throws for every fault of the network, while it connects or reads.
    if (!(error instanceof TypeError)) return error
    const { cause } = error
    const said = cause instanceof Error ? cause.message || cause.name : error.message
    return new Passing(`the connection broke (${said})`)
  }

  #stall(): void {
    this.#hasStalled = true
    this.#following.controller.abort()
  }
}
