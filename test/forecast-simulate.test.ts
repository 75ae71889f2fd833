// What `simulate` says of foresight, on a recorded trace with early scores: that the probe is right, that
// the forecast beats simpler guesses, and that shares are counted as they are named.
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { foresight } from '../src/cli/foresight.js'
import { type Foreseen, foresee } from '../src/simulate/foresight.js'
import { plainRouters, readRouters } from '../src/simulate/foresightrouter.js'
import { Tally } from '../src/simulate/foresighttally.js'
import { ScoreReader } from '../src/simulate/scores.js'
import { readRouting } from '../src/simulate/source.js'
import { tokenIdsOf } from '../src/simulate/tracefile.js'
import { edge, fixtures, ringTiny } from './paths.js'

const trace = join(fixtures, 'traces/ring-tiny-ahead.trace')
const gptoss = join(fixtures, 'traces/public/gptoss.route.csv')
const routing = readRouting(trace)
const tokenIds = tokenIdsOf(routing)
const rows = foresee(routing, tokenIds, readRouters(ringTiny, routing))

function rowOf(guess: Foreseen['guess'], distance: number | null, of = rows): Foreseen {
  const found = of.find((row) => row.guess === guess && row.distance === distance)
  if (found === undefined) throw new Error(`no ${guess} at ${distance}`)
  return found
}

function recallOf(guess: Foreseen['guess'], distance: number | null): number[] {
  return rowOf(guess, distance)
    .tally.total()
    .recall.map((share) => share ?? 0)
}

describe('the recorded early scores', () => {
  it('hold, at distance 0 and with bias and groups, exactly what was chosen', () => {
    const { recall, weight } = rowOf('control', 0).tally.total()
    expect(recall).toEqual([1, 1, 1])
    expect(weight).toEqual([1, 1, 1])
    // Without the bias they do not: it is the bias that is tested.
    const plain = rowOf('control', 0, foresee(routing, tokenIds, plainRouters))
    expect(plain.tally.total().recall[0]).toBeLessThan(0.95)
  })

  it('are of the layer that lies so far ahead, and nothing where there is none', () => {
    if (routing.scores === null) throw new Error('the trace has scores')
    const reader = new ScoreReader(routing.scores, 5, 32)
    expect(reader.ahead).toEqual([1, 2, 4])
    const [scores, ahead] = [new Float32Array(32), new Float32Array(32)]
    const likeness = (token: number, layer: number, at: number, target: number) => {
      reader.readAhead(token, layer, at, ahead)
      reader.read(token, target, scores)
      return scores.reduce((sum, score, index) => sum + Math.abs(score - (ahead[index] ?? 0)), 0)
    }
    for (const [at, distance] of [1, 2, 4].entries()) {
      let [right, wrong] = [0, 0]
      for (let token = 40; token < 140; token += 1) {
        right += likeness(token, 0, at, distance)
        wrong += likeness(token, 0, at, distance === 1 ? 2 : distance - 1)
      }
      expect(right).toBeLessThan(wrong)
    }
    reader.readAhead(40, 4, 0, ahead)
    expect(ahead.every((score) => score === 0)).toBe(true)
    reader.close()
  })

  it('come with the ids of tokens', () => {
    expect(tokenIds).toHaveLength(routing.sequences.reduce((sum, { tokens }) => sum + tokens, 0))
    expect(tokenIds.every((id) => id >= 0 && id < 1024)).toBe(true)
  })
})

describe('foreseen', () => {
  it.each([1, 2, 4])(
    'is more by the forecast than by any simpler guess, %d layers ahead',
    (ahead) => {
      const forecast = recallOf('forecast', ahead)
      for (const other of ['gate', 'transition'] as const) {
        for (const [width, share] of recallOf(other, ahead).entries()) {
          expect(forecast[width]).toBeGreaterThan(share)
        }
      }
    },
  )

  it('is more by priors than by what the last tokens used', () => {
    const previous = recallOf('previous', null)
    for (const [width, share] of recallOf('prior', null).entries()) {
      expect(share).toBeGreaterThan(previous[width] ?? 0)
    }
  })

  it('is the less the farther ahead', () => {
    for (const width of [0, 1, 2]) {
      const shares = [1, 2, 4].map((ahead) => recallOf('forecast', ahead)[width] ?? 0)
      expect(shares).toEqual([...shares].sort((a, b) => b - a))
    }
  })

  it('is told with probabilities that may be relied upon', () => {
    for (const row of [
      ...[1, 2, 4].map((ahead) => rowOf('forecast', ahead)),
      rowOf('prior', null),
    ]) {
      expect(row.reliability?.error()).toBeLessThan(0.03)
    }
  })

  it('is not counted in layers that no early score reaches', () => {
    const { tally } = rowOf('forecast', 4)
    expect([0, 1, 2, 3].map((layer) => tally.layer(layer).recall[0])).toEqual([
      null,
      null,
      null,
      null,
    ])
    expect(tally.layer(4)).toEqual(tally.total())
  })
})

describe('a tally', () => {
  it('counts candidates and weight among as many as are chosen, twice and four times as many', () => {
    const tally = new Tally(1, 2)
    const weights = Float32Array.of(0, 0.5, 0, 0.25, 0, 0, 0, 0, 0, 0)
    tally.add(0, Int32Array.of(1, 0, 2, 4, 3, 5, 6, 7), weights)
    const expected = { recall: [0.5, 0.5, 1], weight: [2 / 3, 2 / 3, 1] }
    expect(tally.total()).toEqual(expected)
    expect(tally.layer(0)).toEqual(expected)
  })
})

describe('the report', () => {
  it('is an object with a row for each guess and distance, and their layers', () => {
    const { foresight: traces } = JSON.parse(foresight([routing], undefined, true))
    const own = rows.map(({ guess, distance }) => [guess, distance])
    const told = traces[0].rows
    expect(told.map((row: Foreseen) => [row.guess, row.distance])).toEqual(own)
    const forecast = told.find((row: Foreseen) => row.guess === 'forecast' && row.distance === 1)
    const [once, twice, fourTimes] = recallOf('forecast', 1)
    expect(forecast.recall).toEqual({ '1x': once, '2x': twice, '4x': fourTimes })
    expect(forecast.calibration_error).toBe(rowOf('forecast', 1).reliability?.error())
    expect(forecast.layers.map(({ layer }: { layer: number }) => layer)).toEqual([1, 2, 3, 4, 5])
    expect(forecast.layers[0].weight['1x']).toBeNull()
  })

  it('is a table for a person', () => {
    const lines = foresight([routing], ringTiny, false).split('\n')
    expect(lines[0]).toBe(`${trace}: 5 layers x 32 experts, top 4`)
    expect(lines.filter((line) => line.startsWith('  forecast'))).toHaveLength(3)
    expect(lines.find((line) => line.startsWith('  control'))).toMatch(/0( +1\.000){6}$/)
  })

  it('of a trace without scores has priors, what follows and what was used', () => {
    const published = readRouting(gptoss)
    const { foresight: traces } = JSON.parse(foresight([published], undefined, true))
    const told = traces[0].rows
    const guesses = told.map((row: Foreseen) => row.guess)
    expect(guesses).toEqual(['transition', 'prior', 'previous'])
    for (const { recall } of told) expect(recall['1x']).toBeGreaterThan(0.05)
  })

  it('refuses the routers of another model', () => {
    const own = [routing]
    expect(() => foresight(own, edge('bf16'), false)).toThrow(/was not recorded from a model like/)
  })
})
