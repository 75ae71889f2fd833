// Experts of a backend with slots of its own that the processor computes where they lie in RAM, and what a person
// is told of memory on either side of the link. The library is the one for tests with late copies, whose products
// are the processor's own: so the bits are the same whoever computed what.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Counter } from '../native/index.js'
import type { ExpertPlan } from '../src/engine/budget.js'
import { GpuWatch } from '../src/engine/gpuwatch.js'
import type { OpenWishes } from '../src/engine/open.js'
import { command, lastObject } from './command.js'
import { drive, withModel } from './drive.js'
import { tinyGoldens } from './goldens.js'
import { requestOf } from './models.js'
import { fromRoot, ringTiny } from './paths.js'

const named = { RING_CUDA_LIBRARY: fromRoot('build/native/Release/ring_delayed.so') }
const chat = tinyGoldens.find(({ golden }) => golden.name === 'chat-add')?.golden.ids ?? []

const variables = { ...named, RING_DELAY_SEED: '5' }
beforeAll(() => {
  Object.assign(process.env, variables)
})
afterAll(() => {
  for (const name of Object.keys(variables)) delete process.env[name]
})

describe('experts in RAM that the processor computes', () => {
  /** Seconds of decode, experts that the processor computed, copies, and what was drawn. */
  const shared = (cpuExperts: 'auto' | 'off', delayUs: string, prefetch: 'on' | 'off') => {
    process.env.RING_DELAY_US = delayUs
    try {
      const wishes: OpenWishes = {
        ...{ backend: 'cuda', expertVram: { share: 0.1 }, expertRam: { share: 1 }, threads: 2 },
        ...{ prefetch, forecastEvery: 32, cpuExperts },
      }
      return withModel(ringTiny, wishes, (model) => {
        // Everything lies in RAM.
        for (let round = 0; round < 2; round += 1) drive(model, [requestOf(chat, { maxTokens: 8 })])
        const { device } = model.counters
        const hosted = device[Counter.host_experts] ?? 0
        const copied = device[Counter.bytes_copied] ?? 0
        const [driven] = drive(model, [requestOf(chat, { maxTokens: 24, topLogprobs: 4 })])
        return {
          seconds: driven?.ending.stats.decodeSeconds ?? Number.NaN,
          hosted: (device[Counter.host_experts] ?? 0) - hosted,
          copies: ((device[Counter.bytes_copied] ?? 0) - copied) / model.experts.expertReadBytes,
          emissions: driven?.emissions,
        }
      })
    } finally {
      delete process.env.RING_DELAY_US
    }
  }

  it.each(['on', 'off'] as const)(
    'take less time than slow copies, and have the same bits, look-ahead %s',
    (prefetch) => {
      const [off, auto] = [shared('off', '2000', prefetch), shared('auto', '2000', prefetch)]
      expect(auto.emissions).toEqual(off.emissions)
      expect(off.hosted).toBe(0)
      // Windows without it, for comparison, copy as ever.
      expect(auto.hosted).toBeGreaterThan(off.copies / 4)
      expect(auto.copies).toBeLessThan(off.copies)
      expect(auto.seconds).toBeLessThan(0.8 * off.seconds)
    },
  )

  it('are told of, and make a run that is not reproducible', async () => {
    const budgets = ['--expert-vram', '10%', '--expert-ram', '100%', '--cpu-experts', 'auto']
    const words = ['run', '-p', '12+9=?', '-n', '8', '--backend', 'cuda', ...budgets, '--json']
    const ran = await command(words, { environment: { ...named, RING_DELAY_US: '2000' } })
    expect(ran.stderr).toMatch(/some experts are computed by the processor: .* not reproducible/)
    expect(ran.stderr).toMatch(/memory that the GPU copies from: .* pinned at /)
    expect(lastObject(ran)).toMatchObject({ reproducible: false })
  })
})

describe('memory beside a GPU', () => {
  const experts = { slots: 10, slotBytes: 2 ** 26, rooms: 4, slotsBelow: 12 } as ExpertPlan
  const watched = () => {
    const counters = new Float64Array(Counter.count)
    const lines: string[] = []
    const watch = new GpuWatch(counters, experts, (line) => lines.push(line))
    return (figures: Readonly<Record<number, number>>) => {
      for (const [counter, value] of Object.entries(figures)) counters[Number(counter)] = value
      lines.length = 0
      for (let times = 0; times < 2; times += 1) watch.look()
      return [...lines]
    }
  }

  it('is told of once when all of it has been pinned, or could not be', () => {
    const look = watched()
    expect(look({ [Counter.bytes_lent]: 2 ** 29, [Counter.bytes_pinned]: 2 ** 29 })).toEqual([])
    const whole = { [Counter.bytes_lent]: 2 ** 30, [Counter.pin_s]: 0.25 }
    expect(look({ ...whole, [Counter.bytes_pinned]: 2 ** 29 })).toEqual([
      'memory that the GPU copies from: 512 MiB pinned at 2.00 GiB/s',
      'memory that the GPU copies from: 512 MiB could not be pinned; copies from there are slower',
    ])
  })

  it('is told of when others take what was left, with a budget that leaves it to them', () => {
    const look = watched()
    expect(look({ [Counter.gpu_free_bytes]: 2 ** 29 })).toEqual([])
    const [line = '', ...more] = look({ [Counter.gpu_free_bytes]: 2 ** 26 })
    expect(line).toMatch(/^GPU memory: others have taken some, 64\.0 MiB are left; --expert-vram/)
    expect(line).toContain(` ${10 * 2 ** 26 - (2 ** 28 - 2 ** 26)} `)
    expect(more).toEqual([])
    expect(look({ [Counter.gpu_free_bytes]: 2 ** 28 })).toEqual([])
    expect(look({ [Counter.gpu_free_bytes]: 2 ** 20 })).toHaveLength(1)
  })
})
