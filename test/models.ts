// The smallest requests and batches.
import { PartField, Rows, SamplingField } from '../native/index.js'
import { kvBlockTokens } from '../src/engine/kv.js'
import { greedy } from '../src/engine/sampling.js'
import type { Request } from '../src/engine/sequence.js'

/** A greedy request that never stops early; fields may be replaced. */
export function requestOf(prompt: readonly number[], wishes: Partial<Request> = {}): Request {
  return {
    prompt: Int32Array.from(prompt),
    maxTokens: 0,
    stopIds: [],
    sampling: greedy,
    topLogprobs: 0,
    score: false,
    routing: false,
    ...wishes,
  }
}

/** One part of one sequence, greedy, as begin takes it. */
export function batchOf(tokens: readonly number[], slot = 0, position = 0) {
  const part = new Int32Array(PartField.count)
  const blocks = Math.ceil((position + tokens.length) / kvBlockTokens)
  part[PartField.tokens] = tokens.length
  part[PartField.position] = position
  part[PartField.rows] = Rows.last
  part[PartField.sequence] = slot
  part[PartField.blocks] = blocks
  part[PartField.target] = -1
  part[PartField.sampled] = 1
  const sampling = new Float64Array(SamplingField.count)
  sampling[SamplingField.top_p] = 1
  sampling[SamplingField.repetition] = 1
  return {
    parts: 1,
    part,
    tokens: Int32Array.from(tokens),
    blocks: Int32Array.from({ length: blocks }, (_, index) => index),
    sampling,
    history: new Int32Array(0),
    biasIds: new Int32Array(0),
    biasValues: new Float32Array(0),
    masks: new Uint32Array(0),
  }
}

/** Room for `rows` rows of results, without top lists. */
export function outcomeOf(rows: number) {
  return {
    next: new Int32Array(rows),
    logprobs: new Float32Array(rows),
    topCount: 0,
    topIds: new Int32Array(0),
    topLogprobs: new Float32Array(0),
  }
}
