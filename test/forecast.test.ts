// The forecaster as whoever reads ahead calls it: what it makes of early scores, of what layers used, and of
// weights learned elsewhere; and the stand-ins that know, or are always wrong.
import { describe, expect, it } from 'vitest'
import { Learner } from '../dist/src/engine/learner.js'
import { fitWeights } from '../src/prefetch/fit.js'
import { Forecast, type ForecastShape, type Foresight } from '../src/prefetch/forecast.js'
import { learn } from '../src/prefetch/learn.js'
import { Lessons } from '../src/prefetch/lessons.js'
import { Reliability } from '../src/prefetch/reliability.js'
import { Published } from '../src/prefetch/weights.js'
import { Guesses } from '../src/simulate/foresightguesses.js'
import { AlwaysWrong, Oracle } from '../src/simulate/foretold.js'
import { foreseeAll, largeLayers, type MadeLayer, madeTokens, recordsOf } from './earlyscores.js'
import { randomFrom } from './random.js'

const small: ForecastShape = {
  moeLayers: 3,
  experts: 16,
  topK: 2,
  groups: 1,
  groupsKept: 1,
  distances: [1, 2],
}

function best(values: Float32Array, count: number): number[] {
  const order = [...values.keys()].sort((a, b) => (values[b] ?? 0) - (values[a] ?? 0))
  return order.slice(0, count)
}

/** Shares of what was chosen that are among 1, 2 and 4 times as many candidates. */
class Recall {
  readonly #found = [0, 0, 0]
  #chosen = 0

  add(values: Float32Array, { chosen }: MadeLayer): void {
    const order = best(values, 4 * chosen.length)
    for (const [width, times] of [1, 2, 4].entries()) {
      const found = order.slice(0, times * chosen.length).filter((one) => chosen.includes(one))
      this.#found[width] = (this.#found[width] ?? 0) + found.length
    }
    this.#chosen += chosen.length
  }

