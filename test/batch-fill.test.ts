// How full the steps of a job are: places that are free are taken at once, answers that need little keep
// little, and where room runs out somebody waits, with the same bits. Counted in steps, not by the clock.
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { Engine, type EngineWishes } from '../dist/src/engine/engine.js'
import { Control } from '../native/index.js'
import { Durable } from '../src/batch/durable.js'
import { Journal } from '../src/batch/journal.js'
import { clearOwnKv, kvPlaceOf } from '../src/batch/kvplace.js'
import { Company, sketchOf } from '../src/batch/likeness.js'
import { type Choosing, nextOf, waitingMost } from '../src/batch/order.js'
import { Results } from '../src/batch/results.js'
import { Total } from '../src/engine/activity.js'
import { kvBlockTokens } from '../src/engine/kv.js'
import { type Emission, type Listener, Loop } from '../src/engine/loop.js'
import type { OpenWishes } from '../src/engine/open.js'
import type { Request } from '../src/engine/sequence.js'
import { FillFigure, KvFigure, WidthFigure } from '../src/engine/stats.js'
import { Width } from '../src/engine/width.js'
import { linesOnFourMatters, prepared, textLine } from './batching.js'
import { command, lastObject, withFolder } from './command.js'
import { Dice } from './dice.js'
import { withModel } from './drive.js'
import { requestOf } from './models.js'
import { ringTiny } from './paths.js'

/** The figures of the summary's line about steps. */
function fillOf(stderr: string) {
  const found =
    /mean batch (\S+) of (\d+) in (\d+) steps; (\S+) in the (\d+) with enough left/.exec(stderr) ??
    []
  const [, mean = Number.NaN, places = Number.NaN, steps = 0, fullMean = 0, fullSteps = 0] =
    found.map(Number)
  return { mean, places, steps, fullMean, fullSteps }
}

describe('a job', () => {
  it('keeps 0.95 of its places taken while as many lines are left, lengths spread over 1 to 50', async () => {
    await withFolder(async (folder) => {
      const dice = new Dice(8)
      const lines = Array.from({ length: 160 }, (_, number) =>
        textLine(`${number}`, {
          prompt: `Scene ${number}. Enter`,
          max_tokens: 2 * (1 + dice.below(50)),
          ignore_eos: true,
        }),
      )
      const { words } = prepared(folder, lines)
      const { status, stderr } = await command([...words, '--max-batch', '16'])
      expect(status, stderr).toBe(0)
      const { mean, places, steps, fullMean, fullSteps } = fillOf(stderr)
      expect(places).toBe(16)
      // Nearly all steps could have been full: at the end the last few lines are alone.
      expect(fullSteps).toBeGreaterThan(0.75 * steps)
      expect(fullMean / places).toBeGreaterThanOrEqual(0.95)
      expect(fullMean / places).toBeLessThanOrEqual(1)
      expect(mean / places).toBeGreaterThanOrEqual(0.95)
    })
  })

  it('computes a prompt once, however many answers it is to have', async () => {
    await withFolder(async (folder) => {
      const prompt = Array.from({ length: 4 * kvBlockTokens + 1 }, (_, at) => 5 + (at % 200))
      const body = { prompt, max_tokens: 8, ignore_eos: true, n: 4, temperature: 1 }
      const { words } = prepared(folder, [textLine('four', body)])
      const end = await command([...words, '--json'])
      const { status, stderr } = end
      expect(status, stderr).toBe(0)
      expect(lastObject(end)).toMatchObject({
        ...{ lines: 1, answered: 1, drawn_tokens: 32, known_tokens: 3 * 4 * kvBlockTokens },
        steps: { parked: 0, mean_batch: expect.any(Number) },
        batch: { most: 4, at_first: 4 },
      })
      // All but the last token, whose logits each of the others wants for itself.
      expect(stderr).toContain(`${3 * 4 * kvBlockTokens} of them known`)
    })
  })
})

