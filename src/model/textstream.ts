/**
 * Text of a growing sequence, token by token. A token may hold half a character, so bytes are held
 * until the character is whole; what is pushed and ended equals the decoding of all ids at once.
 * Must not know what the text means: think tags pass through.
 */
import { type Tokenizer, utf8Decoder } from './tokenizer.js'

/** Streams one sequence. After `end` it is as new. */
export class TextStream {
  readonly #tokenizer: Tokenizer
  readonly #decoder = utf8Decoder()

  constructor(tokenizer: Tokenizer) {
    this.#tokenizer = tokenizer
  }

  /** The characters that this token completes: often one word, sometimes none; control tokens none. */
  push(id: number): string {
    if (this.#tokenizer.isSpecial(id)) return ''
    return this.#decoder.decode(this.#tokenizer.bytesOf(id), { stream: true })
  }

  /** U+FFFD when the sequence ended within a character, else nothing. */
  end(): string {
    return this.#decoder.decode()
  }
}
