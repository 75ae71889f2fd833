// Settings that `tune` found: what is kept of them, when they are used, and that nothing that lies in
// their place can stop a command. And which settings are worth trying on which machine.
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { describe, expect, it, vi } from 'vitest'
import { addSharedFlags, type SharedFlags } from '../src/cli/flags.js'
import { Log } from '../src/cli/log.js'
import { findModel } from '../src/cli/source.js'
import { buildHere, placeOf } from '../src/cli/tuned.js'
import { withTuned } from '../src/cli/withtuned.js'
import { flagsIn } from '../src/cli/words.js'
import { batchKnobs, type Given, knobsOf } from '../src/engine/knobs.js'
import { openModel } from '../src/engine/open.js'
import { type Settings, settingsText } from '../src/engine/settings.js'
import {
  dropTuned,
  forgetTuned,
  keepTuned,
  readTuned,
  type TunedEntry,
  tunedPath,
} from '../src/engine/tuned.js'
import { command, ended, lastObject, started, withFolder } from './command.js'
import { ringTiny } from './paths.js'

const MIB = 2 ** 20
const source = findModel(undefined)
const place = placeOf(source)

function entryOf(settings: Settings, more: Partial<TunedEntry> = {}): TunedEntry {
  const tuned = '2026-11-28T08:00:00.000Z'
  return { flags: '', build: buildHere(), tuned, settings, speed: 1.1, ...more }
}

/** A cache folder for the time of one test. */
function withCache(use: (environment: { XDG_CACHE_HOME: string }) => Promise<void>) {
  return withFolder((folder) => use({ XDG_CACHE_HOME: folder }))
}

describe('what is kept', () => {
  it('comes back, an entry for each set of flags, the latest last', async () => {
    await withCache(async (environment) => {
      expect(readTuned(environment, place)).toEqual([])
      const [one, other] = [entryOf({ threads: 3 }), entryOf({}, { flags: '--expert-ram 25%' })]
      keepTuned(environment, place, entryOf({ threads: 2 }))
      keepTuned(environment, place, other)
      keepTuned(environment, place, one)
      expect(readTuned(environment, place)).toEqual([other, one])
      dropTuned(environment, place, '')
      expect(readTuned(environment, place)).toEqual([other])
      expect([forgetTuned(environment, place), forgetTuned(environment, place)]).toEqual([
        ...[true, false],
      ])
      expect(readdirSync(dirname(tunedPath(environment, place)))).toEqual([])
    })
  })

  it('lies apart for another machine, drive or model', () => {
    const others = [
      place,
      { ...place, machine: 'x' },
      { ...place, drive: 'x' },
      { ...place, model: 'x' },
    ]
    expect(new Set(others.map((one) => tunedPath({ HOME: 'h' }, one))).size).toBe(4)
  })

  it('is refused where it is damaged or of elsewhere, with what is wrong', async () => {
    await withCache(async (environment) => {
      const good = { version: 1, ...place, entries: [entryOf({ threads: 2 })] }
      const bad: [unknown, RegExp][] = [
        [{ ...good, version: 2 }, /version must be 1/],
        [{ ...good, machine: 'x' }, /of another machine, drive or model/],
        [{ ...good, entries: [entryOf({ threads: 0 })] }, /threads must be a whole number/],
        [{ ...good, entries: [entryOf({ policy: 'best' })] }, /policy must be auto or lfu/],
        [{ ...good, entries: [{ ...entryOf({}), tuned: 'never' }] }, /tuned must be a date/],
      ]
      keepTuned(environment, place, entryOf({}))
      for (const [file, said] of bad) {
        writeFileSync(tunedPath(environment, place), JSON.stringify(file))
        expect(() => readTuned(environment, place)).toThrow(said)
      }
      // What cannot be read is made anew.
      keepTuned(environment, place, entryOf({ threads: 2 }))
      expect(readTuned(environment, place)).toEqual([entryOf({ threads: 2 })])
    })
  })

  it('is said in the words of the flags', () => {
    const settings = { readChunk: 512 * 1024, threads: 2, expertRamMost: 3 * 2 ** 30 + 1 }
    expect(settingsText(settings)).toBe('threads 2, read-chunk 512KiB, expert-ram-most 3221225473')
    expect(settingsText({})).toBe('')
  })
})

