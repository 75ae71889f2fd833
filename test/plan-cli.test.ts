// `plan` as a person starts it: a table for a machine that is described whole, the same every time; an object; a
// page of curves; and one line for what cannot be planned.
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type DefaultTreeAdapterTypes, parse } from 'parse5'
import { describe, expect, it } from 'vitest'
import { probe } from '../native/index.js'
import { driveOf } from '../src/engine/drives.js'
import { hostOf } from '../src/engine/host.js'
import { machineKey, readMachine, withReads, writeMachine } from '../src/engine/machine.js'
import { command, lastObject, withFolder } from './command.js'
import { fastReads } from './fastmachine.js'
import { fixtures, fromRoot, ringTiny } from './paths.js'

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
    bytes_per_token: number
    copied_per_token: number
    compute_s: number
    stall_s: number
  }
  readonly ttft_s: Numbers
  readonly batch: { sequences: number; tokens_s: Numbers | null }[]
}

type Node = DefaultTreeAdapterTypes.Node
type Element = DefaultTreeAdapterTypes.Element

/** Of that name, in the order of the page. */
function elements(within: Node, name: string): Element[] {
  const children: readonly Node[] = 'childNodes' in within ? within.childNodes : []
  return children.flatMap((node) => [
    ...('tagName' in node && node.tagName === name ? [node] : []),
    ...elements(node, name),
  ])
}

function textOf(node: Node): string {
  if ('childNodes' in node) return node.childNodes.map(textOf).join('')
  return node.nodeName === '#text' && 'value' in node ? node.value : ''
}

function classOf({ attrs }: Element): string | undefined {
  return attrs.find(({ name }) => name === 'class')?.value
}

/** As a page has it: three digits of each. */
function spread(range: Numbers | undefined): string {
  const text = (value = Number.NaN) => (value >= 100 ? value.toFixed(0) : value.toPrecision(3))
  return `${text(range?.likely)} [${text(range?.low)} to ${text(range?.high)}]`
}

