// Figures of "Learn the routing", what is foreseen: recall and weight by distance beside simpler guesses,
// how far off probabilities are, and what an estimate costs. Traces are recorded here, from other prompts
// and seeds than those that the first weights were fitted to.
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import { it } from 'vitest'
import { Forecast } from '../src/prefetch/forecast.js'
import { Reliability } from '../src/prefetch/reliability.js'
import { Shortlist } from '../src/prefetch/shortlist.js'
import { type Foreseen, foresee } from '../src/simulate/foresight.js'
import { Guesses } from '../src/simulate/foresightguesses.js'
import { readRouters } from '../src/simulate/foresightrouter.js'
import { Tally } from '../src/simulate/foresighttally.js'
import { readRouting } from '../src/simulate/source.js'
import { tokenIdsOf } from '../src/simulate/tracefile.js'
import { command, withFolder } from './command.js'
import { foreseeAll, largeLayers, madeTokens } from './earlyscores.js'
import { note, remark, spread } from './figure.js'
import { ringTiny, root } from './paths.js'

const raw = [
  'def count_words(text):\n',
  'int max_of(int a, int b) {\n',
  'char *reverse_string(char *s) {\n',
]
const verse = ['MENENIUS:\n', 'JULIET:\nWhat', 'Good morrow, ']
const chat = ['What is 7 * 8?', 'Count the letters of "banana".', 'Sort: z, k, b, q, a, m']

it('ring-tiny: what is foreseen', async () => {
  await withFolder(async (folder) => {
    const all: Foreseen[][] = []
    for (const [seed, prompt] of [...raw, ...verse, ...chat].entries()) {
      const trace = join(folder, `${seed}.trace`)
      const talk = chat.includes(prompt) ? [] : ['--raw']
      await command([
        ...[
          'run',
          '-p',
          prompt,
          ...talk,
          '-n',
          '240',
          '--temp',
          '0.8',
          '--seed',
          String(500 + seed),
        ],
        ...['--trace', trace, '--trace-scores', '1,2,4', '-q'],
      ])
      const routing = readRouting(trace)
      all.push(foresee(routing, tokenIdsOf(routing), readRouters(ringTiny, routing)))
    }
    tell('ring-tiny, 9 generations', all)
  })
})

/** Each sequence is foreseen by a forecaster that has learned nothing but the first weights and that sequence. */
function tell(title: string, all: readonly (readonly Foreseen[])[]): void {
  const rows = all[0] ?? []
  for (const [at, { guess, distance, reliability }] of rows.entries()) {
    const name = `${title}: ${guess}${distance === null ? '' : `, ${distance} layers ahead`}`
    const of = (kind: 'recall' | 'weight') =>
      [0, 1, 2].map((width) => {
        const shares = all.flatMap((sequence) => sequence[at]?.tally.total()[kind][width] ?? [])
        return spread(shares, 3)
      })
    const [recall, weight] = [of('recall'), of('weight')]
    const said = (values: typeof recall) => values.map(({ text }) => text).join('; ')
    const figure = `recall ${said(recall)}; weight ${said(weight)}`
    if (guess === 'control') {
      note(name, figure, 'recall 1.000', recall[0]?.median.toFixed(3) === '1.000')
    } else remark(`${name}, at 1x, 2x, 4x`, figure)
    if (reliability === null) continue
    const off = spread(
      all.map((sequence) => sequence[at]?.reliability?.error() ?? Number.NaN),
      3,
    )
    note(`${name}: calibration error`, off.text, 'at most 0.03', off.median <= 0.03)
  }
}

it('256 experts, top 8 of 4 of 8 groups, made up: what is foreseen', () => {
  const { distances, moeLayers, topK } = largeLayers
  const guesses = new Guesses(largeLayers, null)
  const rows = distances.map(() => ({
    soft: new Tally(moeLayers, topK),
    hard: new Tally(moeLayers, topK),
    table: new Reliability(),
  }))
  const shortlist = new Shortlist(8 * topK)
  const tokens = madeTokens(77, 400)
  foreseeAll(
    new Forecast(largeLayers, { tokensPerFit: 128 }),
    tokens,
    (at, probabilities, layer) => {
      const row = rows[at ?? -1]
      if (row === undefined || at === null) return
      const weights = layer.own.map((score, index) => (layer.chosen.includes(index) ? score : 0))
      const count = shortlist.pick(probabilities)
      row.soft.add(0, shortlist.indices, weights)
      for (const index of shortlist.indices.subarray(0, count)) {
        row.table.add(probabilities[index] ?? 0, layer.chosen.includes(index))
      }
      shortlist.pick(guesses.gate(layer.early[at] ?? probabilities, 0))
      row.hard.add(0, shortlist.indices, weights)
    },
  )
  for (const [at, distance] of distances.entries()) {
    const row = rows[at]
    const name = `made up, ${distance} layers ahead`
    const [soft = [], hard = []] = [row?.soft, row?.hard].map((tally) => tally?.total().recall)
    const said = (shares: readonly (number | null)[]) =>
      shares.map((share) => share?.toFixed(3)).join('; ')
    const isMore = (soft[1] ?? 0) > (hard[1] ?? 1) && (soft[2] ?? 0) > (hard[2] ?? 1)
    note(
      `${name}: recall at 1x, 2x, 4x`,
      said(soft),
      `at 2x, 4x above ${said(hard.slice(1))}`,
      isMore,
    )
    const off = row?.table.error() ?? Number.NaN
    note(`${name}: calibration error`, off.toFixed(3), 'at most 0.03', off <= 0.03)
  }
})

it('what an estimate costs at 256 experts and one token', () => {
  // The built program: a test runner's modules are several times slower.
  const script = `
    const { Forecast } = await import(process.argv[1])
    const shape = JSON.parse(process.argv[2])
    const forecast = new Forecast(shape)
    const scores = Array.from({ length: 50 }, () => Float32Array.from({ length: 256 }, Math.random))
    const ids = Int32Array.of(7)
    const chosen = new Int32Array(24)
    const costs = []
    for (let round = 0; round < 20; round += 1) {
      let [cost, estimates] = [0, 0]
      for (let token = 0; token < 200; token += 1) {
        forecast.begin(ids)
        for (let layer = 0; layer < shape.moeLayers; layer += 1) {
          for (let at = 0; at < 8; at += 1) {
            chosen[3 * at] = 256 * layer + 32 * at + ((token + layer) % 32)
            chosen[3 * at + 1] = 1
          }
          forecast.used(layer, chosen, 8, 1)
          const began = process.hrtime.bigint()
          for (const [at, ahead] of shape.distances.entries()) {
            if (layer + ahead >= shape.moeLayers) continue
            forecast.early(layer + ahead, at, scores[token % 50], 1)
            estimates += 1
          }
          cost += Number(process.hrtime.bigint() - began) / 1000
        }
      }
      costs.push(cost / estimates)
    }
    console.log(JSON.stringify(costs.slice(5)))`
  const built = join(root, 'dist/src/prefetch/forecast.js')
  const words = ['--input-type=module', '-e', script, built, JSON.stringify(largeLayers)]
  const costs: number[] = JSON.parse(execFileSync(process.execPath, words, { encoding: 'utf8' }))
  const { median, text } = spread(costs, 1)
  note('an estimate at 256 experts, one token, us', text, 'at most 40', median <= 40)
})