describe('what answers had that gave way', () => {
  it('lies beside the output, or where a person says, or nowhere, and takes nothing else along when it goes', async () => {
    await withFolder(async (folder) => {
      const output = join(folder, 'out.jsonl')
      const own = kvPlaceOf(output, undefined, undefined)
      expect(own).toMatchObject({ kvDir: `${output}.kv`, kvDiskOf: 'parked' })
      expect(own.kvDiskBytes).toBeGreaterThan(0)
      expect(kvPlaceOf(output, folder, 5)).toEqual({ kvDir: folder, kvDiskBytes: 5 })
      for (const named of [undefined, folder])
        expect(kvPlaceOf(output, named, 0)).toEqual({ kvDir: undefined })
      mkdirSync(`${output}.kv`)
      for (const file of ['a.kv', 'b.partial', 'letter.txt'])
        writeFileSync(join(`${output}.kv`, file), '')
      clearOwnKv(output)
      expect(readdirSync(`${output}.kv`)).toEqual(['letter.txt'])
    })
  })
})

describe('the order of lines', () => {
  const prose = sketchOf([3, 4, 5, 6, 7, 8])
  const sums = sketchOf([900, 901, 902, 903])
  const lineOf = (number: number, mayDraw: number, sketch = prose) => {
    return { number, mayDraw, sketch, hasTokens: false, begunBefore: 0 }
  }
  const company = new Company()
  company.join(sums)
  const choosing: Choosing = {
    ...{ company, begun: 0, window: 8, places: 2, areLast: false },
    ...{ oldest: 5, areTooMany: false },
  }
  const mixed = [lineOf(5, 30), lineOf(6, 80), lineOf(7, 10, sums), lineOf(8, 80, sums)]

  it('is that of the input, but for lines like those in work, and those that an earlier run began', () => {
    expect(nextOf(mixed, choosing)).toBe(2)
    expect(nextOf(mixed.slice(0, 2), choosing)).toBe(0)
    const begun = mixed.map((line, at) => ({ ...line, hasTokens: at === 1 }))
    expect(nextOf(begun, choosing)).toBe(1)
  })

  it('is chosen from a window, and nobody is passed over for more than two', () => {
    expect(nextOf(mixed, { ...choosing, window: 2 })).toBe(0)
    expect(nextOf(mixed, { ...choosing, window: 1 })).toBe(0)
    expect(nextOf(mixed, { ...choosing, begun: 15 })).toBe(2)
    expect(nextOf(mixed, { ...choosing, begun: 16 })).toBe(0)
    expect(waitingMost(8, 2)).toBe(8)
    expect(waitingMost(1, 2)).toBe(8)
  })

  it('is the longest of the last ones first, of equal ones the likest, then that of the input', () => {
    const begun: number[] = []
    const left = [...mixed]
    while (left.length > 0) {
      const at = nextOf(left, { ...choosing, begun: 99, areLast: true }) ?? -1
      begun.push(...left.splice(at, 1).map(({ number }) => number))
    }
    expect(begun).toEqual([8, 6, 5, 7])
  })

  it('lets only the oldest begin while too many results wait for it', () => {
    expect(nextOf(mixed, { ...choosing, areTooMany: true })).toBe(0)
    expect(nextOf(mixed, { ...choosing, areTooMany: true, oldest: 4 })).toBeNull()
  })

  it('makes steps want fewer different experts, and no other answers', async () => {
    await withFolder(async (folder) => {
      const lines = linesOnFourMatters(96, 24, 3)
      const ran = async (name: string, window: number) => {
        const { words, output } = prepared(folder, lines, name)
        const flags = ['--max-batch', '6', '--window', `${window}`, '--json', '-q']
        const end = await command([...words, ...flags])
        expect(end.status, end.stderr).toBe(0)
        const { experts } = lastObject(end) as { experts: { requests: number } }
        return { wanted: experts.requests, output: readFileSync(output) }
      }
      const asTheyCome = await ran('first', 1)
      const likest = await ran('second', 1024)
      expect(likest.output.equals(asTheyCome.output)).toBe(true)
      expect(likest.wanted).toBeLessThan(0.9 * asTheyCome.wanted)
    })
  })

  it('knows how much waits for the oldest', async () => {
    await withFolder(async (folder) => {
      const head = {
        ...{ version: 1 as const, program: '', input: '', model: '', instructionSet: '' },
        ...{ contextTokens: 1, settings: {} },
      }
      const journal = Journal.open(join(folder, 'journal'), head, null)
      const output = Durable.open(join(folder, 'output'), 0)
      const results = new Results(output, journal, 'input', 0, 10)
      const add = (line: number, text: string) => {
        const counts = { promptTokens: 1, completionTokens: 1, answers: 1, right: null }
        results.add({ line, text, isAnswered: true, ...counts })
        results.keep()
        return [results.oldest, results.areTooMany]
      }
      for (const line of [1, 2, 3]) results.expect(line)
      expect(add(2, '0123456789')).toEqual([1, false])
      expect(add(3, '0')).toEqual([1, true])
      expect(add(1, 'first')).toEqual([-1, false])
      output.close()
      journal.close()
      expect(readFileSync(join(folder, 'output'), 'utf8')).toBe('first\n0123456789\n0\n')
    })
  })
})

