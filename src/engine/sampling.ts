// How a sequence draws its tokens, and how that record is packed for the device. The draws of a
// sequence are numbered, so its tokens depend on its own seed and text and on nothing else.
import { SamplingField } from '../../native/index.js'

/** Absent fields of a wish take the neutral value. */
export interface Sampling {
  /** 0: greedy. */
  readonly temperature: number
  /** 0: off. */
  readonly topK: number
  /** 1: off. */
  readonly topP: number
  /** 0: off. */
  readonly minP: number
  /** 1: off. Divides positive and multiplies negative logits of every token seen so far. */
  readonly repetitionPenalty: number
  /** 0: off. Subtracted once from tokens already drawn. */
  readonly presencePenalty: number
  /** 0: off. Subtracted as often as a token was drawn. */
  readonly frequencyPenalty: number
  /** 64 bits. */
  readonly seed: bigint
  /** Added to logits: [token id, value]. */
  readonly biases: readonly (readonly [number, number])[]
}

export const greedy: Sampling = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  presencePenalty: 0,
  frequencyPenalty: 0,
  seed: 0n,
  biases: [],
}

/** Whether the device needs the sequence's tokens so far. */
export function needsHistory(sampling: Sampling): boolean {
  return (
    sampling.repetitionPenalty !== 1 ||
    sampling.presencePenalty !== 0 ||
    sampling.frequencyPenalty !== 0
  )
}

/** Writes the record of one part, [SamplingField.count]; list lengths are the caller's. */
export function packSampling(record: Float64Array, sampling: Sampling, draw: number): void {
  record[SamplingField.temperature] = sampling.temperature
  record[SamplingField.top_k] = sampling.topK
  record[SamplingField.top_p] = sampling.topP
  record[SamplingField.min_p] = sampling.minP
  record[SamplingField.repetition] = sampling.repetitionPenalty
  record[SamplingField.presence] = sampling.presencePenalty
  record[SamplingField.frequency] = sampling.frequencyPenalty
  record[SamplingField.seed_low] = Number(BigInt.asUintN(32, sampling.seed))
  record[SamplingField.seed_high] = Number(BigInt.asUintN(32, sampling.seed >> 32n))
  record[SamplingField.position] = draw
  record[SamplingField.history] = 0
  record[SamplingField.prompt] = 0
  record[SamplingField.biases] = sampling.biases.length
  record[SamplingField.masked] = 0
}
