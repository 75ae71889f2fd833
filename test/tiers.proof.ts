// Figures of "Experts live in tiers": how near decode comes to what the drive allows, what the reader
// costs, and how soon the first token is there.
import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, it } from 'vitest'
import { command, lastObject } from './command.js'
import { note, remark, spread } from './figure.js'
import { type BenchResult, benchOf, type Widened, widened } from './widened.js'

const runs = 5
let model: Widened
beforeAll(async () => {
  model = await widened()
})
afterAll(() => model.remove())

const withSlots = (share: string, ...words: string[]) =>
  benchOf(model.folder, ['--expert-ram', share, '-n', '128', ...words])

async function repeated(run: () => Promise<BenchResult>): Promise<BenchResult[]> {
  const results = []
  for (let at = 0; at < runs; at += 1) results.push(await run())
  return results
}

const gigabytes = (bytes: number) => bytes / 1e9

for (const share of ['25%', '50%']) {
  it(`share of bound, paced, ${share}`, async () => {
    const results = await repeated(() => withSlots(share, '--paced', '2GB/s,200us'))
    const ofAttainable = spread(
      results.map(({ io }) => io.share_of_bound / io.attainable),
      3,
    )
    const absolute = spread(
      results.map(({ io }) => io.share_of_bound),
      3,
    )
    const rate = spread(results.map((result) => result.decode_tok_s))
    note(
      `4 GB model, slots for ${share}, paced 2 GB/s: share of bound, of attainable`,
      `${ofAttainable.text}; absolute ${absolute.text}; ${rate.text} tokens/s, ${results[0]?.experts.misses} misses`,
      '0.92',
      ofAttainable.median >= 0.92,
    )
  })
}

it('share of bound, real drive, 25 %', async () => {
  const results = await repeated(() => withSlots('25%'))
  const shares = results.map(({ io }) => io.share_of_bound)
  const absolute = spread(shares, 3)
  const ofAttainable = spread(
    results.map(({ io }) => io.share_of_bound / io.attainable),
    3,
  )
  const rate = spread(results.map((result) => result.decode_tok_s))
  const ceiling = spread(results.map(({ io }) => gigabytes(io.ceiling_bytes_s)))
  note(
    '4 GB model, slots for 25 %, real drive: share of bound',
    `${absolute.text}; of attainable ${ofAttainable.text}; ${rate.text} tokens/s; drive ${ceiling.text} GB/s`,
    '0.80, or 0.92 of attainable where that is lower',
    absolute.median >= 0.8 || ofAttainable.median >= 0.92,
  )
  const read = spread(
    results.map(({ io }) => io.bytes_read / io.bytes_needed),
    4,
  )
  note('bytes read per byte missed', read.text, '1.02', read.median <= 1.02)
  const cpu = spread(
    results.map(({ io }) => (io.reader_cpu_s - io.checksum_s) / gigabytes(io.bytes_read)),
    4,
  )
  note(
    "processor time of the reader's threads, without checksums, s/GB",
    cpu.text,
    '0.06',
    cpu.median <= 0.06,
  )
})

it('checksums', async () => {
  const cache = mkdtempSync(join(os.tmpdir(), 'ring-cache-'))
  const environment = { XDG_CACHE_HOME: cache }
  const recorded = await command(['verify', model.folder], { environment })
  if (recorded.status !== 0) throw new Error(recorded.stderr)
  const results = await repeated(() =>
    benchOf(model.folder, ['--expert-ram', '25%', '-n', '128'], environment),
  )
  rmSync(cache, { recursive: true })
  const cpu = spread(
    results.map(({ io }) => io.checksum_s / gigabytes(io.bytes_read)),
    4,
  )
  note('processor time of checksums, s/GB', cpu.text, '0.08', cpu.median <= 0.08)
})

it('misses of the default policy', async () => {
  for (const share of ['10%', '25%', '50%']) {
    const [lfu, lru] = [
      await withSlots(share, '--policy', 'lfu'),
      await withSlots(share, '--policy', 'lru'),
    ]
    note(
      `misses of the default policy, slots for ${share}`,
      `${lfu.experts.misses} cold, ${lfu.warm.experts.misses} warm; LRU ${lru.experts.misses}, ${lru.warm.experts.misses}`,
      'at most those of LRU',
      lfu.experts.misses <= lru.experts.misses,
    )
  }
})

it('first token', async () => {
  const { io } = await withSlots('25%')
  const { bytes } = lastObject(await command(['inspect', model.folder, '--json'])) as {
    bytes: { dense: number; token_cycle: number }
  }
  const overheads = []
  for (let at = 0; at < runs; at += 1) {
    const begin = performance.now()
    const words = ['run', model.folder, '--raw', '-p', 'a', '-n', '1', '--expert-ram', '25%']
    await command(words)
    const seconds = (performance.now() - begin) / 1000
    overheads.push(seconds - (bytes.dense + bytes.token_cycle) / io.ceiling_bytes_s)
  }
  const { median, text } = spread(overheads)
  note(
    'from start to the end of a run of 1 token, beyond the bytes that must be read, s',
    text,
    '2',
    median <= 2,
  )
})

it('misses beside speed', async () => {
  const [low, high] = [await withSlots('10%'), await withSlots('50%')]
  remark(
    'slots for 10 % and 50 %, real drive',
    `${low.decode_tok_s.toFixed(2)} and ${high.decode_tok_s.toFixed(2)} tokens/s, ${low.experts.misses} and ${high.experts.misses} misses`,
  )
})
