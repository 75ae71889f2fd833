// The search for better settings, on machines that do not exist: each has a true speed for its settings,
// and noise, stalls and drift by a seed. What is found must be there, and what is not there must rarely
// be found.
import { describe, expect, it } from 'vitest'
import { contest, median, Noise } from '../src/engine/contest.js'
import { type Game, type Knob, search, type Trial } from '../src/engine/search.js'
import type { Settings } from '../src/engine/settings.js'
import { ModelError } from '../src/model/error.js'
import { randomFrom } from './random.js'

const seeds = 200

/** How a machine falls short of giving the same twice. */
interface Unrest {
  /** Standard deviation of the logarithm of a run's seconds. */
  readonly noise: number
  /** Of runs, so many take half as long again. */
  readonly stalls?: number
  /** Every run is slower by this share than the one before, until it turns. */
  readonly drift?: number
}

class Machine {
  runs = 0
  readonly noise = new Noise()
  readonly trials: Trial[] = []
  readonly #random: () => number

  constructor(
    /** Times as fast as at the start. */
    private readonly speedOf: (settings: Settings) => number,
    private readonly unrest: Unrest,
    seed: number,
  ) {
    this.#random = randomFrom(seed)
  }

  seconds(settings: Settings): number {
    const { noise, stalls = 0, drift = 0 } = this.unrest
    this.runs += 1
    const stalled = this.#random() < stalls ? 1.5 : 1
    const drifted = Math.exp(drift * (20 - Math.abs((this.runs % 40) - 20)))
    return (Math.exp(noise * this.#normal()) * stalled * drifted) / this.speedOf(settings)
  }

  async find(knobs: readonly Knob[], game: Partial<Game> = {}): Promise<Settings> {
    const alike = Array.from({ length: 6 }, () => this.seconds({}))
    this.noise.observe(alike)
    return search(knobs, {
      measure: async (settings) => this.seconds(settings),
      noise: this.noise,
      mayBegin: () => true,
      isOver: () => false,
      onBegin: () => {},
      onTrial: (trial) => this.trials.push(trial),
      ...game,
    })
  }

  #normal(): number {
    const radius = Math.sqrt(-2 * Math.log(1 - this.#random()))
    return radius * Math.cos(2 * Math.PI * this.#random())
  }
}

/** As many contests as a search for answers has on a large machine. */
const knobs: readonly Knob[] = [
  { name: 'threads', values: [16, 8, 15], start: 0, usual: 0, isLadder: false },
  { name: 'prefetch', values: ['auto', 'on', 'off'], start: 0, usual: 0, isLadder: false },
  { name: 'readDepth', values: [8, 16, 32, 64], start: 2, usual: 2, isLadder: true },
  { name: 'readChunk', values: [256, 512, 1024, 2048, 4096], start: 3, usual: 3, isLadder: true },
  { name: 'policy', values: ['auto', 'lfu', 'lru'], start: 0, usual: 0, isLadder: false },
]

/** Of machines with all seeds, the share whose search ends so. */
async function shareOf(
  speedOf: (settings: Settings) => number,
  unrest: Unrest,
  isSo: (found: Settings) => boolean,
): Promise<number> {
  let count = 0
  for (let seed = 1; seed <= seeds; seed += 1) {
    if (isSo(await new Machine(speedOf, unrest, seed).find(knobs))) count += 1
  }
  return count / seeds
}

const isNone = (found: Settings) => Object.keys(found).length === 0

describe('what is there', () => {
  const five = ({ prefetch }: Settings) => (prefetch === 'on' ? 1.05 : 1)

  it('5 % are found where runs alike differ by 1 %, and nothing beside', async () => {
    const share = await shareOf(five, { noise: 0.01 }, (found) => {
      return found.prefetch === 'on' && Object.keys(found).length === 1
    })
    expect(share).toBeGreaterThanOrEqual(0.95)
  })

  it('10 % are found where they differ by 3 %', async () => {
    const ten = ({ threads }: Settings) => (threads === 8 ? 1.1 : 1)
    const share = await shareOf(ten, { noise: 0.03 }, ({ threads }) => threads === 8)
    expect(share).toBeGreaterThanOrEqual(0.9)
  })

  it('10 % are found where one run in twenty stalls', async () => {
    const ten = ({ threads }: Settings) => (threads === 8 ? 1.1 : 1)
    const unrest = { noise: 0.01, stalls: 0.05 }
    expect(await shareOf(ten, unrest, ({ threads }) => threads === 8)).toBeGreaterThanOrEqual(0.8)
  })

  it('a start far from the best is left step by step, and what is usual comes first', async () => {
    const sizes = [256, 512, 1024, 2048, 4096, 8192]
    const best = sizes.indexOf(4096)
    const speed = ({ readChunk = 256 }: Settings) =>
      1.1 ** (best - Math.abs(best - sizes.indexOf(readChunk)))
    const machine = new Machine(speed, { noise: 0.005 }, 1)
    const chunk: Knob = { name: 'readChunk', values: sizes, start: 0, usual: 3, isLadder: true }
    expect(await machine.find([chunk])).toEqual({ readChunk: 4096 })
    expect(machine.trials.map(({ to }) => to)).toEqual([2048, 4096, 8192])
  })

  it('two that help are both kept, the second measured with the first', async () => {
    const speed = ({ threads, policy }: Settings) =>
      threads === 15 ? (policy === 'lru' ? 1.3 : 1.1) : policy === 'lru' ? 0.9 : 1
    expect(await new Machine(speed, { noise: 0.01 }, 1).find(knobs)).toEqual({
      threads: 15,
      policy: 'lru',
    })
  })
})

describe('what is not there', () => {
  it.each<[string, Unrest]>([
    ['runs alike differ by 1 %', { noise: 0.01 }],
    ['by 3 %', { noise: 0.03 }],
    ['by 8 %', { noise: 0.08 }],
    ['by 1 %, and one in twenty stalls', { noise: 0.01, stalls: 0.05 }],
    ['by 2 %, on a machine that grows slower and faster', { noise: 0.02, drift: 0.01 }],
  ])('is kept in at most 5 % of all searches where %s', async (_, unrest) => {
    const share = await shareOf(
      () => 1,
      unrest,
      (found) => !isNone(found),
    )
    expect(share).toBeLessThanOrEqual(0.05)
  })

  it('1 % is not worth a setting: at most 5 % of all searches keep one', async () => {
    const one = (settings: Settings) => 1.01 ** Object.keys(settings).length
    expect(await shareOf(one, { noise: 0.02 }, (found) => !isNone(found))).toBeLessThanOrEqual(0.05)
  })

  it('what only comes second is not faster', async () => {
    const noise = new Noise()
    noise.observe([1, 1, 1])
    let runs = 0
    // Every other run is a tenth faster, whoever runs.
    const run = async () => (runs++ % 2 === 0 ? 1.1 : 1)
    const { forward, reverse, isWon } = await contest(run, run, noise)
    expect(forward[0]).toBeCloseTo(1.1)
    expect(reverse[0]).toBeCloseTo(1 / 1.1)
    expect(isWon).toBe(false)
  })

  it('what is much slower costs one pair', async () => {
    const machine = new Machine(({ threads }) => (threads === 8 ? 0.5 : 1), { noise: 0.01 }, 1)
    const [threads] = knobs
    if (threads === undefined) throw new Error('no knob')
    expect(await machine.find([{ ...threads, values: [16, 8] }])).toEqual({})
    expect(machine.runs).toBe(6 + 2)
  })
})

describe('a search that ends early', () => {
  const two = ({ threads, prefetch }: Settings) =>
    (threads === 8 ? 1.2 : 1) * (prefetch === 'on' ? 1.2 : 1)

  it('keeps what was confirmed', async () => {
    const machine = new Machine(two, { noise: 0.01 }, 1)
    let isOver = false
    const found = await machine.find(knobs, {
      measure: async (settings) => {
        isOver = settings.prefetch !== undefined
        if (isOver) throw new Error('told to end')
        return machine.seconds(settings)
      },
      isOver: () => isOver,
    })
    expect(found).toEqual({ threads: 8 })
  })

  it('begins nothing where no time is left', async () => {
    const machine = new Machine(two, { noise: 0.01 }, 1)
    const found = await machine.find(knobs, { mayBegin: () => machine.trials.length < 1 })
    expect(found).toEqual({ threads: 8 })
    expect(machine.trials.length).toBe(1)
  })

  it('throws what is no end', async () => {
    const machine = new Machine(two, { noise: 0.01 }, 1)
    const measure = async () => {
      throw new ModelError('gone')
    }
    await expect(machine.find(knobs, { measure })).rejects.toThrow('gone')
  })
})

describe('a value that cannot be had', () => {
  it.each([1, 2, 3, 4])('is lost, with its reason, when run %i of it fails', async (failing) => {
    let runs = 0
    const machine = new Machine(({ threads }) => (threads === 8 ? 1.2 : 1), { noise: 0.01 }, 1)
    const measure = async (settings: Settings) => {
      if (settings.threads === 8) {
        runs += 1
        if (runs === failing) throw new ModelError('no memory for 8')
      }
      return machine.seconds(settings)
    }
    expect(await machine.find(knobs.slice(0, 1), { measure })).toEqual({})
    expect(machine.trials[0]).toMatchObject({ to: 8, isWon: false, refusal: 'no memory for 8' })
  })
})

describe('the noise', () => {
  it('is what neighbours differ by', () => {
    const random = randomFrom(1)
    const noise = new Noise()
    const uniform = () => Math.exp(0.04 * (random() - 0.5))
    noise.observe(Array.from({ length: 2000 }, uniform))
    // Of the difference of two uniform values of width w: w / sqrt(6); the trimmed estimate is made for
    // normal ones and differs by some per cent.
    expect(noise.deviation() / (0.04 / Math.sqrt(6))).toBeCloseTo(1, 0)
  })

  it('that is little known asks for more', () => {
    const [little, much] = [new Noise(), new Noise()]
    little.observe([1, 1.01, 1])
    much.observe(Array.from({ length: 400 }, (_, at) => 1 + 0.01 * (at % 2)))
    expect(little.bound()).toBeGreaterThan(2 * much.bound())
    expect(much.bound()).toBeCloseTo(2.83, 1)
  })

  it('has a median', () => {
    expect([median([3]), median([1, 4]), median([9, 1, 4]), median([])]).toEqual([
      ...[3, 2.5, 4, Number.NaN],
    ])
  })
})
