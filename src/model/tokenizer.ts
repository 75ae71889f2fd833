/**
 * Text to token ids and back, as the checkpoint's own tokenizer.json says. It must not know the
 * chat template or the model. Encoding is the library's; decoding is ours, because the library
 * turns every token that holds part of a character into U+FFFD: a token's raw bytes are the unit
 * here, and text is made of them only once they are whole.
 */
import { TextDecoder } from 'node:util'
import { Tokenizer as Encoder } from '@huggingface/tokenizers'
import { bytesOfPiece } from './bytelevel.js'
import { ModelError } from './error.js'
import { readVocabulary, type Vocabulary } from './vocabulary.js'

/** The tokenizer of one checkpoint. Holds no state between calls. */
export interface Tokenizer {
  /**
   * Ids 0 to size - 1 exist. Larger ids of the model's vocabulary are padding and must never be
   * sampled. A file may leave an id below `size` unused; such an id has no bytes.
   */
  readonly size: number
  /**
   * Token ids of `text`. No begin or end token is added; the names of added tokens inside the text
   * become their ids, control tokens included, so text from a stranger can hold a turn's end.
   * Unpaired surrogates become U+FFFD. A megabyte takes about 2 s, of blanks only 16 s, and blocks
   * the thread, so whoever takes text from outside bounds its length first. A hostile file's
   * pattern may take for ever: JavaScript puts no bound on a regular expression.
   */
  encode(text: string): Int32Array
  /** Raw bytes that a token stands for; of an added token its text in UTF-8; else empty. */
  bytesOf(id: number): Uint8Array
  /** Whether the id is a control token, shown to nobody. Think tags are not. */
  isSpecial(id: number): boolean
  /** The text of all ids, U+FFFD for what is no UTF-8; control tokens only with `keepSpecial`. */
  decode(ids: Iterable<number>, options?: { keepSpecial?: boolean }): string
  /** The id of an added token's text, or of a vocabulary piece in the file's own alphabet. */
  idOf(token: string): number | null
}

/**
 * Opens the tokenizer of the checkpoint in `folder`. Throws ModelError when tokenizer.json is
 * missing, damaged, absurd, or of a kind that cannot be followed exactly.
 */
export function openTokenizer(folder: string): Tokenizer {
  const vocabulary = readVocabulary(folder)
  let encoder: Encoder
  try {
    // Left out, clean_up_tokenization_spaces is true and turns "it 's" into "it's".
    encoder = new Encoder(vocabulary.definition, { clean_up_tokenization_spaces: false })
  } catch (error) {
    throw new ModelError(`tokenizer.json: cannot be used: ${reasonOf(error)}`)
  }
  return new BytePairTokenizer(vocabulary, encoder)
}

class BytePairTokenizer implements Tokenizer {
  readonly size: number
  readonly #vocabulary: Vocabulary
  readonly #encoder: Encoder

  constructor(vocabulary: Vocabulary, encoder: Encoder) {
    this.size = vocabulary.pieces.length
    this.#vocabulary = vocabulary
    this.#encoder = encoder
  }

  encode(text: string): Int32Array {
    let ids: readonly (number | undefined)[]
    try {
      ids = this.#encoder.encode(text, { add_special_tokens: false }).ids
    } catch (error) {
      throw new ModelError(`tokenizer.json: cannot encode this text: ${reasonOf(error)}`)
    }
    return Int32Array.from(ids, (id) => {
      if (id === undefined) {
        throw new ModelError('tokenizer.json: has no token for a part of this text')
      }
      return id
    })
  }

  /**
   * Where the file's decoder is not byte-level, a token's bytes are what the library decodes from
   * it alone: then U+FFFD for a part of a character, and no space that only neighbours decide.
   */
  bytesOf(id: number): Uint8Array {
    const added = this.#vocabulary.added.get(id)
    if (added !== undefined) return utf8.encode(added.content)
    const piece = this.#vocabulary.pieces[id]
    if (piece === undefined) return NO_BYTES
    return this.#vocabulary.isByteLevel ? bytesOfPiece(piece) : utf8.encode(this.#joined([id]))
  }

  isSpecial(id: number): boolean {
    return this.#vocabulary.added.get(id)?.special ?? false
  }

  decode(ids: Iterable<number>, options: { keepSpecial?: boolean } = {}): string {
    const shown: number[] = []
    for (const id of ids) {
      if (options.keepSpecial === true || !this.isSpecial(id)) shown.push(id)
    }
    if (!this.#vocabulary.isByteLevel) return this.#joined(shown)
    const decoder = utf8Decoder()
    const text = shown.map((id) => decoder.decode(this.bytesOf(id), { stream: true })).join('')
    return text + decoder.decode()
  }

  idOf(token: string): number | null {
    return this.#vocabulary.ids.get(token) ?? null
  }

  /** The library's own decoding, which refuses an empty list and fails on ids that it lacks. */
  #joined(ids: readonly number[]): string {
    const known = ids.filter((id) => this.#vocabulary.pieces[id] !== undefined)
    if (known.length === 0) return ''
    try {
      return this.#encoder.decode(known, { clean_up_tokenization_spaces: false })
    } catch (error) {
      throw new ModelError(`tokenizer.json: cannot decode: ${reasonOf(error)}`)
    }
  }
}

/** A decoder that keeps a byte order mark: it is a character of the model's text like any other. */
export function utf8Decoder(): TextDecoder {
  return new TextDecoder('utf-8', { ignoreBOM: true })
}

const utf8 = new TextEncoder()
const NO_BYTES = new Uint8Array(0)

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