/** `plan` of a model of 4 GB and a short trace: quickly made. */
function wide(folder: string): string[] {
  const model = join(folder, '<wide>.json')
  const config = JSON.parse(readFileSync(join(ringTiny, 'config.json'), 'utf8'))
  const sizes = { hidden_size: 4096, moe_intermediate_size: 2048, intermediate_size: 8192 }
  writeFileSync(model, JSON.stringify({ ...config, ...sizes }))
  return ['plan', model, '--routing', join(fixtures, 'traces/ring-tiny.trace')]
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

  it('measures what doctor has not, and keeps it, where that is asked for', async () => {
    await withFolder(async (folder) => {
      const environment = { XDG_CACHE_HOME: folder, HF_HUB_CACHE: folder }
      // The drive is known already.
      const key = machineKey(hostOf(probe()))
      const reads = { ...fastReads, drive: driveOf(folder).key }
      writeMachine(environment, withReads(readMachine(environment, key), reads))
      const words = [...wide(folder), '--batch', '2', '--json']
      const asked = await command([...words, '--measure'], { environment })
      expect(asked.stderr).toBe(
        'ring-offload: measuring memory\nring-offload: measuring computing\n',
      )
      const again = await command(words, { environment })
      expect(again.stderr).toBe('')
      const [first, second] = [asked, again].map((end) => {
        const [column] = (lastObject(end) as unknown as { columns: Column[] }).columns
        const { ram: _, ...kept } = column?.machine ?? {}
        return kept
      })
      for (const name of ['memory', 'reading', 'products', 'drive', 'beside', 'lost'])
        expect(first?.[name]?.source, name).toBe('measured')
      expect(first?.drive?.value).toBe(fastReads.bytesPerSecond)
      expect(first?.memory?.value).toBeGreaterThan(1e8)
      expect(second).toEqual(first)
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

  it('writes a page of curves that needs nothing else and says the same as the object', async () => {
    await withFolder(async (folder) => {
      const page = join(folder, 'page.html')
      const words = ['--machine', 'ram=4GiB,cores=2,memory=40GB/s,drive=2GB/s', '--html', page]
      const ifs = ['--what-if', 'drives=2', '--batch', '1,4,16,64', '--json']
      const end = await command([...wide(folder), ...words, ...ifs])
      expect([end.status, end.stderr]).toEqual([0, ''])
      const { columns } = lastObject(end) as unknown as { columns: Column[] }
      const html = readFileSync(page, 'utf8')
      expect(html).not.toMatch(/https?:|<script|<link|<img|@import|url\(|<wide>/)
      const errors: string[] = []
      const document = parse(html, { onParseError: ({ code }) => errors.push(code) })
      expect(errors).toEqual([])

      const [memory, drives, sequences] = elements(document, 'figure').map((figure) => ({
        title: elements(figure, 'figcaption').map(textOf),
        legend: elements(figure, 'li').map(textOf),
        bands: elements(figure, 'path').filter((path) => classOf(path) === 'band').length,
        points: new Map(
          elements(figure, 'title')
            .map(textOf)
            .map((text) => text.split(': ') as [string, string]),
        ),
      }))
      expect(elements(document, 'figure')).toHaveLength(3)
      const names = ['the machine', 'drives=2']
      for (const curves of [memory, drives, sequences]) expect(curves?.legend).toEqual(names)
      expect(memory?.title).toEqual(['Tokens a second, over the memory of a machine'])
      expect([...(memory?.points.keys() ?? [])]).toEqual(
        names.flatMap((name) => ['3 GiB', '4 GiB', '6 GiB'].map((size) => `${name}, ${size}`)),
      )
      expect([memory?.bands, drives?.bands, sequences?.bands]).toEqual([2, 2, 2])

      const [base, faster] = columns
      expect(memory?.points.get('the machine, 4 GiB')).toBe(spread(base?.decode.tokens_s))
      expect(memory?.points.get('drives=2, 4 GiB')).toBe(spread(faster?.decode.tokens_s))
      expect([...(drives?.points.keys() ?? [])]).toEqual(
        names.flatMap((name) => [1, 2, 4].map((count) => `${name}, ${count}`)),
      )
      expect(drives?.points.get('the machine, 1')).toBe(spread(base?.decode.tokens_s))
      expect(drives?.points.get('the machine, 2')).toBe(spread(faster?.decode.tokens_s))
      for (const { name, batch } of columns) {
        for (const { sequences: at, tokens_s } of batch) {
          expect(sequences?.points.get(`${name}, ${at}`)).toBe(spread(tokens_s ?? undefined))
        }
      }
      expect(sequences?.points.size).toBe(8)
      const [plain] = elements(document, 'pre').map(textOf)
      expect(plain).toMatch(/^tokens\/s +\d/m)
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

describe('docs/expectations.md', () => {
  const page = readFileSync(fromRoot('docs/expectations.md'), 'utf8')
  const [, written = ''] = /```sh\nnpx ring-offload ([^`]*)```/.exec(page) ?? []
  const words = written.replaceAll('\\\n', ' ').trim().split(/\s+/)
  const [plain = [], withGpu = []] = tablesOf(page)

  it('has what plan says of four machines, and the README has the same', async () => {
    const columns = await columnsOf(words)
    const rows = columns.map((column) => {
      const { decode, fit, ttft_s, batch } = column
      const experts = (fit.experts.ram ?? 0) + (fit.experts.gpu ?? 0)
      const [crowd] = batch
      const all = crowd?.tokens_s == null ? 'does not fit' : rates(crowd.tokens_s, 1)
      return {
        experts: `${count(experts)} (${Math.round((100 * experts) / 19456)} %)`,
        hits: `${rates(decode.hit_rate, 0, 100, ' %')}`,
        read: `${(decode.bytes_per_token / 1e9).toFixed(1)} GB`,
        speed: rates(decode.tokens_s, 2),
        bound: boundOf(column),
        first: rates(ttft_s, 0, 1, ' s'),
        all,
      }
    })
    expect(plain.map((row) => row.slice(1))).toEqual(rows.map((row) => Object.values(row)))
    const [readme = []] = tablesOf(readFileSync(fromRoot('README.md'), 'utf8'))
    expect(readme.map((row) => row.slice(1))).toEqual(
      rows.map(({ speed, first, bound, all }) => [
        speed,
        first,
        bound === 'drive' ? 'the drive' : bound,
        all,
      ]),
    )
  })

  it('has the other forecast beside it, and all of what they differ by', async () => {
    const at = words.indexOf('--machine') + 1
    const columns = await columnsOf(words.with(at, `${words[at]},gpu=32GiB`))
    // Slots of a layer, hits and bytes a second, as the other forecast has them of the four machines.
    const theirs = [
      [12, 0.2, 7e9],
      [26, 0.45, 12e9],
      [60, 0.7, 12e9],
      [60, 0.7, 24e9],
    ] as const
    const cycle = 30.6e9
    const rows = columns.map(({ decode, fit, ttft_s }, machine) => {
      const [slots, hits, rate] = theirs[machine] ?? [0, 0, 0]
      const read = cycle * (1 - hits)
      const experts = (fit.experts.ram ?? 0) + (fit.experts.gpu ?? 0)
      const readingAlone = rate / decode.bytes_per_token
      // Fewer bytes, then copies to the GPU, partly beside reading: that is all there is.
      const copyingAlone = 25e9 / decode.copied_per_token
      expect(decode.tokens_s.likely).toBeLessThan(Math.min(readingAlone, copyingAlone))
      expect(decode.tokens_s.likely).toBeGreaterThan(1 / (1 / readingAlone + 1 / copyingAlone))
      return [
        `${count(experts)}, ${count(76 * slots)}`,
        `${Math.round(100 * decode.hit_rate.likely)} %, ${Math.round(100 * hits)} %`,
        `${(decode.bytes_per_token / 1e9).toFixed(1)}, ${(read / 1e9).toFixed(1)} GB`,
        `${(decode.copied_per_token / 1e9).toFixed(1)} GB`,
        (rate / read).toFixed(2),
        readingAlone.toFixed(2),
        rates(decode.tokens_s, 2),
        `${ttft_s.likely.toFixed(0)} s, ${rate === 12e9 ? '75 to 80 s' : '-'}`,
      ]
    })
    expect(withGpu.map((row) => row.slice(1))).toEqual(rows)
  })
})

async function columnsOf(words: readonly string[]): Promise<Column[]> {
  const end = await command([...words, '--json'])
  expect([end.status, end.stderr]).toEqual([0, ''])
  return (lastObject(end) as unknown as { columns: Column[] }).columns
}

/** The cells of each table of a page, without its head. */
function tablesOf(page: string): string[][][] {
  return [...page.matchAll(/^\| machine .*\n\|[ |-]+\n((?:\|.*\n)+)/gm)].map(([, rows = '']) =>
    rows
      .trim()
      .split('\n')
      .map((row) =>
        row
          .split('|')
          .slice(1, -1)
          .map((cell) => cell.trim()),
      ),
  )
}

function rates({ low, likely, high }: Numbers, digits: number, times = 1, unit = ''): string {
  const [least, middle, most] = [low, likely, high].map((one) => (times * one).toFixed(digits))
  return `${middle}${unit} [${least} to ${most}]`
}

/** Where the one is hardly longer than the other, both. */
function boundOf({ decode }: Column): string {
  const share = decode.stall_s / (decode.stall_s + decode.compute_s)
  return Math.abs(share - 0.5) < 0.05 ? 'memory and drive alike' : decode.bottleneck
}

function count(value: number): string {
  return value.toLocaleString('en-US')
}
