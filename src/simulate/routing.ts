// What a trace says, ready to be walked: which experts each token was routed to, in every MoE layer.
// The large array lies in shared memory, so that threads which judge policies read one copy; scores
// stay in the trace file, where the few policies that ask for them read on (see scores.ts).
import { type Expert, expertOf } from '../cache/place.js'
import { UseField } from '../cache/records.js'
import { unorderedTokens } from '../cache/slotcache.js'
import type { ScorePlace } from './scores.js'

/** Stands where a trace says nothing of a token's layer. */
export const nobody = 0xffff

export interface RoutedSequence {
  /** Index of its first token among all of the trace. */
  readonly first: number
  readonly tokens: number
  /** The first so many tokens are its prompt. */
  readonly prompt: number
}

export interface Routing {
  /** How a person named the trace. */
  readonly name: string
  readonly model: string
  /** Index of each MoE layer in the model. */
  readonly layers: readonly number[]
  readonly experts: number
  readonly topK: number
  readonly sequences: readonly RoutedSequence[]
  /** In a prompt a layer wants the experts of all tokens at once; or those of one token after another. */
  readonly isPromptJoint: boolean
  /** [token][MoE layer][topK], best first */
  readonly ids: Uint16Array
  readonly scores: ScorePlace | null
}

/** One layer wants experts, for one token or for all of a prompt. The arrays are filled again by the next. */
export interface Visit {
  moeLayer: number
  firstToken: number
  tokens: number
  isPrompt: boolean
  /** So many tokens that the engine would take it as a sweep. */
  isSweep: boolean
  /** How many experts are wanted. */
  count: number
  /** The wanted experts: of one token best first, of several in rising index. */
  readonly wanted: Int32Array
  /** Records [expert, tokens] of the same, rising, as policies hear them. */
  readonly uses: Int32Array
}

/** Tokens of all sequences. */
export function tokensOf({ sequences }: Routing): number {
  return sequences.reduce((sum, { tokens }) => sum + tokens, 0)
}

/** Tokens that came one at a time. */
export function decodeTokensOf({ sequences }: Routing): number {
  return sequences.reduce((sum, { tokens, prompt }) => sum + tokens - prompt, 0)
}

/** Calls for every layer of every step, in the order in which an engine would come to them. */
export function walk(routing: Routing, see: (visit: Visit) => void): void {
  const gathering = new Gathering(routing, see)
  for (const { first, tokens, prompt } of routing.sequences) {
    gathering.prompt(first, prompt)
    for (let token = first + prompt; token < first + tokens; token += 1) gathering.token(token)
  }
}

class Gathering {
  readonly #visit: Visit
  readonly #routing: Routing
  /** [expert of the layer] tokens that want it */
  readonly #counts: Int32Array

  constructor(
    routing: Routing,
    private readonly see: (visit: Visit) => void,
  ) {
    this.#routing = routing
    this.#counts = new Int32Array(routing.experts)
    this.#visit = {
      moeLayer: 0,
      firstToken: 0,
      tokens: 0,
      isPrompt: false,
      isSweep: false,
      count: 0,
      wanted: new Int32Array(routing.experts),
      uses: new Int32Array(routing.experts * UseField.count),
    }
  }

  /** Layer after layer. */
  prompt(first: number, tokens: number): void {
    if (tokens === 0) return
    const piece = this.#routing.isPromptJoint ? tokens : 1
    for (const moeLayer of this.#routing.layers.keys()) {
      for (let token = first; token < first + tokens; token += piece) {
        this.#layer(moeLayer, token, piece, true)
      }
    }
  }

  token(token: number): void {
    for (const moeLayer of this.#routing.layers.keys()) this.#layer(moeLayer, token, 1, false)
  }

  #layer(moeLayer: number, first: number, tokens: number, isPrompt: boolean): void {
    const visit = this.#visit
    visit.moeLayer = moeLayer
    visit.firstToken = first
    visit.tokens = tokens
    visit.isPrompt = isPrompt
    visit.isSweep = tokens > unorderedTokens
    visit.count = this.#gather(moeLayer, first, tokens)
    this.#list(moeLayer)
    if (visit.count > 0) this.see(visit)
  }

  /** Counts tokens by expert, and notes experts as they come. Returns how many there are. */
  #gather(moeLayer: number, first: number, tokens: number): number {
    const { ids, layers, topK, experts } = this.#routing
    let count = 0
    for (let token = first; token < first + tokens; token += 1) {
      const start = (token * layers.length + moeLayer) * topK
      for (let at = start; at < start + topK; at += 1) {
        const index = ids[at] ?? nobody
        if (index === nobody) continue
        const earlier = this.#counts[index] ?? 0
        if (earlier === 0) this.#visit.wanted[count++] = expertOf(moeLayer, index, experts)
        this.#counts[index] = earlier + 1
      }
    }
    return count
  }

  /** Makes the rising records of the experts noted, and forgets the counts. */
  #list(moeLayer: number): void {
    const { wanted, uses, count, tokens } = this.#visit
    const first = expertOf(moeLayer, 0, this.#routing.experts)
    const rising = wanted.slice(0, count).sort()
    for (const [at, expert] of rising.entries()) {
      uses[at * UseField.count + UseField.expert] = expert
      uses[at * UseField.count + UseField.tokens] = this.#counts[expert - first] ?? 0
      this.#counts[expert - first] = 0
    }
    if (tokens > 1) wanted.set(rising)
  }
}

/** The visit's wanted experts one by one. */
export function wantedAt({ wanted }: Visit, at: number): Expert {
  return (wanted[at] ?? -1) as Expert
}
