// The batch of one step, in arrays that are filled again for every step. They grow when a step needs
// more than any before it, so that nothing is allocated once the engine is warm.
import { PartField, Rows, SamplingField } from '../../native/index.js'
import type { TokenGrammar } from './grammarseat.js'
import { greedy, needsHistory, packSampling } from './sampling.js'
import type { Sequence } from './sequence.js'
import type { LateBatch } from './step.js'

/** For masks that are not there when all else of a step is; their draws are then made by a later step. */
const masksPatienceMs = 20

/** What one sequence contributes to a step. */
export interface Share {
  readonly sequence: Sequence
  /** Of its pending tokens, how many are read. */
  readonly tokens: number
  readonly rows: Rows
  readonly sampled: boolean
}

/** Rows of logits that a share asks for. */
export function rowsOf(share: Share): number {
  return share.rows === Rows.all ? share.tokens : share.rows === Rows.last ? 1 : 0
}

/** What the next `tokens` pending tokens of a sequence need. */
export function shareOf(sequence: Sequence, tokens: number): Share {
  const sampled = sequence.drawsAfter(tokens)
  const rows = sequence.request.score ? Rows.all : sampled ? Rows.last : Rows.none
  return { sequence, tokens, rows, sampled }
}

export class StepBatch implements LateBatch {
  parts = 0
  part = new Int32Array(PartField.count)
  tokens = new Int32Array(1)
  blocks = new Int32Array(1)
  sampling = new Float64Array(SamplingField.count)
  history = new Int32Array(0)
  biasIds = new Int32Array(0)
  biasValues = new Float32Array(0)
  masks = new Uint32Array(0)
  looksAhead = false
  /** Whose masks are computed while the step is, and where in `masks` they belong. */
  readonly #grammars: TokenGrammar[] = []
  readonly #maskAt: number[] = []

  /** Replaces what was there by these shares. */
  fill(shares: readonly Share[]): void {
    this.#grow(shares)
    this.parts = 0
    this.#grammars.length = 0
    this.#maskAt.length = 0
    const at = { tokens: 0, blocks: 0, history: 0, biases: 0, masks: 0 }
    for (const share of shares) {
      const { sequence } = share
      this.#fillPart(share)
      this.tokens.set(pendingOf(share), at.tokens)
      at.tokens += share.tokens
      this.blocks.set(sequence.blocks, at.blocks)
      at.blocks += sequence.blocks.length
      this.#fillSampling(share, at)
      this.parts += 1
    }
  }

  lateMasks(): Uint32Array | null {
    if (this.#grammars.length === 0) return null
    const untilMs = performance.now() + masksPatienceMs
    for (const [index, grammar] of this.#grammars.entries()) {
      if (grammar.takes(untilMs)) this.masks.set(grammar.words, this.#maskAt[index])
    }
    return this.masks
  }

  #fillPart(share: Share): void {
    const { sequence } = share
    const end = sequence.computed + share.tokens
    const part = this.part.subarray(this.parts * PartField.count)
    part[PartField.tokens] = share.tokens
    part[PartField.position] = sequence.computed
    part[PartField.rows] = share.rows
    part[PartField.sequence] = sequence.slot
    part[PartField.blocks] = sequence.blocks.length
    part[PartField.target] = end < sequence.length ? (sequence.tokens[end] ?? -1) : -1
    part[PartField.sampled] = share.sampled ? 1 : 0
  }

  #fillSampling(share: Share, at: { history: number; biases: number; masks: number }): void {
    const { sequence } = share
    const { sampling } = sequence.request
    const { allowed } = sequence
    const record = this.sampling.subarray(
      this.parts * SamplingField.count,
      (this.parts + 1) * SamplingField.count,
    )
    packSampling(record, sampling, sequence.drawn)
    if (!share.sampled) record[SamplingField.biases] = 0
    if (!share.sampled) return
    if (sequence.forced >= 0) {
      this.#force(record, sequence, at)
      return
    }
    if (needsHistory(sampling)) {
      record[SamplingField.history] = sequence.length
      record[SamplingField.prompt] = sequence.promptLength
      this.history.set(sequence.tokens.subarray(0, sequence.length), at.history)
      at.history += sequence.length
    }
    for (const [id, value] of sampling.biases) {
      this.biasIds[at.biases] = id
      this.biasValues[at.biases] = value
      at.biases += 1
    }
    if (allowed !== undefined) {
      record[SamplingField.masked] = 1
      this.masks.set(allowed, at.masks)
      if (sequence.grammar?.isFree === false) {
        this.#grammars.push(sequence.grammar)
        this.#maskAt.push(at.masks)
      }
      at.masks += allowed.length
    }
  }

  /** The draw has one outcome, which no bias, penalty or mask of the request can change. */
  #force(record: Float64Array, sequence: Sequence, at: { biases: number }): void {
    packSampling(record, greedy, sequence.drawn)
    record[SamplingField.biases] = 1
    this.biasIds[at.biases] = sequence.forced
    this.biasValues[at.biases] = Number.POSITIVE_INFINITY
    at.biases += 1
  }

  #grow(shares: readonly Share[]): void {
    const need = { tokens: 0, blocks: 0, history: 0, biases: 0, masks: 0 }
    for (const { sequence, tokens } of shares) {
      need.tokens += tokens
      need.blocks += sequence.blocks.length
      need.history += needsHistory(sequence.request.sampling) ? sequence.length : 0
      need.biases += Math.max(1, sequence.request.sampling.biases.length)
      need.masks += sequence.allowed?.length ?? 0
    }
    const parts = shares.length
    if (this.part.length < parts * PartField.count) {
      this.part = new Int32Array(parts * PartField.count)
      this.sampling = new Float64Array(parts * SamplingField.count)
    }
    if (this.tokens.length < need.tokens) this.tokens = new Int32Array(need.tokens)
    if (this.blocks.length < need.blocks) this.blocks = new Int32Array(need.blocks)
    if (this.history.length < need.history) this.history = new Int32Array(2 * need.history)
    if (this.biasIds.length < need.biases) {
      this.biasIds = new Int32Array(need.biases)
      this.biasValues = new Float32Array(need.biases)
    }
    if (this.masks.length < need.masks) this.masks = new Uint32Array(need.masks)
  }
}

function pendingOf(share: Share): Int32Array {
  const { tokens, computed } = share.sequence
  return tokens.subarray(computed, computed + share.tokens)
}
