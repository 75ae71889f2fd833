// `simulate` as a person starts it: an object for scripts, a table, a page, and one line for what
// cannot be done.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Command } from 'commander'
import { describe, expect, it } from 'vitest'
import { addSimulateFlags, type SimulateFlags } from '../src/cli/simulateflags.js'
import { judge } from '../src/simulate/judge.js'
import { readRouting } from '../src/simulate/source.js'
import { command, lastObject, withFolder } from './command.js'
import { fixtures } from './paths.js'

const tiny = join(fixtures, 'traces/ring-tiny.trace')
const gptoss = join(fixtures, 'traces/public/gptoss.route.csv')

function simulate(...words: string[]) {
  return command(['simulate', ...words])
}

describe('simulate --json', () => {
  it('judges every policy with every number of slots on every trace, whatever the threads', async () => {
    const words = [tiny, gptoss, '--slots', '12.5%,3,0.1%', '--policy', 'lru,lfu,belady', '--json']
    const ends = await Promise.all(['1', '2'].map((n) => simulate(...words, '--threads', n)))
    const [object = {}, other = {}] = ends.map(lastObject)
    expect(ends.map(({ status }) => status)).toEqual([0, 0])
    expect(other).toEqual(object)
    const results = object.results as Record<string, unknown>[]
    expect(results).toHaveLength(2 * 3 * 3)
    for (const [path, experts] of [
      [tiny, 32],
      [gptoss, 128],
    ] as const) {
      const routing = readRouting(path)
      const own = results.filter(({ trace }) => trace === path)
      const slots = new Set(own.map((result) => result.slots_per_layer))
      expect(slots).toEqual(new Set([experts / 8, 3, 1]))
      for (const { policy, slots_per_layer: count, ...figures } of own) {
        const [name, slotsPerLayer] = [String(policy), Number(count)]
        const judged = judge(
          routing,
          { policy: name, slotsPerLayer, scope: 'layer', phase: 'decode' },
          null,
        )
        if ('problem' in judged) throw new Error(judged.problem)
        const { requests, hits } = judged
        const hitRate = hits / requests
        const expected = { scope: 'layer', phase: 'decode', requests, hits, hit_rate: hitRate }
        expect(figures).toMatchObject({ ...expected, share: slotsPerLayer / experts })
      }
    }
  })

  it('counts the phase and the scope that were asked for', async () => {
    const words = [gptoss, '--slots', '4', '--policy', 'lru', '--json', '-q']
    const results = await Promise.all(
      [[], ['--phase', 'all'], ['--scope', 'global']].map(async (more) => {
        const { results } = lastObject(await simulate(...words, ...more))
        return (results as Record<string, unknown>[])[0]
      }),
    )
    const [decode, all, global] = results
    expect(decode).toMatchObject({ requests: 64 * 36 * 2 })
    expect(all).toMatchObject({ phase: 'all', requests: 64 * 36 * 2 + 85 * 35 * 2 + 2 })
    expect(global).toMatchObject({ scope: 'global', requests: 64 * 36 * 2 })
    expect(global?.hits).not.toBe(decode?.hits)
  })

  it('says how far a policy gets from recency to the bound, and what a machine makes of it', async () => {
    const machine = 'drive=2GB/s,compute=3ms,expert=25MB'
    const words = [gptoss, '--slots', '25%', '--policy', 'lru,lfu,belady,static', '--json']
    const object = lastObject(await simulate(...words, '--machine', machine))
    const results = object.results as Record<string, number>[]
    const [lru, lfu, belady, fixed] = results
    expect([lru?.gap_closed, belady?.gap_closed, fixed?.gap_closed]).toEqual([0, 1, null])
    const gap = ((lfu?.hits ?? 0) - (lru?.hits ?? 0)) / ((belady?.hits ?? 0) - (lru?.hits ?? 0))
    expect(lfu?.gap_closed).toBeCloseTo(gap, 12)
    const misses = (one: Record<string, number> | undefined) =>
      (one?.requests ?? 0) - (one?.hits ?? 0)
    expect([lru?.misses_against_lru, fixed?.misses_against_lru]).toEqual([0, null])
    expect(lfu?.misses_against_lru).toBeCloseTo(misses(lfu) / misses(lru) - 1, 12)
    // What had to be read over all of the time that the tokens took.
    for (const { requests = 0, hits = 0, tokens_s: rate = 0, share_of_bound: share } of results) {
      expect(share).toBeCloseTo((((requests - hits) * 25e6) / 2e9) * (rate / 64), 9)
      expect(share).toBeGreaterThan(0)
      expect(share).toBeLessThan(1)
    }
    expect(belady?.tokens_s).toBeGreaterThan(lru?.tokens_s ?? 0)
  })
})

