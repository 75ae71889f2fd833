// Ctrl-C and its like. While something can be cancelled, the first signal cancels it; a second one, or
// one that comes while nothing can be, ends the process at once, by the signal itself, so that the
// shell learns of it. SIGTERM is heard like SIGINT.
import os from 'node:os'

const heard = ['SIGINT', 'SIGTERM'] as const
type Heard = (typeof heard)[number]

export class Interrupts {
  #cancel: (() => void) | null = null
  #received: Heard | null = null

  constructor() {
    for (const signal of heard) process.on(signal, () => this.#hear(signal))
  }

  get received(): Heard | null {
    return this.#received
  }

  /** Does the work; a first signal meanwhile calls `cancel`. Earlier signals are forgotten. */
  async during<Result>(cancel: () => void, work: () => Promise<Result>): Promise<Result> {
    this.#received = null
    this.#cancel = cancel
    try {
      return await work()
    } finally {
      this.#cancel = null
    }
  }

  #hear(signal: Heard): void {
    if (this.#cancel === null || this.#received !== null) die(signal)
    this.#received = signal
    this.#cancel()
  }
}

/** What a shell shows for a process that a signal ended. */
export function statusOfSignal(signal: Heard): number {
  return 128 + os.constants.signals[signal]
}

function die(signal: Heard): never {
  process.removeAllListeners(signal)
  process.kill(process.pid, signal)
  // The first process of a container is not ended by a signal that it does not handle.
  process.exit(statusOfSignal(signal))
}
