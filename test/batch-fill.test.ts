// How full the steps of a job are: places that are free are taken at once, answers that need little keep
// little, and where room runs out somebody waits, with the same bits. Counted in steps, not by the clock.
import { describe, expect, it } from 'vitest'
import { Control } from '../native/index.js'
import { Total } from '../src/engine/activity.js'
import { kvBlockTokens } from '../src/engine/kv.js'
import { type Emission, Loop } from '../src/engine/loop.js'
import type { OpenWishes } from '../src/engine/open.js'
import type { Request } from '../src/engine/sequence.js'
import { FillFigure } from '../src/engine/stats.js'
import { prepared, textLine } from './batching.js'
import { command, withFolder } from './command.js'
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
      expect(mean / places).toBeGreaterThanOrEqual(0.8)
    })
  })

  it('computes a prompt once, however many answers it is to have', async () => {
    await withFolder(async (folder) => {
      const prompt = Array.from({ length: 4 * kvBlockTokens + 1 }, (_, at) => 5 + (at % 200))
      const body = { prompt, max_tokens: 8, ignore_eos: true, n: 4, temperature: 1 }
      const { words } = prepared(folder, [textLine('four', body)])
      const { status, stderr } = await command(words)
      expect(status, stderr).toBe(0)
      // All but the last token, whose logits each of the others wants for itself.
      expect(stderr).toContain(`${3 * 4 * kvBlockTokens} of them known`)
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
}

/** All requests at once, as many as fit in each step; what each gave, to the bit. */
function driven(requests: readonly Request[], wishes: OpenWishes): Driven {
  const control = new Int32Array(Control.cancel + requests.length)
  return withModel(ringTiny, { contextTokens: 512, ...wishes, control }, (model) => {
    const given = requests.map((): Emission[] => [])
    const reasons: string[] = []
    const loop = new Loop(model, {
      onToken: (slot, emission) => given[slot]?.push(emission),
      onEnding: (slot, { reason }) => {
        reasons[slot] = reason
      },
    })
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

  it('where they run out, park the newest, which goes on with the same bits', () => {
    const long = requests.map((request) => ({ ...request, maxTokens: 120, stopIds: [] }))
    const alone = driven(long, { sequences: 1 })
    const parking = driven(long, { sequences: 16, kvTokens, kvByNeed: true })
    expect(parking.timesParked).toBeGreaterThan(10)
    expect(parking.bits).toBe(alone.bits)
    // What an answer had is mostly still there when it goes on.
    const drawn = 120 * long.length
    const prompts = long.reduce((sum, { prompt }) => sum + prompt.length, 0)
    expect(parking.tokensRead).toBeLessThan(prompts + 0.5 * drawn)
  })
})
