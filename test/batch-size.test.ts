// How many answers a job has in work at once: what fits, and of that what the model of costs says is best.
import { describe, expect, it } from 'vitest'
import {
  bestBatch,
  type ExpertRoom,
  type MachineRates,
  type ModelSizes,
  type StepCost,
  stepCost,
  unionOf,
} from '../src/batch/cost.js'
import { batchSize } from '../src/batch/size.js'

/** More at once is always better. */
const better = (sequences: number): StepCost => ({
  tokensPerSecond: sequences,
  bound: 'drive',
  slots: 0,
})

describe('the size of a batch', () => {
  it('is what fits on average, and never more than there are answers', () => {
    expect(batchSize([10, 10], better, 1e6)).toEqual({
      sequences: 2,
      contextTokens: 10,
      kvTokens: 64,
    })
    // A long one among short ones: blocks are taken as answers grow, so 20 short ones stay beside it.
    const mixed = [1000, ...Array(20).fill(30)]
    expect(batchSize(mixed, better, 1024)).toEqual({
      sequences: 21,
      contextTokens: 1000,
      kvTokens: 1024,
    })
    expect(batchSize([], better, 0)).toEqual({ sequences: 1, contextTokens: 1, kvTokens: 32 })
  })

  it('is what was asked for, where that fits', () => {
    const needs = Array(100).fill(320)
    expect(batchSize(needs, 4, 1e6)).toMatchObject({ sequences: 4, kvTokens: 4 * 320 })
    expect(batchSize(needs, 50, 3200)).toMatchObject({ sequences: 20, kvTokens: 3200 })
  })

  it('leaves out what the model of costs finds worse', () => {
    const worse = (sequences: number) => ({ ...better(sequences), tokensPerSecond: 1 / sequences })
    expect(batchSize(Array(100).fill(320), worse, 1e6).sequences).toBe(1)
  })
})

/** Ring-1T's shape: 256 experts of 50 MB in each of 76 layers, 8 for a token. */
const large: ModelSizes = {
  moeLayers: 76,
  experts: 256,
  topK: 8,
  expertBytes: 50.3e6,
  denseBytes: 2e10,
}
const fast: MachineRates = { drive: 7e9, memory: 2e11, products: 2e12 }
const none: ExpertRoom = { kind: 'slots', slots: 0 }
const rateOf = (sequences: number, room: ExpertRoom = none, kvBytes = 0, machine = fast) =>
  stepCost(sequences, large, room, machine, kvBytes)

describe('the cost of a step', () => {
  it('reads each expert once: the union, which becomes the whole layer', () => {
    expect(unionOf(1, large)).toBeCloseTo(8, 9)
    expect(unionOf(4, large)).toBeCloseTo(30.5, 1)
    expect(unionOf(128, large)).toBeCloseTo(252, 0)
    // 30.6 GB at 7 GB/s.
    expect(rateOf(1)).toMatchObject({ bound: 'drive' })
    expect(rateOf(1).tokensPerSecond).toBeCloseTo(7 / 30.6, 2)
    expect(rateOf(1024).tokensPerSecond).toBeCloseTo(1024 / (979 / 7), 1)
  })

  it('is bound by what takes longest', () => {
    const all: ExpertRoom = { kind: 'memory' }
    expect(rateOf(1, all).bound).toBe('memory')
    expect(rateOf(512, all, 0, { ...fast, products: 1e11 }).bound).toBe('computing')
    expect(rateOf(64, { kind: 'slots', slots: 76 * 256 }).bound).not.toBe('drive')
  })

  it('counts what keys and values take from slots', () => {
    const room: ExpertRoom = { kind: 'left', bytes: 500e9, slotBytes: 50.4e6 }
    const [few, many] = [rateOf(64, room, 1e8), rateOf(64, room, 6e9)]
    expect(few.slots - many.slots).toBe(
      Math.floor((500e9 - 6.4e9) / 50.4e6) - Math.floor((500e9 - 384e9) / 50.4e6),
    )
    expect(many.tokensPerSecond).toBeLessThan(0.7 * few.tokensPerSecond)
  })
})

describe('the best batch', () => {
  it('is all that fits while the drive is what limits', () => {
    expect(bestBatch(256, (size) => rateOf(size))).toBeGreaterThan(220)
  })

  it('is no larger than it helps where computing limits', () => {
    const slow = { ...fast, products: 3e11 }
    const best = bestBatch(4096, (size) => rateOf(size, { kind: 'memory' }, 0, slow))
    expect(best).toBeLessThan(300)
    const rate = (size: number) => rateOf(size, { kind: 'memory' }, 0, slow).tokensPerSecond
    expect(rate(best)).toBeGreaterThanOrEqual(0.95 * rate(4096))
  })

  it('stays small where keys and values would displace the experts', () => {
    // All experts just fit; each sequence takes the slots of 40.
    const room: ExpertRoom = { kind: 'left', bytes: 985e9, slotBytes: 50.4e6 }
    const best = bestBatch(400, (size) => rateOf(size, room, 2e9))
    expect(best).toBeLessThan(100)
    expect(best).toBeGreaterThan(1)
  })
})
