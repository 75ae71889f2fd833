// Figures of `tune` on ring-tiny enlarged 8 by 8, 1 GB of experts of 6 MB, slots for 25 %, paced at 2 GB/s: from
// settings far from good ones it finds better ones; from the usual ones it finds better ones or keeps them, in a
// search of its own. Runs in turn afterwards say what that is worth. Takes about 10 minutes: two searches of 2.5,
// which RING_TUNE_MINUTES makes others, and the runs in turn.
import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, it } from 'vitest'
import { command, lastObject } from './command.js'
import { note, remark, spread } from './figure.js'
import { benchOf, type Widened, widened } from './widened.js'

const minutes = process.env.RING_TUNE_MINUTES ?? '2.5'
const circumstances = ['--expert-ram', '25%', '--paced', '2GB/s,200us']
const bad = ['--threads', '1', '--read-depth', '1', '--read-chunk', '256KiB']

let model: Widened
let cache: string
beforeAll(async () => {
  model = await widened(8)
  cache = mkdtempSync(join(os.tmpdir(), 'ring-tuned-'))
})
afterAll(() => {
  model.remove()
  rmSync(cache, { recursive: true })
})

interface Tuned {
  readonly runs: number
  readonly noise: number
  readonly trials: readonly { readonly setting: string; readonly kept: boolean }[]
  readonly settings: Readonly<Record<string, unknown>>
}

async function tuned(...words: string[]): Promise<Tuned> {
  const environment = { XDG_CACHE_HOME: cache }
  const all = ['tune', model.folder, ...circumstances, '--max-minutes', minutes, ...words, '--json']
  const ran = await command(all, { environment })
  if (ran.status !== 0) throw new Error(ran.stderr)
  process.stdout.write(ran.stderr)
  return lastObject(ran) as unknown as Tuned
}

/** Warm decode, in turn: with what was found, and with these flags and nothing that was found. */
async function ratios(
  pairs: number,
  ...words: string[]
): Promise<{ ratios: number[]; isSame: boolean }> {
  const found = { ratios: [] as number[], isSame: true }
  const bench = [...circumstances, '-n', '32']
  for (let pair = 0; pair < pairs; pair += 1) {
    const first = await benchOf(model.folder, [...bench, ...words])
    const second = await benchOf(model.folder, bench, { XDG_CACHE_HOME: cache, RING_NO_TUNED: '' })
    found.ratios.push(second.warm.decode_tok_s / first.warm.decode_tok_s)
    found.isSame &&= first.tokens.join() === second.tokens.join()
  }
  return found
}

function told({ settings, trials, runs, noise }: Tuned): string {
  const kept = Object.entries(settings).map(([name, value]) => `${name} ${value}`)
  const alike = `runs alike differ by ${(100 * noise).toFixed(1)} %`
  return `${kept.join(', ') || 'nothing'}; ${trials.length} contests, ${runs} runs, ${alike}`
}

it('tune, from one thread, one read at a time, of 256 KiB', async () => {
  const found = await tuned(...bad, '--try', 'threads,read-depth,read-chunk')
  remark('1 GB model, slots for 25 %, paced 2 GB/s: tune from a bad start keeps', told(found))
  const { ratios: speeds, isSame } = await ratios(2, ...bad)
  const speed = spread(speeds, 3)
  note(
    '1 GB model, slots for 25 %, paced 2 GB/s: speed tuned, against the bad start',
    `${speed.text}${isSame ? '; the same tokens' : '; other tokens'}`,
    '1.03',
    isSame && speed.median >= 1.03 && Math.min(...speeds) >= 1,
  )
})

it('tune, from the usual settings', async () => {
  rmSync(join(cache, 'ring-offload'), { recursive: true, force: true })
  const found = await tuned()
  remark(
    '1 GB model, slots for 25 %, paced 2 GB/s: tune from the usual settings keeps',
    told(found),
  )
  const { ratios: speeds, isSame } = await ratios(3)
  const speed = spread(speeds, 3)
  // Where nothing was kept both are the same settings, and their ratio is noise.
  const isKept = Object.keys(found.settings).length > 0
  note(
    '1 GB model, slots for 25 %, paced 2 GB/s: speed tuned, against the usual settings',
    `${speed.text}${isSame ? '; the same tokens' : '; other tokens'}`,
    isKept ? '1.00' : '1.00 within the spread',
    isSame && (isKept ? speed.median >= 1 : Math.max(...speeds) >= 1),
  )
})
