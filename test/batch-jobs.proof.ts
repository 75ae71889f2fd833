// Figures of jobs on the 4 GB model, slots for 25 %, paced at 2 GB/s: `--max-batch auto` beside fixed sizes,
// what measuring makes of a bad start, and lines on one matter together. About 30 minutes.
import { setImmediate } from 'node:timers/promises'
import { afterAll, beforeAll, it } from 'vitest'
import { Loop } from '../src/engine/loop.js'
import { openModel } from '../src/engine/open.js'
import { Width } from '../src/engine/width.js'
import { linesOnFourMatters, prepared, textLine } from './batching.js'
import { command, lastObject, withFolder } from './command.js'
import { note, remark, spread } from './figure.js'
import { requestOf } from './models.js'
import { type Widened, widened } from './widened.js'

const pace = { bytesPerSecond: 2e9, latencySeconds: 2e-4, depth: 32, jitter: 0, seed: 1 }

let wide: Widened
beforeAll(async () => {
  wide = await widened()
})
afterAll(() => wide.remove())

interface Ran {
  readonly tokens_s: number
  readonly experts: { readonly requests: number; readonly misses: number }
  readonly steps: { readonly count: number; readonly mean_batch: number }
  readonly batch: { readonly at_first: number; readonly best: number; readonly tried: number }
}

async function jobOf(lines: readonly string[], ...flags: string[]): Promise<Ran> {
  let ran: Ran | undefined
  await withFolder(async (folder) => {
    const { words } = prepared(folder, lines)
    const end = await command([
      ...[...words, wide.folder, '--expert-ram', '25%', '--ctx-size', '128', '--json'],
      ...['--load-mode', 'direct', '--paced', '2GB/s,200us', ...flags],
    ])
    if (end.status !== 0) throw new Error(end.stderr)
    ran = lastObject(end) as unknown as Ran
  })
  if (ran === undefined) throw new Error('the job told nothing')
  return ran
}

/** So many that even the largest size is full for most of the steps. */
const scenes = Array.from({ length: 192 }, (_, number) =>
  textLine(`${number}`, { prompt: `Scene ${number}. Enter`, max_tokens: 48, ignore_eos: true }),
)

it('a job of 192 lines', async () => {
  const auto = await jobOf(scenes, '--max-batch', 'auto')
  const fixed: { size: number; rate: number }[] = []
  for (const size of [64, 128, 192])
    fixed.push({ size, rate: (await jobOf(scenes, '--max-batch', `${size}`)).tokens_s })
  const again = await jobOf(scenes, '--max-batch', 'auto')
  const best = Math.max(...fixed.map(({ rate }) => rate))
  const share = spread(
    [auto, again].map(({ tokens_s }) => tokens_s / best),
    3,
  )
  const chosen = [auto, again].map(
    ({ batch, tokens_s }) =>
      `${batch.at_first} at first, ${batch.best} at last, ${batch.tried} tried: ${tokens_s.toFixed(1)}`,
  )
  note(
    '192 lines of 48 tokens, 4 GB model, slots for 25 %, paced 2 GB/s: `--max-batch auto` of the best of the fixed sizes, tokens/s',
    `${share.text}; auto ${chosen.join(' and ')}; fixed ${fixed.map(({ size, rate }) => `${size}: ${rate.toFixed(1)}`).join(', ')}`,
    '0.95',
    share.median >= 0.95,
  )
})

it('lines on four matters', async () => {
  const lines = linesOnFourMatters(96, 16, 3)
  const rates: number[] = []
  const wanted: number[] = []
  const missed: number[] = []
  for (let round = 0; round < 2; round += 1) {
    const come = await jobOf(lines, '--max-batch', '16', '--window', '1')
    const likest = await jobOf(lines, '--max-batch', '16')
    rates.push(likest.tokens_s / come.tokens_s)
    wanted.push(likest.experts.requests / come.experts.requests)
    missed.push(likest.experts.misses / come.experts.misses)
  }
  const rate = spread(rates, 3)
  note(
    '96 lines on four matters, 4 GB model, slots for 25 %, paced 2 GB/s, 16 at once: speed with those alike together over as they come',
    `${rate.text}; experts wanted ${spread(wanted, 3).median.toFixed(3)}, missed ${spread(missed, 3).median.toFixed(3)}`,
    'above 1',
    rate.median > 1,
  )
})

const atFirst = 8
const most = 96
const answerTokens = 96

it('a bad start', async () => {
  const opened = openModel(wide.folder, {
    ...{ expertRam: { share: 0.25 }, reads: { pace }, loadMode: 'direct' as const },
    ...{ contextTokens: 128, sequences: most, prefetch: 'auto' as const },
  })
  try {
    const width = new Width(atFirst, most)
    const seconds = await settled(opened, width)
    const fixed = await ratesOf(opened, [atFirst, width.best])
    const [before, after] = [atFirst, width.best].map((size) => spread(fixed.get(size) ?? []))
    if (before === undefined || after === undefined) throw new Error('nothing was measured')
    const gain = after.median / before.median
    note(
      `4 GB model, slots for 25 %, paced 2 GB/s, from ${atFirst} at once: tokens/s with what measuring found, of those at first`,
      `${gain.toFixed(2)}; ${width.best} at once ${after.text} tokens/s, ${atFirst} ${before.text}; it believed ${width.speed.toFixed(2)} after ${width.trials} tried in ${seconds.toFixed(0)} s`,
      'above 1.03',
      gain > 1.03,
    )
    if (!width.isSettled) remark('from a bad start', 'not all was tried')
  } finally {
    opened.close()
  }
})

/** Answers without end in that many places. */
function loopOf(opened: ReturnType<typeof openModel>, places: number, width: Width | null) {
  let drawn = 0
  let isOver = false
  const add = (slot: number) => {
    const prompt = [5 + (slot % 200), 7, 11 + (slot % 50), 13]
    loop.add(slot, requestOf(prompt, { maxTokens: answerTokens }))
  }
  const loop: Loop = new Loop(
    opened,
    {
      onToken: () => {
        drawn += 1
      },
      onEnding: (slot) => {
        if (!isOver) add(slot)
      },
    },
    null,
    0,
    width,
  )
  for (let slot = 0; slot < places; slot += 1) add(slot)
  const end = () => {
    isOver = true
    loop.endAll('cancelled', '')
  }
  return { loop, end, drawn: () => drawn }
}

async function settled(opened: ReturnType<typeof openModel>, width: Width): Promise<number> {
  const begin = performance.now()
  const { loop, end } = loopOf(opened, most, width)
  const seconds = () => (performance.now() - begin) / 1000
  while (!width.isSettled && seconds() < 300) {
    loop.turn()
    await setImmediate()
  }
  end()
  return seconds()
}

/** Tokens a second, all drawing, by turns. */
async function ratesOf(
  opened: ReturnType<typeof openModel>,
  sizes: readonly number[],
): Promise<Map<number, number[]>> {
  const rates = new Map<number, number[]>(sizes.map((size) => [size, []]))
  for (let round = 0; round < 3; round += 1) {
    for (const size of sizes) {
      const { loop, end, drawn } = loopOf(opened, size, null)
      for (let turn = 0; turn < 6; turn += 1) loop.turn()
      const [begin, before] = [performance.now(), drawn()]
      while (performance.now() - begin < 8000) {
        loop.turn()
        await setImmediate()
      }
      rates.get(size)?.push((drawn() - before) / ((performance.now() - begin) / 1000))
      end()
    }
  }
  return rates
}