describe('what was found is used', () => {
  /** Puts these entries, or this text, in the place of entries. */
  const put = (cache: { XDG_CACHE_HOME: string }, what: readonly TunedEntry[] | string) => {
    if (typeof what !== 'string') {
      for (const entry of what) keepTuned(cache, place, entry)
      return
    }
    mkdirSync(dirname(tunedPath(cache, place)), { recursive: true })
    writeFileSync(tunedPath(cache, place), what)
  }
  /** What a command with these words says of them, and the flags that it goes by. */
  const used = async (what: readonly TunedEntry[] | string, ...words: string[]) => {
    const lines: string[] = []
    let found: SharedFlags | null = null
    await withCache(async (cache) => {
      put(cache, what)
      vi.stubEnv('XDG_CACHE_HOME', cache.XDG_CACHE_HOME)
      const flags = flagsIn(addSharedFlags, words).opts<SharedFlags>()
      const log = new Log(false, (line) => lines.push(line))
      found = await withTuned(source, flags, log).finally(() => vi.unstubAllEnvs())
    })
    return { text: lines.join('\n'), flags: found }
  }

  it('and named', async () => {
    await withCache(async (cache) => {
      put(cache, [entryOf({ threads: 1, prefetch: 'off', maxBatch: 7 })])
      const environment = { ...cache, RING_NO_TUNED: '' }
      const { status, stderr } = await command(['run', '-p', 'x', '-n', '1'], { environment })
      expect(status).toBe(0)
      expect(stderr).toContain(
        'settings of tune, 2026-11-28: threads 1, prefetch off; --no-tuned to ignore',
      )
      expect(stderr).toMatch(/on cpu, .* 1 thread/)
    })
  })

  it('but for what a flag says, were it what is usual', async () => {
    const { text, flags } = await used(
      [entryOf({ threads: 3, prefetch: 'off' })],
      ...['--prefetch', 'auto'],
    )
    expect(text).toContain('settings of tune, 2026-11-28: threads 3; ')
    expect(flags).toMatchObject({ threads: 3, prefetch: 'auto' })
    const none = await used([entryOf({ threads: 3 })], '--threads', '1')
    expect(none).toMatchObject({ text: '', flags: { threads: 1 } })
  })

  it('but not with --no-tuned, nor where it is the settings as they are', async () => {
    expect(await used([entryOf({ threads: 3 })], '--no-tuned')).toMatchObject({ text: '' })
    expect(await used([entryOf({})])).toMatchObject({ text: '' })
  })

  it('but not under other flags, which are named', async () => {
    const entries = [entryOf({ threads: 3 }), entryOf({ threads: 1 }, { flags: '--math bf16' })]
    const { text } = await used(entries, '--math', 'bf16')
    expect(text).toContain('settings of tune, 2026-11-28: threads 1; ')
    const other = await used(entries, '--expert-ram', '50%')
    expect(other.text).toContain(
      'settings of tune stand for other flags (no flags; --math bf16) and are not used',
    )
  })

  it('which takes effect: reads, and a bound on an automatic budget', () => {
    const reads = {
      ...{ depth: 3, chunkBytes: 2 ** 16 },
      pace: { bytesPerSecond: 1e9, latencySeconds: 0, depth: 32, jitter: 0, seed: 1 },
    }
    const slotsOf = (expertRamMost: number | undefined) => {
      const opened = openModel(ringTiny, { loadMode: 'direct', expertRamMost, reads })
      try {
        expect(opened.stage.device.describe()).toContain('depth 3')
        return opened.experts
      } finally {
        opened.close()
      }
    }
    const { slots, slotBytes, experts } = slotsOf(undefined)
    expect(slots).toBe(experts)
    expect(slotsOf(17.5 * slotBytes).slots).toBe(17)
    // What one token wants in a layer, however little is asked for.
    expect(slotsOf(1).slots).toBe(4)
    expect(slotsOf(2 * experts * slotBytes).slots).toBe(experts)
  })

  it('but not by another build', async () => {
    const { text } = await used([entryOf({ threads: 3 }, { build: 'x' })])
    expect(text).toContain('settings of tune are of another build and are not used')
  })

  it.each(['', '{"version": 1}'])(
    'but not where the file is damaged, which is told in one line (%#)',
    async (text) => {
      const lines = (await used(text)).text.split('\n')
      expect(lines).toHaveLength(1)
      expect(lines[0]).toMatch(/settings of tune are not used: .*\.json/)
    },
  )
})

