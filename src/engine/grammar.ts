// What may be drawn next where an answer must be JSON of a given shape: schemas compiled for one model's
// vocabulary, and a matcher for each sequence. The library behind it is WebAssembly with a face of promises
// that resolve within one turn of microtasks. A schema that the library dislikes ends its memory for good,
// and with it that of everybody in its thread; so it has threads of its own (grammarthread.ts), and
// schemas come here checked (see the server). It knows ids and bytes, and nothing of steps or of HTTP.
import { createRequire } from 'node:module'
import type * as Library from '@mlc-ai/web-xgrammar'
import { ModelError } from '../model/error.js'
import type { ThinkingTags } from '../model/thinkingtags.js'
import { readVocabulary } from '../model/vocabulary.js'

/** What is asked for one answer. */
export interface GrammarWish {
  /** A JSON schema, as text, all of which the library keeps. */
  readonly schema: string
  /** What may be thought before the JSON is free; null: nothing is thought. */
  readonly thinking: { readonly tags: ThinkingTags; readonly startsInside: boolean } | null
}

/** Compiled grammars that are kept; one has some hundred kilobytes. */
export const grammarsKept = 8

/** Grammars over one model's vocabulary. */
export class Grammars {
  readonly #kept = new Map<string, Library.CompiledGrammar>()

  private constructor(
    private readonly library: typeof Library,
    private readonly compiler: Library.GrammarCompiler,
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
    return new Grammars(library, compiler)
  }

  /** Throws what the library throws where it cannot follow the schema. */
  async matcher(schema: string, stopIds: readonly number[]): Promise<TokenMatcher> {
    const compiled = await this.#compiled(schema)
    return new TokenMatcher(
      await this.library.GrammarMatcher.createGrammarMatcher(compiled, [...stopIds]),
    )
  }

  async #compiled(schema: string): Promise<Library.CompiledGrammar> {
    const kept = this.#kept.get(schema)
    this.#kept.delete(schema)
    // One line, with one space behind commas and colons: white space without end would be JSON too.
    const compiled =
      kept ?? (await this.compiler.compileJSONSchema(schema, false, -1, [', ', ': '], false))
    this.#kept.set(schema, compiled)
    const [oldest] = this.#kept.keys()
    if (this.#kept.size > grammarsKept && oldest !== undefined) {
      this.#kept.get(oldest)?.dispose()
      this.#kept.delete(oldest)
    }
    return compiled
  }
}

/** Follows one answer. */
export class TokenMatcher {
  constructor(private readonly matcher: Library.GrammarMatcher) {}

  /** One bit for each id that may come next; none where the answer is complete. */
  async fill(mask: Uint32Array): Promise<void> {
    // The library must not be asked what comes after an end.
    if (this.matcher.isTerminated()) mask.fill(0)
    else mask.set(await this.matcher.getNextTokenBitmask())
  }

  /** Takes a token; false: the grammar excludes it. */
  accept(token: number): boolean {
    return !this.matcher.isTerminated() && this.matcher.acceptToken(token)
  }

  dispose(): void {
    this.matcher.dispose()
  }
}

/** The package calls itself a module of the new kind and is one of the old: the build makes a copy. */
function load(): typeof Library {
  return createRequire(import.meta.url)('../xgrammar.cjs')
}
