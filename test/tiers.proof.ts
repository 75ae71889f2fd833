// Figures of "Experts live in tiers": how near decode comes to what the drive allows, what the reader
// costs, and how soon the first token is there.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, it } from 'vitest'
import { command, lastObject } from './command.js'
import { note, remark, spread } from './figure.js'
import { tinyGoldens } from './goldens.js'
import { type BenchResult, benchOf, type Widened, widened } from './widened.js'

const runs = 5
let model: Widened
beforeAll(async () => {
  model = await widened()
})
afterAll(() => model.remove())

/** What the drive and its schedule come to by themselves: look-ahead has a page of its own. */
const withSlots = (share: string, ...words: string[]) =>
  benchOf(model.folder, ['--expert-ram', share, '-n', '128', '--prefetch', 'off', ...words])

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
    benchOf(model.folder, ['--expert-ram', '25%', '-n', '128', '--prefetch', 'off'], environment),
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
    const [own, lru] = [await withSlots(share), await withSlots(share, '--policy', 'lru')]
    note(
      `misses of the default policy, slots for ${share}`,
      `${own.experts.misses} cold, ${own.warm.experts.misses} warm; LRU ${lru.experts.misses}, ${lru.warm.experts.misses}`,
      'at most those of LRU',
      own.experts.misses <= lru.experts.misses,
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

it('the same bits', async () => {
  const folder = mkdtempSync(join(os.tmpdir(), 'ring-bits-'))
  const [asked, profile] = [join(folder, 'in.jsonl'), join(folder, 'profile.json')]
  const long = tinyGoldens.find(({ golden }) => golden.name === 'raw-prose-long')?.golden.ids ?? []
  // More tokens than one wave of a tenth of the experts can serve, in one step.
  const ids = Array.from({ length: 260 }, (_, at) => long[at % long.length] ?? 0)
  writeFileSync(asked, `${JSON.stringify({ id: 'long', tokens: ids })}\n`)
  /** Log-probabilities and routing of every position, and what is drawn after a prompt. */
  const answers = async (words: readonly string[]): Promise<string> => {
    const out = join(folder, 'out.jsonl')
    const scored = ['score', model.folder, '-i', asked, '-o', out, '--top-logprobs', '8']
    const drawn = ['run', model.folder, '--raw', '-p', 'The sea', '-n', '32', '--json']
    const first = await command([...scored, '--routing', '--ctx-size', '512', ...words])
    const second = await command([...drawn, ...words])
    for (const { status, stderr } of [first, second]) if (status !== 0) throw new Error(stderr)
    const { tokens } = lastObject(second)
    return `${readFileSync(out, 'utf8')}${JSON.stringify(tokens)}`
  }
  const slots = (share: string, ...more: string[]) => ['--expert-ram', share, ...more]
  const expected = await answers(slots('100%', '--save-profile', profile))
  const settings = [
    ...['50%', '25%', '10%'].map((share) => slots(share)),
    ...['lru', 'sweep', 'random:5'].map((policy) => slots('25%', '--policy', policy)),
    slots('25%', '--policy', 'pinned', '--profile', profile),
    slots('10%', '--policy', 'random:6', '--paced', '6GB/s,1ms'),
    ['--load-mode', 'mapped'],
    slots('25%', '--load-mode', 'mapped'),
  ]
  const differing = []
  for (const setting of settings) {
    if ((await answers(setting)) !== expected) differing.push(setting.join(' '))
  }
  rmSync(folder, { recursive: true })
  note(
    '4 GB model, log-probabilities, routing and tokens against all experts in slots',
    `${settings.length - differing.length} of ${settings.length} settings give the same bits${differing.length > 0 ? `; others: ${differing.join('; ')}` : ''}`,
    'all',
    differing.length === 0,
  )
})

it('misses beside speed', async () => {
  const [low, high] = [await withSlots('10%'), await withSlots('50%')]
  remark(
    'slots for 10 % and 50 %, real drive',
    `${low.decode_tok_s.toFixed(2)} and ${high.decode_tok_s.toFixed(2)} tokens/s, ${low.experts.misses} and ${high.experts.misses} misses`,
  )
})