interface Driven {
  readonly bits: string
  readonly steps: number
  readonly mean: number
  readonly share: number
  readonly timesParked: number
  readonly tokensRead: number
  /** Numbers of sequences that were tried. */
  readonly trials: number
}

/** All requests at once, as many as fit in each step; what each gave, to the bit. */
function driven(
  requests: readonly Request[],
  wishes: OpenWishes,
  width: Width | null = null,
): Driven {
  const control = new Int32Array(Control.cancel + requests.length)
  return withModel(ringTiny, { contextTokens: 512, ...wishes, control }, (model) => {
    const given = requests.map((): Emission[] => [])
    const reasons: string[] = []
    const listener: Listener = {
      onToken: (slot, emission) => given[slot]?.push(emission),
      onEnding: (slot, { reason }) => {
        reasons[slot] = reason
      },
    }
    // As jobs have it: prompts are read as soon as there is a place, whatever the clock says.
    const loop = new Loop(model, listener, null, 0, width)
    for (const [slot, request] of requests.entries()) loop.add(slot, request)
    while (!loop.isIdle) loop.turn()
    const { fill, activity } = model.counters
    const of = (figure: number) => fill[figure] ?? 0
    return {
      bits: JSON.stringify([given, reasons]),
      steps: of(FillFigure.steps),
      mean: of(FillFigure.sequences) / of(FillFigure.steps),
      share: of(FillFigure.fullShares) / of(FillFigure.fullSteps),
      timesParked: of(FillFigure.parked),
      tokensRead: activity.totals[Total.read] ?? 0,
      trials: model.counters.width[WidthFigure.trials] ?? 0,
    }
  })
}

