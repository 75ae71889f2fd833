// One request on its way: the signal that ends it early, whoever wants that: the client by leaving,
// the deadline, the server by closing. The signal's reason is the Refusal to answer with.
import type { ServerResponse } from 'node:http'
import { gone, Refusal, unavailable } from './refusal.js'

export class Exchange {
  readonly #ending = new AbortController()
  readonly #timer: NodeJS.Timeout
  readonly #onClose = () => this.#ending.abort(gone())
  readonly #onShutdown = () => this.#ending.abort(unavailable('the server is closing', 5))

  constructor(
    private readonly response: ServerResponse,
    private readonly shutdown: AbortSignal,
    deadlineMs: number,
  ) {
    this.#timer = setTimeout(() => this.#ending.abort(late(deadlineMs)), deadlineMs)
    response.on('close', this.#onClose)
    shutdown.addEventListener('abort', this.#onShutdown)
    if (shutdown.aborted) this.#onShutdown()
  }

  get signal(): AbortSignal {
    return this.#ending.signal
  }

  dispose(): void {
    clearTimeout(this.#timer)
    this.response.off('close', this.#onClose)
    this.shutdown.removeEventListener('abort', this.#onShutdown)
  }
}

/** The same request would be as late again, so clients that try again by themselves are told not to. */
function late(deadlineMs: number): Refusal {
  return new Refusal(504, `not answered within ${deadlineMs / 1000} s, the server's --timeout`, {
    code: 'deadline_exceeded',
    mayRetry: false,
  })
}
