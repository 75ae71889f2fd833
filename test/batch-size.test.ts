// How many answers a job has in work at once: what fits, what of that the model of costs says is best, and
// what is found by trying, on machines that do not exist, in computed time with noise.
import { describe, expect, it } from 'vitest'
import { type BatchSize, batchSize, bestBatch, type RateOf } from '../src/batch/size.js'
import { Width } from '../src/engine/width.js'
import { randomFrom } from './random.js'

/** More at once is always better. */
const better: RateOf = (sequences) => sequences

describe('the size of a batch', () => {
  it('is what fits on average, and never more than there are answers', () => {
    expect(batchSize([10, 10], better, 1e6)).toEqual({
      ...{ sequences: 2, atFirst: 2 },
      contextTokens: 10,
      kvTokens: 64,
    })
    // A long one among short ones: blocks are taken as answers grow, so 20 short ones stay beside it.
    const mixed = [1000, ...Array(20).fill(30)]
    expect(batchSize(mixed, better, 1024)).toEqual({
      ...{ sequences: 21, atFirst: 21 },
      contextTokens: 1000,
      kvTokens: 1024,
    })
    expect(batchSize([], better, 0)).toMatchObject({ sequences: 1, contextTokens: 1, kvTokens: 32 })
  })

  it('is what was asked for, where that fits, and nothing else is tried', () => {
    const needs = Array(100).fill(320)
    const asked = { atFirst: null, kvTokens: 4 * 320 }
    expect(batchSize(needs, 4, 1e6)).toMatchObject({ sequences: 4, ...asked })
    expect(batchSize(needs, 50, 3200)).toMatchObject({ sequences: 20, kvTokens: 3200 })
  })

  it('leaves out what the model of costs finds worse', () => {
    const worse = (sequences: number) => 1 / sequences
    expect(batchSize(Array(100).fill(320), worse, 1e6).atFirst).toBe(2)
  })

  it('leaves room for trying twice as many, where that room takes little from the experts', () => {
    const needs = Array(400).fill(320)
    const most = (taken: (opened: BatchSize) => number) =>
      batchSize(needs, (many, opened) => Math.min(many, 64) * (1 - taken(opened)), 1e6)
    expect(most(() => 0)).toMatchObject({ sequences: 128, atFirst: 64 })
    // Room for 96 costs a fortieth, for 128 a twentieth.
    const dear = ({ kvTokens }: BatchSize) => Math.max(0, kvTokens / 352 - 64) / 64 / 20
    expect(most(dear)).toMatchObject({ sequences: 96, atFirst: 64 })
  })

  it('is the fewest that come near the best', () => {
    const rate = (sequences: number) => sequences / (sequences + 10)
    const best = bestBatch(512, rate)
    expect(rate(best)).toBeGreaterThanOrEqual(0.95 * rate(512))
    expect(best).toBeLessThan(256)
    expect(bestBatch(512, (sequences) => sequences)).toBe(512)
    expect(bestBatch(1, () => 0)).toBe(1)
  })
})

interface Unrest {
  /** Standard deviation of the logarithm of a step's seconds. */
  readonly noise?: number
  /** Of steps, so many take five times as long. */
  readonly stalls?: number
  /** Tokens of an answer, on average, whose prompts have 30. */
  readonly answer?: number
  /** Positions of a sequence. */
  readonly positions?: number
}

/** A job without end on a machine whose step of so many sequences takes so long. */
class Machine {
  readonly width: Width
  readonly #random: () => number
  #running = 0
  #paused = 0

  constructor(
    private readonly secondsOf: (sequences: number) => number,
    [atFirst, most]: readonly [number, number],
    seed: number,
  ) {
    this.width = new Width(atFirst, most)
    this.#random = randomFrom(seed)
  }

  run(steps: number, unrest: Unrest = {}, unfinished = Number.POSITIVE_INFINITY): Width {
    for (let step = 0; step < steps; step += 1) this.#step(unrest, unfinished)
    return this.width
  }

