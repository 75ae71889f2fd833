// What may be drawn next where an answer must be JSON of a given shape: one matcher per sequence, asked
// before each of its draws. The library behind it is WebAssembly with a face of promises; these resolve
// within one turn of microtasks, so they are awaited between steps, never in one. A schema that the
// library dislikes ends its memory for good, so schemas come here checked (see the server). It knows
// ids and bytes, and nothing of steps or of HTTP.
import { createRequire } from 'node:module'
import type * as Library from '@mlc-ai/web-xgrammar'
import { ModelError } from '../model/error.js'
import type { ThinkingTags } from '../model/thinkingtags.js'
import { readVocabulary } from '../model/vocabulary.js'

/** What is asked; crosses to the engine's thread as it is. */
export interface GrammarWish {
  /** A JSON schema, as text. */
  readonly schema: string
  /** Whether properties that the schema does not name are excluded where it says nothing of others. */
  readonly strict: boolean
  /** What may be thought before the JSON is free; null: nothing is thought. */
  readonly thinking: { readonly tags: ThinkingTags; readonly startsInside: boolean } | null
}

/** Compiled grammars that are kept; one has some hundred kilobytes. */
const KEPT = 8

/** Grammars over one model's vocabulary. */
export class Grammars {
  readonly #kept = new Map<string, Library.CompiledGrammar>()

  private constructor(
    private readonly library: typeof Library,
    private readonly compiler: Library.GrammarCompiler,
    private readonly maskWords: number,
  ) {}

  /**
   * `vocabulary`: ids that have logits. Throws ModelError where the tokenizer's pieces are not written
   * in bytes.
   */
  static async open(folder: string, vocabulary: number): Promise<Grammars> {
    const { pieces, added, isByteLevel } = readVocabulary(folder)
    if (!isByteLevel) {
      throw new ModelError('an answer cannot be held to a schema: this tokenizer is not of bytes')
    }
    // Tokens without text are in no grammar: control tokens, and ids that no piece has.
    const texts = Array.from({ length: Math.min(pieces.length, vocabulary) }, (_, id) =>
      added.has(id) ? '' : (pieces[id] ?? ''),
    )
    const library = load()
    const info = await library.TokenizerInfo.createTokenizerInfo(
      texts,
      'byte_level',
      false,
      vocabulary,
      [],
    )
    const compiler = await library.GrammarCompiler.createGrammarCompiler(info, false)
    return new Grammars(library, compiler, Math.ceil(vocabulary / 32))
  }

  /** Throws what the library throws where it cannot follow the schema. */
  async matcher(wish: GrammarWish, stopIds: readonly number[]): Promise<TokenGrammar> {
    const compiled = await this.#compiled(wish)
    const matcher = await this.library.GrammarMatcher.createGrammarMatcher(compiled, [...stopIds])
    return new TokenGrammar(matcher, wish.thinking, new Uint32Array(this.maskWords))
  }

  async #compiled({ schema, strict }: GrammarWish): Promise<Library.CompiledGrammar> {
    const key = `${strict} ${schema}`
    const kept = this.#kept.get(key)
    this.#kept.delete(key)
    // One line, with one space behind commas and colons: white space without end would be JSON too.
    const compiled =
      kept ?? (await this.compiler.compileJSONSchema(schema, false, -1, [', ', ': '], strict))
    this.#kept.set(key, compiled)
    const [oldest] = this.#kept.keys()
    if (this.#kept.size > KEPT && oldest !== undefined) {
      this.#kept.get(oldest)?.dispose()
      this.#kept.delete(oldest)
    }
    return compiled
  }
}

/** What one sequence may draw. */
export class TokenGrammar {
  #isThinking: boolean
  #isStale = true
  #isFirst = true

  constructor(
    private readonly matcher: Library.GrammarMatcher,
    private readonly thinking: GrammarWish['thinking'],
    private readonly words: Uint32Array,
  ) {
    this.#isThinking = thinking?.startsInside === true
  }

  /** One bit per id; null while all may be drawn. Good after `read`. */
  get mask(): Uint32Array | null {
    return this.#isThinking ? null : this.words
  }

  /** Whether `read` must be called before the next draw. */
  get isDue(): boolean {
    return !this.#isThinking && this.#isStale
  }

  async read(): Promise<void> {
    const bits = await this.matcher.getNextTokenBitmask()
    this.words.set(bits)
    // A thought may be opened, if nothing came before it.
    const open = this.#isFirst ? (this.thinking?.tags.open ?? -1) : -1
    if (open >= 0) this.words[open >> 5] = (this.words[open >> 5] ?? 0) | (1 << (open & 31))
    this.#isStale = false
  }

  /** Takes a drawn token; false: the grammar excludes it. */
  accept(token: number): boolean {
    const opens = this.#isFirst && token === this.thinking?.tags.open
    this.#isFirst = false
    this.#isStale = true
    if (!this.#isThinking && !opens) return this.matcher.acceptToken(token)
    this.#isThinking = token !== this.thinking?.tags.close
    return true
  }

  dispose(): void {
    this.matcher.dispose()
  }
}

/** The package calls itself a module of the new kind and is one of the old: the build makes a copy. */
function load(): typeof Library {
  return createRequire(import.meta.url)('../xgrammar.cjs')
}
