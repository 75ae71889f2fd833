// Server-sent events on one response. While nothing is said, comments keep proxies and clients from
// giving up: a long prompt may take minutes. A slow reader is waited for, and one that is gone is not
// written to.
import type { ServerResponse } from 'node:http'
import type { WireEvent } from './form.js'

/** For the last bytes to be taken; there are few, since every event before waited for its turn. */
const LAST_MS = 60_000

export class EventStream {
  readonly #timer: NodeJS.Timeout
  #isOver = false

  constructor(
    private readonly response: ServerResponse,
    headers: Readonly<Record<string, string>>,
    keepAliveMs: number,
  ) {
    response.writeHead(200, {
      ...headers,
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-cache',
      // Proxies that gather output would hold tokens back.
      'x-accel-buffering': 'no',
    })
    response.flushHeaders()
    // A connection that breaks closes the response too; the error itself says no more.
    response.on('error', () => {})
    this.#timer = setInterval(() => {
      if (!response.writableNeedDrain) response.write(': keep-alive\n\n')
    }, keepAliveMs)
  }

  /** Sends one event, unless the stream is over; resolves when the reader is ready for the next. */
  async send(event: WireEvent): Promise<void> {
    const { response } = this
    if (this.#isOver || response.destroyed) return
    this.#timer.refresh()
    if (!response.write(textOf(event))) await this.#once('drain')
  }

  /** The last event; resolves when all is on its way, or the reader gone. Later events are dropped. */
  async end(event: WireEvent): Promise<void> {
    const { response } = this
    this.#isOver = true
    clearInterval(this.#timer)
    if (response.destroyed) return
    const finished = this.#once('finish')
    const timer = setTimeout(() => response.destroy(), LAST_MS)
    response.end(textOf(event))
    await finished
    clearTimeout(timer)
  }

  /** The event, or the end of the connection. */
  #once(event: 'drain' | 'finish'): Promise<void> {
    const { response } = this
    return new Promise((resolve) => {
      const settle = () => {
        response.off(event, settle).off('close', settle)
        resolve()
      }
      response.on(event, settle).on('close', settle)
    })
  }
}

function textOf({ name, data }: WireEvent): string {
  const text = typeof data === 'string' ? data : JSON.stringify(data)
  return `${name === null ? '' : `event: ${name}\n`}data: ${text}\n\n`
}