  #step(
    { noise = 0.05, stalls = 0, answer = 400, positions = 300 }: Unrest,
    unfinished: number,
  ): void {
    const { wish, holdsPrompts } = this.width
    const held = this.#running + this.#paused
    const admitted = holdsPrompts && held > 0 ? 0 : Math.max(0, Math.min(wish, unfinished) - held)
    this.#running = Math.min(wish, held + admitted)
    this.#paused = held + admitted - this.#running
    const stalled = this.#random() < stalls ? 5 : 1
    const seconds = this.secondsOf(this.#running) + 1e-3 * 30 * admitted
    const tokens = this.#running + 30 * admitted
    const taken = seconds * stalled * Math.exp(noise * this.#normal())
    this.width.took(this.#running, tokens, this.#running * positions, taken)
    for (let one = this.#running; one > 0; one -= 1)
      if (this.#random() < 1 / answer) this.#running -= 1
  }

  #normal(): number {
    const radius = Math.sqrt(-2 * Math.log(1 - this.#random()))
    return radius * Math.cos(2 * Math.PI * this.#random())
  }
}

const seeds = Array.from({ length: 60 }, (_, seed) => seed + 1)

/** Of all seeds, the share for which it is so. */
function shareOf(isSo: (seed: number) => boolean): number {
  return seeds.filter(isSo).length / seeds.length
}

/** A step reads most of a layer however many want it: more is better, up to all there is room for. */
const reading = (sequences: number) => 1 + 0.004 * sequences
/** Beyond 48, what more sequences take from memory costs more than it gives. */
const crowded = (sequences: number) => 1 + 0.004 * sequences + Math.max(0, sequences - 48) * 0.04
/** As fast with any number. */
const level = (sequences: number) => 0.05 * sequences

describe('how many are best', () => {
  it.each<[string, Unrest]>([
    ['answers are long', {}],
    ['an answer ends in most steps', { answer: 40 }],
    ['some steps stall', { stalls: 0.02 }],
    ['no step is like the one before', { noise: 0.15 }],
  ])('is found from below, where %s', (_, unrest) => {
    const found = shareOf((seed) => {
      const width = new Machine(reading, [32, 128], seed).run(1500, unrest)
      return width.best >= 108 && width.isSettled
    })
    expect(found).toBeGreaterThanOrEqual(0.9)
  })

  it('is found from above', () => {
    const found = shareOf((seed) => {
      const width = new Machine(crowded, [96, 192], seed).run(1500)
      return width.best >= 42 && width.best <= 64 && width.isSettled
    })
    expect(found).toBeGreaterThanOrEqual(0.9)
  })

  it('stays as it is where nothing is better', () => {
    const moved = shareOf((seed) => new Machine(level, [64, 128], seed).run(1500).changes > 0)
    expect(moved).toBeLessThanOrEqual(0.05)
  })

  it('is told with how much faster it is', () => {
    const { speed, best, trials, changes } = new Machine(reading, [32, 128], 1).run(1500)
    const rate = (sequences: number) => sequences / reading(sequences)
    expect(speed).toBeCloseTo(rate(best) / rate(32), 0)
    expect(trials).toBeGreaterThanOrEqual(changes)
    expect(changes).toBeGreaterThan(2)
  })

  it('is settled by itself where a step has only one', () => {
    const width = new Machine(reading, [1, 1], 1).run(10)
    expect([width.wish, width.trials, width.isSettled, width.holdsPrompts]).toEqual([
      1,
      0,
      true,
      false,
    ])
  })

  it('is as it was where there are not so many, or answers end too soon to be measured', () => {
    const few = new Machine(reading, [64, 128], 1).run(400, {}, 20)
    expect([few.wish, few.isSettled, few.trials]).toEqual([64, true, 0])
    const short = new Machine(reading, [64, 128], 1).run(400, { answer: 2 })
    expect([short.wish, short.isSettled, short.holdsPrompts]).toEqual([64, true, false])
  })

  it('is tried anew when sequences have become another kind', () => {
    const machine = new Machine(reading, [32, 64], 1)
    const { trials } = machine.run(1000)
    expect(machine.run(1000).trials).toBe(trials)
    machine.run(1000, { positions: 3000 })
    expect(machine.width.trials).toBeGreaterThan(trials)
    expect(machine.width.isSettled).toBe(true)
  })
})
