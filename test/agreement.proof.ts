// Figures of "Ring-tiny speaks": agreement with the reference, totals, the time to a first answer.
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { it } from 'vitest'
import { openCheckpoint } from '../src/model/checkpoint.js'
import { parseConfig } from '../src/model/config.js'
import { inventory, inventoryOfConfig } from '../src/model/inventory.js'
import {
  continuation,
  differenceAt,
  firstCauses,
  flips,
  lastDifference,
  score,
} from './agreement.js'
import { note, spread } from './figure.js'
import { edgeGoldens, type GoldenCase, tinyGoldens } from './goldens.js'
import { fixtures, ringTiny, root } from './paths.js'

const worst = (values: readonly number[]) => values.reduce((a, b) => Math.max(a, b), 0)

it('agreement with the reference, KV in F32', () => {
  for (const [title, cases] of [
    ['ring-tiny, 12 goldens', tinyGoldens],
    ['7 edge checkpoints', edgeGoldens],
  ] as [string, GoldenCase[]][]) {
    const scores = cases.map(({ model, golden }) => ({
      golden,
      scored: score(model, golden, 'f32'),
    }))
    const flipped = scores.flatMap(({ scored, golden }) => flips(scored, golden))
    const choices = scores.reduce(
      (n, { golden }) => n + golden.router.length * golden.ids.length,
      0,
    )
    note(
      `${title}: router sets that differ`,
      `${flipped.length} of ${choices}`,
      'only below margin 1e-4',
      flipped.every((flip) => flip.margin < 1e-4),
    )
    const difference = worst(
      scores.flatMap(({ scored, golden }) => [
        lastDifference(scored, golden),
        ...golden.ids.map((_, token) => differenceAt(scored, golden, token)),
      ]),
    )
    note(
      `${title}: largest log-probability difference`,
      difference.toExponential(1),
      '2e-3',
      difference < 2e-3,
    )
    const continued = cases.map((one) => ({ one, ...continuation(one, 1e-2) }))
    const wrong = continued.filter(
      ({ one, ours, certain }) =>
        String(ours.slice(0, certain)) !== String(one.golden.greedy.ids.slice(0, certain)),
    )
    const same = continued.filter(({ one, ours }) => String(ours) === String(one.golden.greedy.ids))
    note(
      `${title}: greedy continuations`,
      `${same.length} of ${cases.length} equal to the end`,
      'equal up to a margin below 0.01',
      wrong.length === 0,
    )
  }
})

it('agreement with the reference, KV in BF16', () => {
  const scores = tinyGoldens.map(({ model, golden }) => ({
    golden,
    scored: score(model, golden, 'bf16'),
  }))
  const flipped = scores.map(({ scored, golden }) => flips(scored, golden))
  const causes = flipped.flatMap((found) => firstCauses(found))
  const largest = worst(causes.map((flip) => flip.margin))
  note(
    'ring-tiny, BF16 KV: margin of router differences that no earlier one caused',
    `${largest.toExponential(1)} (${causes.length}; ${flipped.flat().length} with those that follow)`,
    '5e-3',
    largest < 5e-3,
  )
  const before = worst(
    scores.flatMap(({ scored, golden }, index) => {
      const first = Math.min(golden.ids.length, ...(flipped[index] ?? []).map((flip) => flip.token))
      return golden.ids.slice(0, first).map((_, token) => differenceAt(scored, golden, token))
    }),
  )
  note(
    'ring-tiny, BF16 KV: log-probability difference before the first',
    before.toExponential(1),
    '0.1',
    before < 0.1,
  )
})

it('totals of the real models', () => {
  const expected = {
    'ring-1t': 999_705_328_640,
    'ring-flash': 102_889_705_216,
    'ring-mini': 16_255_643_392,
  }
  for (const [name, parameters] of Object.entries(expected)) {
    const file = join(fixtures, 'configs', `${name}.json`)
    const found = inventoryOfConfig(parseConfig(readFileSync(file, 'utf8'), file)).parameters.total
    note(
      `${name}: parameters from its config`,
      String(found),
      String(parameters),
      found === parameters,
    )
  }
  const tiny = inventory(openCheckpoint(ringTiny))
  note(
    'ring-tiny: parameters from its tensors',
    String(tiny.parameters.total),
    '18.4 million',
    Math.round(tiny.parameters.total / 1e5) === 184,
  )
})

/** Seconds from starting the command to its first byte of answer, and the whole answer. */
function timeToAnswer(): Promise<{ seconds: number; text: string }> {
  return new Promise((resolve, reject) => {
    const startMs = performance.now()
    let seconds = Number.NaN
    let text = ''
    const child = spawn('npm', ['start', '--silent'], {
      cwd: root,
      stdio: ['ignore', 'pipe', 'ignore'],
    })
    child.stdout.on('data', (data: Buffer) => {
      if (Number.isNaN(seconds)) seconds = (performance.now() - startMs) / 1000
      text += data.toString()
    })
    child.on('error', reject)
    child.on('exit', () => resolve({ seconds, text }))
  })
}

it('npm start', async () => {
  await timeToAnswer()
  const runs = []
  for (let run = 0; run < 7; run += 1) runs.push(await timeToAnswer())
  const { median, text } = spread(runs.map((run) => run.seconds))
  note('npm start, built: seconds to the first byte of the answer', text, '1.5', median < 1.5)
  const answer = runs[0]?.text.trim().split('\n').at(-1) ?? ''
  note('npm start: answer to 37 + 48', answer, '85', answer === '85')
})
