// What requests said of late, for a dashboard, where whoever started the server asked for it: text of
// strangers is kept nowhere else. It is decoded beside the answers, from the tokens as they are drawn, and
// knows nothing of prompts, stops or tool calls.
import { TextStream } from '../model/textstream.js'
import type { Tokenizer } from '../model/tokenizer.js'

/** Requests that are kept, and characters of each. */
const requestsMost = 64
const charsMost = 20_000

interface Stream {
  readonly decoder: TextStream
  text: string
}

export class Streams {
  /** By number, oldest first. */
  readonly #streams = new Map<number, Stream>()

  constructor(private readonly tokenizer: Tokenizer) {}

  drew(number: number, token: number): void {
    const stream = this.#streamOf(number)
    stream.text = (stream.text + stream.decoder.push(token)).slice(-charsMost)
  }

  /** What the request of a number said; undefined: nothing is known of it. */
  textOf(number: number): string | undefined {
    return this.#streams.get(number)?.text
  }

  /** Another engine numbers its requests anew. */
  forget(): void {
    this.#streams.clear()
  }

  #streamOf(number: number): Stream {
    const known = this.#streams.get(number)
    if (known !== undefined) return known
    const stream = { decoder: new TextStream(this.tokenizer), text: '' }
    this.#streams.set(number, stream)
    const [oldest] = this.#streams.keys()
    if (this.#streams.size > requestsMost && oldest !== undefined) this.#streams.delete(oldest)
    return stream
  }
}
