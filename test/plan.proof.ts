// Figures of `plan`: what it says of the 4 GB model on this machine beside what `bench` then measures, slots for
// 10, 25 and 50 %, on the paced drive and on the real one. A plan speaks of slots that are full, so it is compared
// with the warm pass; in the cold one they are filled, and their memory is touched for the first time.
// Takes about 20 minutes. RING_PLAN_TOKENS=64 shortens it, but of so few tokens misses are other ones.
import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, it } from 'vitest'
import { benchPrompts } from '../src/cli/benchprompts.js'
import { command, lastObject } from './command.js'
import { note } from './figure.js'
import { type BenchResult, benchOf, type Widened, widened } from './widened.js'

const shares = ['10%', '25%', '50%']
const tokens = Number(process.env.RING_PLAN_TOKENS ?? 256)
const pace = { bytesPerSecond: '2GB/s', latency: '200us', depth: 32 }

let model: Widened
let cache: string
beforeAll(async () => {
  model = await widened()
  cache = mkdtempSync(join(os.tmpdir(), 'ring-cache-'))
})
afterAll(() => {
  model.remove()
  rmSync(cache, { recursive: true })
})

/** Memory, computing and the real drive, kept for the next plan: this machine is another one from minute to minute. */
async function measured(): Promise<void> {
  const environment = { XDG_CACHE_HOME: cache }
  const { status, stderr } = await command(['doctor', model.folder, '--fresh'], { environment })
  if (status !== 0) throw new Error(stderr)
}

interface Planned {
  readonly machine: { readonly drive: { readonly value: number } }
  readonly decode: {
    readonly tokens_s: { readonly low: number; readonly likely: number; readonly high: number }
    readonly misses_per_token: number
  }
}

/** Prompts and answers as long as those of `bench`. */
async function planOf(share: string, words: readonly string[]): Promise<Planned> {
  const lengths = ['--prompt-tokens', '20', '--answer-tokens', String(tokens / 8)]
  const ran = await command(
    ['plan', model.folder, '--expert-ram', share, ...lengths, ...words, '--batch', '2', '--json'],
    { environment: { XDG_CACHE_HOME: cache } },
  )
  if (ran.status !== 0) throw new Error(ran.stderr)
  const [column] = (lastObject(ran) as { columns?: Planned[] }).columns ?? []
  if (column === undefined) throw new Error('nothing was planned')
  return column
}

function compare(what: string, plan: Planned, bench: BenchResult, most: number, more = ''): void {
  const { low, likely, high } = plan.decode.tokens_s
  const { warm } = bench
  const drawn = warm.tokens.length - benchPrompts.length
  const error = likely / warm.decode_tok_s - 1
  note(
    what,
    `${(100 * error).toFixed(1)} %: planned ${likely.toFixed(2)} [${low.toFixed(2)} to ${high.toFixed(2)}] tokens/s, measured ${warm.decode_tok_s.toFixed(2)}, cold ${bench.decode_tok_s.toFixed(2)}; misses a token ${plan.decode.misses_per_token.toFixed(2)} and ${(warm.experts.misses / drawn).toFixed(2)}${more}`,
    `within ${100 * most} %`,
    Math.abs(error) <= most,
  )
}

const slots = (share: string, ...words: string[]) =>
  benchOf(model.folder, ['--expert-ram', share, '-n', String(tokens), ...words])

for (const share of shares) {
  it(`plan against bench, paced, ${share}`, async () => {
    const { bytesPerSecond, latency, depth } = pace
    const described = `drive=${bytesPerSecond},latency=${latency},depth=${depth}`
    await measured()
    const plan = await planOf(share, ['--machine', described])
    const bench = await slots(share, '--paced', `${bytesPerSecond},${latency}`)
    compare(`4 GB model, slots for ${share}, paced 2 GB/s: plan against bench`, plan, bench, 0.1)
  })
}

for (const share of shares) {
  it(`plan against bench, real drive, ${share}`, async () => {
    await measured()
    const plan = await planOf(share, [])
    const bench = await slots(share)
    const [before, then] = [plan.machine.drive.value, bench.io.ceiling_bytes_s].map((rate) =>
      (rate / 1e9).toFixed(2),
    )
    compare(
      `4 GB model, slots for ${share}, real drive: plan against bench`,
      plan,
      bench,
      0.2,
      `; drive ${before} GB/s when planned, ${then} while measured`,
    )
  })
}
