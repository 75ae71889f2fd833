// What the grammar thread does: it compiles a schema as the engine's thread will, so that one that
// cannot be compiled, or not in time, harms this thread only. Piscina calls it.
import { workerData } from 'node:worker_threads'
import { Grammars, type GrammarWish } from '../engine/grammar.js'
import { ModelError } from '../model/error.js'

/** The model that answers. */
export interface GrammarModel {
  readonly folder: string
  readonly vocabulary: number
  readonly stopIds: readonly number[]
}

const { folder, vocabulary, stopIds } = workerData as GrammarModel

let grammars: Grammars | null = null

/** Why it cannot be followed, or null. */
export default async function tryGrammar(wish: GrammarWish): Promise<string | null> {
  try {
    grammars ??= await Grammars.open(folder, vocabulary)
    const matcher = await grammars.matcher({ ...wish, thinking: null }, stopIds)
    await matcher.read()
    const canBegin = matcher.mask?.some((word) => word !== 0) === true
    matcher.dispose()
    return canBegin ? null : 'allows no answer'
  } catch (error) {
    // After a failure the library's memory is not to be trusted.
    grammars = null
    return error instanceof ModelError ? error.message : 'cannot be followed by this server'
  }
}
