// `plan` as a person starts it: a table for a machine that is described whole, the same every time; an object; a
// page of curves; and one line for what cannot be planned.
import { copyFileSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { command, lastObject, withFolder } from './command.js'
import { fixtures, ringTiny } from './paths.js'

const described = 'ram=128GiB,cores=16,memory=80GB/s,drive=7GB/s'

interface Numbers {
  readonly low: number
  readonly likely: number
  readonly high: number
}

interface Column {
  readonly name: string
  readonly problem: string | null
  readonly machine: Record<string, { value: number; source: string }>
  readonly fit: { readonly experts: Record<string, number> }
  readonly decode: {
    tokens_s: Numbers
    hit_rate: Numbers
    bottleneck: string
    misses_per_token: number
  }
  readonly ttft_s: Numbers
  readonly batch: { sequences: number; tokens_s: Numbers | null }[]
}

describe('plan', () => {
  it('tells of a described machine the same every time, without any weights', async () => {
    const words = ['--machine', described, '--what-if', 'ram=256GiB,drives=2']
    const { status, stdout, stderr } = await command(['plan', 'inclusionAI/Ring-1T-FP8', ...words])
    expect([status, stderr]).toEqual([0, ''])
    await expect(stdout).toMatchFileSnapshot('fixtures/plan-ring-1t.txt')
  })

  it('puts machines side by side in one object', async () => {
    const words = ['--machine', described, '--what-if', 'drives=2', '--what-if', 'ram=20GiB']
    const end = await command(['plan', 'inclusionAI/Ring-1T-FP8', ...words, '--json'])
    const { columns } = lastObject(end) as unknown as { columns: Column[] }
    const [first, faster, small] = columns
    expect(columns.map(({ name }) => name)).toEqual(['the machine', 'drives=2', 'ram=20GiB'])
    expect(first?.machine).toMatchObject({
      ram: { value: 126 * 2 ** 30, source: 'given' },
      depth: { value: 32, source: 'assumed' },
    })
    expect(faster?.decode.tokens_s.likely).toBeGreaterThan(first?.decode.tokens_s.likely ?? 0)
    expect(faster?.decode.hit_rate).toEqual(first?.decode.hit_rate)
    expect(first?.ttft_s.low).toBeLessThan(first?.ttft_s.likely ?? 0)
    expect(small?.problem).toMatch(/not enough memory/)
    expect(first?.batch.map(({ sequences }) => sequences)).toEqual([8, 32, 128])
  })

  it('knows this machine as far as it was measured, and says what it assumes', async () => {
    await withFolder(async (folder) => {
      const environment = { XDG_CACHE_HOME: folder }
      const words = ['plan', ringTiny, '--expert-ram', '50%']
      const { status, stdout, stderr } = await command(words, { environment })
      expect(status).toBe(0)
      expect(stderr).toMatch(/not everything here was measured: --measure, or doctor .*, does\n$/)
      expect(stdout).toMatch(/^Told by the system: ram, cores$/m)
      expect(stdout).toMatch(
        /^Assumed: memory, reading, products, drive, drives, beside, lost, latency, chunk, depth$/m,
      )
      expect(stdout).toMatch(/rehearsed on the trace ring-tiny\.trace, recorded from ring-tiny$/m)
    })
  })

  it('takes a config.json by itself', async () => {
    await withFolder(async (folder) => {
      const path = join(folder, 'mine.json')
      copyFileSync(join(fixtures, 'configs/ring-mini.json'), path)
      const { stdout } = await command(['plan', path, '--machine', described])
      expect(stdout).toMatch(/^mine\.json, by a config: 4,864 experts of 6\.29 MB in 19 layers/)
      expect(stdout).toMatch(/^on the drive only +0 experts/m)
      expect(stdout).toMatch(/^ {2}bound by +reading memory, 100 % of the time/m)
    })
  })

  it('writes a page of curves that needs nothing else', async () => {
    await withFolder(async (folder) => {
      const page = join(folder, 'page.html')
      const words = ['--machine', 'ram=3GiB,cores=2,memory=40GB/s,drive=2GB/s', '--html', page]
      const { status } = await command(['plan', ringTiny, ...words])
      expect(status).toBe(0)
      const html = readFileSync(page, 'utf8')
      expect(html).not.toMatch(/https?:|<script|<link|<img|@import|url\(/)
      expect(html.match(/<svg viewBox="0 0 900 /g)).toHaveLength(3)
      expect(html).toMatch(/<title>the machine, 64: [\d.]+ \[[\d.]+ to [\d.]+\]<\/title>/)
    })
  })

  it.each<[string[], number, RegExp]>([
    [[], 2, /argument 'MODEL'/],
    [['nobody/knows'], 1, /MODEL: expected .*inclusionAI\/Ring-1T-FP8.*nobody\/knows/],
    [['inclusionAI/Ring-1T', '--machine', 'speed=2'], 2, /NAME=VALUE of ram, cores/],
    [['inclusionAI/Ring-1T', '--what-if', 'ram=lots'], 2, /--what-if.*a size such as 25MB/],
    [['inclusionAI/Ring-1T', '--what-if', 'drives=0'], 2, /whole number from 1 to 64/],
    [['inclusionAI/Ring-1T', '--batch', '8,none'], 2, /--batch.*whole number/],
    [
      ['inclusionAI/Ring-1T', '--routing', join(fixtures, 'traces/ring-tiny.trace')],
      1,
      /--routing: .* has 32 experts in a layer, top 4; the model has 256, top 8/,
    ],
    [[ringTiny, '--html', join(fixtures, 'none', 'page.html')], 1, /cannot be written/],
  ])('refuses %j with one line', async (words, expected, why) => {
    const { status, stdout, stderr } = await command(['plan', ...words, '-q'])
    expect(stderr).toMatch(why)
    expect(stderr.trimEnd().split('\n')).toHaveLength(1)
    expect([status, stdout]).toEqual([expected, ''])
  })
})