describe('simulate', () => {
  it('prints a table of hit rates for a person', async () => {
    const { stdout } = await simulate(gptoss, '--slots', '8,25%', '--policy', 'lru,belady')
    expect(stdout).toMatch(/36 layers x 128 experts, top 2/)
    expect(stdout).toMatch(/distinct experts in a layer: \d+ to \d+/)
    expect(stdout).toMatch(/hit rate of decode, slots of each layer +8 \(6\.3%\) +32 \(25\.0%\)\n/)
    expect(stdout).toMatch(/misses against lru .*\n {2}lru +0\.0% +0\.0%\n {2}belady +-35\.\d% /)
    expect(stdout).toMatch(/\n {2}lru +51\.\d% +80\.\d%\n {2}belady +68\.5% +88\.3%\n/)
  })

  it('writes a page that needs nothing else, with names shown and not obeyed', async () => {
    await withFolder(async (folder) => {
      const page = join(folder, '<page>.html')
      const { status } = await simulate(tiny, '--slots', '10%,50%', '--html', page)
      expect(status).toBe(0)
      const html = readFileSync(page, 'utf8')
      expect(html).not.toMatch(/https?:|<script|<link|<img|@import|url\(/)
      expect(html).toContain('prefers-color-scheme: dark')
      expect(html.match(/<svg viewBox="0 0 900 /g)).toHaveLength(2)
      expect(html).toMatch(/<title>belady, 16 slots \(50 %\): \d+\.\d %<\/title>/)
      // Every cell of five layers of 32 experts is in one path or another.
      const cells = [...html.matchAll(/<path class="h\d" d="([^"]+)"/g)].flatMap(
        ([, path = '']) => path.match(/M/g) ?? [],
      )
      expect(cells).toHaveLength(5 * 32)
    })
  })

  it.each([
    [[], 2, /expected a trace, or --generate SEED/],
    [[fixtures], 1, /cannot be read: illegal operation on a directory/],
    [[tiny, '--slots', '33'], 2, /--slots 33: .* has 32 experts in a layer/],
    [[tiny, '--policy', 'lru,fifo'], 1, /no policy is named fifo; there are .*belady/],
    [[tiny, '--html', join(fixtures, 'none', 'page.html')], 1, /cannot be written/],
  ] as [string[], number, RegExp][])('refuses %j with one line', async (words, expected, why) => {
    const { status, stdout, stderr } = await simulate(...words, '-q')
    expect(stderr).toMatch(why)
    expect(stderr.trimEnd().split('\n')).toHaveLength(1)
    expect(stdout).toBe('')
    expect(status).toBe(expected)
  })
})

describe('a flag of simulate', () => {
  function parsed(...words: string[]): SimulateFlags {
    const flags = addSimulateFlags(new Command().exitOverride().configureOutput({ writeErr() {} }))
    return flags.parse(words, { from: 'user' }).opts()
  }

  it('becomes numbers', () => {
    const machine = 'drive=2GB/s,compute=3ms,expert=25MB,mix=50%,latency=80us,chunk=1MiB,depth=4'
    expect(parsed('--slots', '8,2.5%', '--machine', machine)).toMatchObject({
      slots: [{ slots: 8 }, { share: 0.025 }],
      machine: {
        bytesPerSecond: 2e9,
        latencySeconds: expect.closeTo(80e-6, 12),
        chunkBytes: 2 ** 20,
        depth: 4,
        expertBytes: 25e6,
        layerSeconds: 3e-3,
        expertShare: 0.5,
      },
    })
  })

  it.each([
    ['--slots', '0', /Expected slots/],
    ['--slots', '101%', /Expected a number above 0 and at most 100/],
    ['--scope', 'world', /Allowed choices are layer, global/],
    ['--machine', 'drive=2GB/s,compute=3ms', /Expected expert=/],
    ['--machine', 'drive=fast,compute=3ms,expert=1MB', /Expected a rate such as/],
    ['--machine', 'drive=1GB/s,compute=3ms,expert=1MB,mix=2', /Expected a share such as/],
    ['--machine', 'drive=1GB/s,compute=3ms,expert=1GB,chunk=1B', /at most 4096 chunks/],
    ['--machine', 'speed=2', /Expected NAME=VALUE of drive/],
    ['--machine', 'drive=1GB/s,compute=3ms,expert=1MB,copy=5', /Expected a rate such as/],
    ['--machine', 'drive=1GB/s,compute=3ms,expert=1MB,ram=50%', /Expected copy= beside ram=/],
    ['--prefetch', 'on,maybe', /Expected off, auto, on, oracle, wrong/],
  ])('%s %s is refused', (flag, text, why) => {
    expect(() => parsed(flag, text)).toThrow(why)
  })
})