describe('what is worth trying', () => {
  const given: Given = { hasBudget: false, hasLoadMode: false }
  const opened = (more: { loadMode?: 'mapped' | 'direct'; slots?: number } = {}) => ({
    device: 'cpu, avx2, 8 threads; io_uring, O_DIRECT, depth 32, registered buffers',
    experts: {
      loadMode: 'direct' as const,
      tier: 'ram' as const,
      rooms: 0,
      slotsBelow: 0,
      inRam: null,
      ...{ slots: 40, slotBytes: 25 * MIB, experts: 160, expertReadBytes: 25 * MIB },
      ...{ denseBytes: 0, scaleBytes: 0, scratchBytes: 0 },
      ...more,
    },
  })
  const named = (knobs: readonly { name: string }[]) => knobs.map(({ name }) => name)
  const cores = { logical: 16, physical: 8 }

  it('of experts on a drive: what computes, reads and decides', () => {
    const knobs = knobsOf(opened(), cores, given)
    expect(named(knobs)).toEqual([
      ...['threads', 'prefetch', 'readDepth', 'readChunk', 'policy', 'expertRamMost'],
    ])
    for (const { name, values, start, usual } of knobs) {
      expect(start, name).toBe(usual)
      expect(values[usual], name).toBeDefined()
    }
    const [threads, , depth, chunk] = knobs
    expect(threads?.values).toEqual([16, 8, 15])
    expect(depth?.values[depth.usual]).toBe(32)
    expect(chunk?.values.at(-1)).toBe(8 * MIB)
  })

  it('of experts in memory: threads, and how they lie there', () => {
    const names = named(knobsOf(opened({ slots: 160 }), cores, given))
    expect(names).toEqual(['threads', 'loadMode'])
    expect(named(knobsOf(opened({ loadMode: 'mapped', slots: 0 }), cores, given))).toEqual(names)
  })

  it('what a person has set is the start, or not touched at all', () => {
    const set = { ...given, threads: 3, readChunk: 3 * MIB, readDepth: 1, hasBudget: true }
    const knobs = knobsOf(opened(), cores, set)
    expect(named(knobs)).not.toContain('expertRamMost')
    const starts = knobs.map(({ name, values, start }) => [name, values[start]])
    expect(Object.fromEntries(starts)).toMatchObject({
      threads: 3,
      readChunk: 3 * MIB,
      readDepth: 1,
    })
    const inMemory = opened({ slots: 160 })
    expect(named(knobsOf(inMemory, cores, { ...given, hasLoadMode: true }))).toEqual(['threads'])
    const [batch] = batchKnobs({ ...given, maxBatch: 48 }, 128)
    expect(batch?.values[batch.start]).toBe(48)
  })

  it('of threads that read: as many as there are', () => {
    const device = 'cpu, avx2, 8 threads; 8 threads, O_DIRECT'
    const depth = knobsOf({ ...opened(), device }, cores, given).find(
      ({ name }) => name === 'readDepth',
    )
    expect(depth?.values[depth.usual]).toBe(8)
  })

  it('one core has nothing to choose', () => {
    const lone = { logical: 1, physical: 1 }
    expect(named(knobsOf(opened({ slots: 160 }), lone, { ...given, hasLoadMode: true }))).toEqual(
      [],
    )
  })
})

describe('tune', () => {
  // One read at a time, each of which takes its time: any more at once are surely faster.
  const slow = ['--expert-ram', '25%', '--paced', '1GB/s,1ms']

  it('finds what is surely faster, keeps it when it is stopped, and it is used', async () => {
    await withCache(async (cache) => {
      const words = ['--read-depth', '1', '--try', 'read-depth', '--run-seconds', '0.1']
      const child = started(['tune', ...slow, ...words], cache)
      const end = ended(child)
      let said = ''
      child.stderr.on('data', (text: string) => {
        said += text
        // A second signal would end it at once.
        if (said.includes(': kept') && !child.killed) child.kill('SIGINT')
      })
      const { status, stdout, stderr } = await end
      expect([status, stderr]).toEqual([130, expect.stringContaining('what was confirmed')])
      expect(stdout).toMatch(/^ring-tiny: read-depth 32, \d+\.\d+ times \[.*\] as fast; used from/)
      expect(readTuned(cache, place)).toMatchObject([
        { flags: '--expert-ram 25% --paced 1GB/s,1000us', settings: { readDepth: 32 } },
      ])
      const environment = { ...cache, RING_NO_TUNED: '' }
      const run = await command(['run', '-p', 'x', '-n', '1', ...slow], { environment })
      expect(run.stderr).toContain(': read-depth 32; --no-tuned to ignore')
    })
  }, 180_000)

  it('keeps nothing where nothing is faster, and says what it did', async () => {
    await withCache(async (environment) => {
      // Reads of this model are far smaller than either.
      const words = ['--read-chunk', '64KiB', '--try', 'read-chunk', '--run-seconds', '0.1']
      const all = ['tune', '--expert-ram', '25%', '--paced', '1GB/s,50us', ...words, '--json']
      const ran = await command(all, { environment })
      const report = lastObject(ran) as {
        runs: number
        trials: { setting: string; kept: boolean; forward: number[]; reverse: number[] }[]
      }
      expect(report).toMatchObject({ model: 'ring-tiny', settings: {}, speed: null })
      expect(report.trials).toMatchObject([{ setting: 'read-chunk', to: 2 * MIB, kept: false }])
      const pairs = report.trials.flatMap(({ forward, reverse }) => [...forward, ...reverse])
      expect(report.runs).toBe(6 + 2 * pairs.length)
      expect(pairs.every((ratio) => ratio > 0)).toBe(true)
      expect(readTuned(environment, place)).toEqual([])
      expect(ran.stderr).toContain('runs of the same settings differ by')
    })
  }, 180_000)

  it('shows and forgets', async () => {
    await withCache(async (environment) => {
      keepTuned(environment, place, entryOf({ threads: 3 }))
      const shown = await command(['tune', '--show'], { environment })
      expect(shown.stdout).toBe('ring-tiny: threads 3, 1.100 times as fast, 2026-11-28\n')
      const object = lastObject(await command(['tune', '--show', '--json'], { environment }))
      expect(object).toMatchObject({
        tuned: [{ flags: '', is_used: true, settings: { threads: 3 }, speed: 1.1 }],
      })
      expect((await command(['tune', '--forget'], { environment })).stderr).toContain('forgotten')
      const none = await command(['tune', '--show'], { environment })
      expect(none.stdout).toBe('ring-tiny: no settings were found on this machine\n')
    })
  })
})
