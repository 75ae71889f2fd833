// What passes and what does not, when a far machine is asked: a pause and another try, longer each time
// and as long as the other side says, until a number of tries in a row brought nothing. It knows no
// routes and no files. Whoever is cancelled is cancelled while it waits, too.
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

/** Gives a connection up when nothing has come for a while, or when all is cancelled. */
export class Watchdog {
  readonly #stall = new AbortController()
  readonly signal: AbortSignal
  readonly #timer: NodeJS.Timeout

  constructor(private readonly patience: Patience) {
    this.signal = AbortSignal.any([patience.signal, this.#stall.signal])
    this.#timer = setTimeout(() => this.#stall.abort(), patience.stallSeconds * 1000)
  }

  /** A byte has come. */
  fed(): void {
    this.#timer.refresh()
  }

  end(): void {
    clearTimeout(this.#timer)
  }

  /** What a connection that broke is called; errors that are not the connection's stay what they are. */
  reason(error: unknown): unknown {
    if (this.patience.signal.aborted) return this.patience.signal.reason
    if (this.#stall.signal.aborted) {
      return new Passing(`nothing came for ${this.patience.stallSeconds} s`)
    }
    // What fetch throws for every fault of the network, while it connects or reads.
    if (!(error instanceof TypeError)) return error
    const { cause } = error
    const said = cause instanceof Error ? cause.message || cause.name : error.message
    return new Passing(`the connection broke (${said})`)
  }
}