  get shares(): number[] {
    expect(this.#chosen).toBeGreaterThan(0)
    return this.#found.map((found) => found / this.#chosen)
  }
}

/** Lets a step of one token pass through all layers. */
function pass(foresight: Foresight, id: number, chosen: readonly (readonly number[])[]): void {
  foresight.begin(Int32Array.of(id))
  for (const [moeLayer, indices] of chosen.entries()) {
    const records = recordsOf(moeLayer, indices, small.experts)
    foresight.used(moeLayer, records, indices.length, 1)
  }
}

describe('from early scores', () => {
  const made = madeTokens(7, 100)

  it.each([0, 1, 2])(
    'candidates beat those of groups that are cut off hard, at distance %d',
    (at) => {
      const guesses = new Guesses(largeLayers, null)
      const [soft, hard] = [new Recall(), new Recall()]
      foreseeAll(new Forecast(largeLayers), made, (place, probabilities, layer) => {
        if (place !== at) return
        soft.add(probabilities, layer)
        hard.add(guesses.gate(layer.early[at] ?? probabilities, 0), layer)
      })
      const [, twice = 0, fourTimes = 0] = soft.shares
      const [, hardTwice = 0, hardFourTimes = 0] = hard.shares
      expect(twice).toBeGreaterThan(hardTwice)
      expect(fourTimes).toBeGreaterThan(hardFourTimes + 0.05)
    },
  )

  /** How far off the probabilities are at each distance. */
  function errorsOf(forecast: Forecast, tokens: readonly (readonly MadeLayer[])[]): number[] {
    const tables = largeLayers.distances.map(() => new Reliability())
    foreseeAll(forecast, tokens, (at, probabilities, layer) => {
      if (at === null) return
      for (const index of best(probabilities, 64)) {
        tables[at]?.add(probabilities[index] ?? 0, layer.chosen.includes(index))
      }
    })
    return tables.map((table) => table.error())
  }

  it('probabilities can be relied upon, once some hundred tokens were lessons, of a sequence not seen yet', () => {
    const [fresh, learned] = [
      new Forecast(largeLayers),
      new Forecast(largeLayers, { tokensPerFit: 40 }),
    ]
    errorsOf(learned, madeTokens(8, 120))
    for (const error of errorsOf(learned, madeTokens(12, 80))) expect(error).toBeLessThan(0.03)
    // The first weights serve models of every size, and are no more than near.
    for (const error of errorsOf(fresh, madeTokens(12, 80))) expect(error).toBeLessThan(0.05)
  })

  it('of several tokens a layer wants an expert if any of them does', () => {
    const [forecast, other] = [new Forecast(largeLayers), new Forecast(largeLayers)]
    const scores = made.slice(0, 3).map((layers) => layers[2]?.early[0] ?? new Float32Array(256))
    const none = new Float64Array(256).fill(1)
    for (const one of scores) {
      forecast.begin(Int32Array.of(1))
      for (const [index, probability] of forecast.early(2, 0, one, 1, false).entries()) {
        none[index] = (none[index] ?? 0) * (1 - probability)
      }
    }
    const joined = new Float32Array(3 * 256)
    for (const [token, one] of scores.entries()) joined.set(one, 256 * token)
    other.begin(Int32Array.of(1, 1, 1))
    const any = other.early(2, 0, joined, 3, false)
    for (const [index, probability] of any.entries()) {
      expect(probability).toBeCloseTo(1 - (none[index] ?? 0), 5)
    }
  })

  it('that are no numbers every expert gets a probability all the same', () => {
    const forecast = new Forecast(small)
    forecast.begin(Int32Array.of(1))
    const scores = new Float32Array(16).fill(Number.NaN)
    for (const probability of forecast.early(1, 0, scores, 1, false)) {
      expect(probability).toBeGreaterThan(0)
      expect(probability).toBeLessThan(0.5)
    }
  })

  it('follow the bias by which the router chooses', () => {
    const bias = new Float32Array(48)
    bias[16 + 5] = 1
    const scores = Float32Array.from({ length: 16 }, (_, index) => 0.1 + index / 100)
    const [plain, biased] = [new Forecast(small), new Forecast(small, { bias })].map((forecast) => {
      forecast.begin(Int32Array.of(1))
      return forecast.early(1, 0, scores, 1, false)[5] ?? 0
    })
    expect(plain).toBeLessThan(0.2)
    expect(biased).toBeGreaterThan(0.5)
  })
})

describe('priors', () => {
  it('rise for what was used by the last tokens', () => {
    const forecast = new Forecast(small)
    for (let token = 0; token < 5; token += 1)
      pass(forecast, -1, [
        [1, 2],
        [3, 4],
        [5, 6],
      ])
    forecast.begin(Int32Array.of(-1))
    expect(best(forecast.prior(0), 2).sort()).toEqual([1, 2])
    expect(best(forecast.prior(2), 2).sort()).toEqual([5, 6])
  })

  it('rise for what follows what the layer before has used in this step', () => {
    const forecast = new Forecast(small)
    const random = randomFrom(2)
    for (let token = 0; token < 100; token += 1) {
      pass(
        forecast,
        -1,
        random() < 0.5
          ? [
              [1, 2],
              [3, 4],
              [5, 6],
            ]
          : [
              [7, 8],
              [9, 10],
              [11, 12],
            ],
      )
    }
    for (const [used, next] of [
      [
        [1, 2],
        [3, 4],
      ],
      [
        [7, 8],
        [9, 10],
      ],
    ] as const) {
      forecast.begin(Int32Array.of(-1))
      forecast.used(0, recordsOf(0, used, small.experts), 2, 1)
      expect(best(forecast.prior(1), 2).sort()).toEqual([...next].sort())
    }
  })

  it('rise for what this token wanted before, in the first layer', () => {
    const forecast = new Forecast(small)
    const random = randomFrom(3)
    const wants = [0, 1, 2, 3].map((id) => [2 * id, 2 * id + 1])
    for (let token = 0; token < 200; token += 1) {
      const id = Math.floor(4 * random())
      pass(forecast, id, [wants[id] ?? [], [0, 1], [0, 1]])
    }
    for (const [id, wanted] of wants.entries()) {
      forecast.begin(Int32Array.of(id))
      expect(best(forecast.prior(0), 2).sort((a, b) => a - b)).toEqual(wanted)
    }
  })
})

describe('learning', () => {
  // What scores say is the opposite of what is chosen.
  const wrongly = (layer: MadeLayer): MadeLayer => ({
    ...layer,
    early: layer.early.map((scores) => scores.map((score) => 1 - score)),
  })
  const reversed = madeTokens(9, 200).map((layers) => layers.map(wrongly))

  function recallOf(forecast: Forecast, tokens: readonly (readonly MadeLayer[])[]): number {
    const recall = new Recall()
    foreseeAll(forecast, tokens, (at, probabilities, layer) => {
      if (at === 0) recall.add(probabilities, layer)
    })
    return recall.shares[2] ?? 0
  }

  it('unlearns what is wrong within some hundred tokens, from lessons of its own', () => {
    const [fixed, learning] = [
      new Forecast(largeLayers),
      new Forecast(largeLayers, { tokensPerFit: 50 }),
    ]
    for (const forecast of [fixed, learning]) recallOf(forecast, reversed.slice(0, 150))
    const off = (forecast: Forecast) => {
      const table = new Reliability()
      foreseeAll(forecast, reversed.slice(150), (at, probabilities, layer) => {
        if (at !== 0) return
        for (const index of best(probabilities, 48)) {
          table.add(probabilities[index] ?? 0, layer.chosen.includes(index))
        }
      })
      return table.error()
    }
    expect(off(fixed)).toBeGreaterThan(0.05)
    expect(off(learning)).toBeLessThan(0.03)
  })

  it('elsewhere is taken over when a step begins, and tells how far off it was', () => {
    const forecast = new Forecast(largeLayers)
    recallOf(forecast, reversed.slice(0, 50))
    expect(forecast.calibration(0)).toBeNaN()
    const scores = reversed[50]?.[1]?.early[0] ?? new Float32Array(256)
    const now = () => [...forecast.early(1, 0, scores, 1, false)]
    forecast.begin(Int32Array.of(-1))
    const before = now()
    // What the learning thread does.
    const versions = [learn(forecast.memory), learn(forecast.memory)]
    expect(versions[1]).toBe((versions[0] ?? 0) + 1)
    expect(now()).toEqual(before)
    forecast.begin(Int32Array.of(-1))
    expect(now()).not.toEqual(before)
    expect(forecast.calibration(0)).toBeGreaterThan(0.05)
    expect(forecast.calibration(0)).toBeLessThan(1)
  })
})

describe('stand-ins', () => {
  const truth = (step: number, moeLayer: number) => [step % 16, (step + moeLayer + 1) % 16]

  it('know everything, or nothing', () => {
    const [oracle, wrong] = [new Oracle(16, truth), new AlwaysWrong(16, truth)]
    for (let step = 0; step < 40; step += 1) {
      for (const foresight of [oracle, wrong]) foresight.begin()
      for (let moeLayer = 0; moeLayer < 3; moeLayer += 1) {
        const wanted = truth(step, moeLayer)
        const certain = (values: Float32Array) => best(values, 2).filter((one) => values[one] === 1)
        expect(certain(oracle.early(moeLayer)).sort()).toEqual([...wanted].sort())
        expect(certain(wrong.prior(moeLayer))).toHaveLength(2)
        expect(certain(wrong.early(moeLayer)).filter((one) => wanted.includes(one))).toEqual([])
      }
    }
  })
})

describe('a learning thread', () => {
  it('learns what the same call would, from memory that both share', async () => {
    const forecast = new Forecast(largeLayers)
    foreseeAll(forecast, madeTokens(10, 40), () => {})
    const { kinds, length, lessons, weights } = forecast.memory
    const before = new Float32Array(length)
    new Published(length, weights).take(before)
    const expected = fitWeights(new Lessons(lessons).latest(), before, kinds)
    const published = new Published(length, weights)
    const { version } = published
    const learner = new Learner(forecast.memory)
    try {
      learner.learn()
      await expect.poll(() => published.version, { timeout: 20_000 }).toBe(version + 1)
    } finally {
      await learner.close()
    }
    const after = new Float32Array(length)
    new Published(length, weights).take(after)
    expect(after).toEqual(expected)
    expect(after).not.toEqual(before)
  })
})
