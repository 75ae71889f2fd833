// How far probabilities may be relied upon: in each of twenty bins of equal width, what was expected and
// what came. Knows nothing of experts.
import { bins } from './weights.js'

/** So many observations' worth of belief that a bin is right. */
const trust = 50

export class Reliability {
  /** [bin] observations, the sum of their probabilities, and how many came true */
  readonly observed = new Float64Array(bins)
  readonly expected = new Float64Array(bins)
  readonly came = new Float64Array(bins)

  add(probability: number, cameTrue: boolean): void {
    const bin = Math.max(0, Math.min(bins - 1, Math.floor(probability * bins)))
    this.observed[bin] = (this.observed[bin] ?? 0) + 1
    this.expected[bin] = (this.expected[bin] ?? 0) + probability
    this.came[bin] = (this.came[bin] ?? 0) + (cameTrue ? 1 : 0)
  }

  /** Expected calibration error, from 0 to 1: how far off bins are, weighted by observations; NaN without any. */
  error(): number {
    let off = 0
    let all = 0
    for (let bin = 0; bin < bins; bin += 1) {
      off += Math.abs((this.expected[bin] ?? 0) - (this.came[bin] ?? 0))
      all += this.observed[bin] ?? 0
    }
    return off / all
  }

  /** [bin] What is to be added at its middle, so that probabilities rise with what comes true. */
  corrections(): Float32Array {
    const truth = new Float64Array(bins)
    const weights = new Float64Array(bins)
    for (let bin = 0; bin < bins; bin += 1) {
      const weight = (this.observed[bin] ?? 0) + trust
      // Off by as much as the bin is on average: what was observed does not lie at its middle.
      truth[bin] = middleOf(bin) + ((this.came[bin] ?? 0) - (this.expected[bin] ?? 0)) / weight
      weights[bin] = weight
    }
    makeRising(truth, weights)
    return Float32Array.from(truth, (value, bin) => value - middleOf(bin))
  }
}

function middleOf(bin: number): number {
  return (bin + 0.5) / bins
}

/** Neighbours that fall are replaced by their weighted mean, until none fall. */
function makeRising(values: Float64Array, weights: Float64Array): void {
  const blocks: { sum: number; weight: number; length: number }[] = []
  for (const [at, value] of values.entries()) {
    const weight = weights[at] ?? 0
    let block = { sum: value * weight, weight, length: 1 }
    for (let last = blocks.at(-1); last !== undefined; last = blocks.at(-1)) {
      if (last.sum / last.weight <= block.sum / block.weight) break
      blocks.pop()
      block = {
        sum: last.sum + block.sum,
        weight: last.weight + block.weight,
        length: last.length + block.length,
      }
    }
    blocks.push(block)
  }
  let at = 0
  for (const { sum, weight, length } of blocks) {
    values.fill(sum / weight, at, at + length)
    at += length
  }
}