describe('keys and values by need', () => {
  const dice = new Dice(2)
  /** Short answers that may be long, as those are whose length nobody knows. */
  const requests = Array.from({ length: 48 }, (_, number) => {
    const prompt = Array.from({ length: 3 + dice.below(20) }, () => dice.below(1000))
    const stopIds = Array.from({ length: 12 }, () => dice.below(1000))
    const sampling = { ...requestOf([1]).sampling, temperature: 1, seed: BigInt(number) }
    return requestOf(prompt, { maxTokens: 200, stopIds, sampling })
  })
  /** Room for four answers that are as long as they may be. */
  const kvTokens = 4 * 224

  it('let more answers share a step than may be long together, and change no bit', () => {
    const alone = driven(requests, { sequences: 1 })
    const reserved = driven(requests, { sequences: 16, kvTokens })
    const byNeed = driven(requests, { sequences: 16, kvTokens, kvByNeed: true })
    expect(byNeed.bits).toBe(alone.bits)
    expect(reserved.bits).toBe(alone.bits)
    expect(byNeed.mean).toBeGreaterThan(1.5 * reserved.mean)
    expect(byNeed.share).toBeGreaterThanOrEqual(0.95)
  })

  it('where they run out, park the newest, which goes on with the same bits; so do those that wait', () => {
    const long = requests.map((request) => ({ ...request, maxTokens: 120, stopIds: [] }))
    const alone = driven(long, { sequences: 1 })
    const parking = driven(long, { sequences: 16, kvTokens, kvByNeed: true })
    expect(parking.timesParked).toBeGreaterThan(10)
    expect(parking.bits).toBe(alone.bits)
    // What an answer had is mostly still there when it goes on.
    const drawn = 120 * long.length
    // And where more and fewer share a step by turns.
    const width = new Width(8, 16)
    const trying = driven(long, { sequences: 16, kvTokens: 2 * kvTokens, kvByNeed: true }, width)
    expect(trying.trials).toBeGreaterThan(0)
    expect(trying.bits).toBe(alone.bits)
    const prompts = long.reduce((sum, { prompt }) => sum + prompt.length, 0)
    expect(parking.tokensRead).toBeLessThan(prompts + 0.5 * drawn)
  })

  /** What these requests give through an engine; all of them are put off once one has `most` tokens. */
  async function engaged(
    asked: readonly Request[],
    wishes: EngineWishes,
    most = Number.POSITIVE_INFINITY,
  ) {
    const shared = { contextTokens: 224, kvByNeed: true, drawShare: 0, waiting: asked.length }
    const engine = await Engine.open(ringTiny, { ...shared, ...wishes })
    const generations = asked.map((request) => engine.generate(request))
    const given = generations.map(async (generation) => {
      const emissions: Emission[] = []
      for await (const emission of generation) {
        emissions.push(emission)
        if (emissions.length === most) for (const one of generations) one.cancel(true)
      }
      return emissions
    })
    const emissions = await Promise.all(given)
    const { fill, kv } = engine.facts.counters
    await engine.close()
    const figure = (of: number) => fill[of] ?? 0
    return {
      emissions,
      parked: figure(FillFigure.parked),
      restored: figure(FillFigure.restored),
      again: figure(FillFigure.again),
      written: kv[KvFigure.bytesWritten] ?? 0,
    }
  }

  const longer = requests
    .slice(0, 16)
    .map((request) => ({ ...request, maxTokens: 120, stopIds: [] }))
  const tight = { sequences: 10, kvTokens: 256 }
  const quick = { kvDiskOf: 'parked', kvDiskRate: 1e15 } as const

  it('of those that are parked are kept on a drive where that is quicker, and come back, the same bits', async () => {
    await withFolder(async (folder) => {
      const kvDir = join(folder, 'kv')
      const without = await engaged(longer, tight)
      const kept = await engaged(longer, { ...tight, ...quick, kvDir })
      expect(kept.emissions).toEqual(without.emissions)
      expect(kept.parked).toBeGreaterThan(5)
      expect(without.restored).toBe(0)
      expect(kept.restored).toBeGreaterThan(0)
      // Whole blocks come back: less than one is computed again each time.
      expect(kept.again).toBeLessThan(kvBlockTokens * kept.parked)
      // A byte a second is slower than any step.
      const slow = { ...tight, ...quick, kvDiskRate: 1, kvDir: join(folder, 'slow') }
      expect(await engaged(longer, slow)).toMatchObject({ restored: 0, written: 0 })
      expect(existsSync(slow.kvDir)).toBe(false)
    })
  })

  it('of those that go on in another run come back there, but for what is damaged', async () => {
    await withFolder(async (folder) => {
      const kvDir = join(folder, 'kv')
      const asked = longer.slice(0, 4)
      const whole = await engaged(asked, { sequences: 4 })
      const part = await engaged(asked, { sequences: 4, ...quick, kvDir }, 100)
      const files = readdirSync(kvDir)
      const damaged = join(kvDir, files.toSorted().at(-1) ?? '')
      const bytes = readFileSync(damaged)
      bytes[bytes.length - 1] = (bytes[bytes.length - 1] ?? 0) ^ 1
      writeFileSync(damaged, bytes)
      const rest = asked.map((request, at) => {
        const drawn = part.emissions[at]?.map(({ token }) => token) ?? []
        return { ...request, drawnBefore: Int32Array.from(drawn) }
      })
      const resumed = await engaged(rest, { sequences: 4, ...quick, kvDir })
      for (const [at, emissions] of resumed.emissions.entries())
        expect([...(part.emissions[at] ?? []), ...emissions]).toEqual(whole.emissions[at])
      // Three blocks of each at least, but for those behind the damage; the rest is read again.
      expect(resumed.restored).toBeGreaterThanOrEqual(3 * 3 * kvBlockTokens)
      expect(resumed.again).toBeGreaterThan(0)
    })
  })
})
