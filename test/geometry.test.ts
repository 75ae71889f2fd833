// A trillion parameters as numbers: a checkpoint of Ring-1T's config whose large matrices are holes.
// What opening it costs in time and memory, what is said where it cannot fit, and what deciding costs
// per layer when there are 76 x 256 experts. Figures are of processes of their own.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { newLayerCounts } from '../src/cache/counts.js'
import { createPolicy } from '../src/cache/policies.js'
import { SlotCache } from '../src/cache/slotcache.js'
import { type BudgetWishes, type ExpertPlan, planExperts, sizesOf } from '../src/engine/budget.js'
import { type LayoutWishes, planMemory } from '../src/engine/layout.js'
import type { OpenWishes } from '../src/engine/open.js'
import { type Checkpoint, openCheckpoint } from '../src/model/checkpoint.js'
import { ModelError } from '../src/model/error.js'
import { synth } from '../src/model/synth.js'
import { CacheDevice, usesOf } from './cachedevice.js'
import { Dice } from './dice.js'
import { fromRoot } from './paths.js'
import { peakOf } from './peak.js'
import { written } from './written.js'

const folder = mkdtempSync(join(os.tmpdir(), 'ring-'))
afterAll(() => rmSync(folder, { recursive: true }))

const config: Record<string, unknown> = JSON.parse(
  readFileSync(fromRoot('test/fixtures/configs/ring-1t.json'), 'utf8'),
)

interface Opening {
  readonly seconds: number
  readonly peakBytes: number
  /** Why it was refused; empty when it was opened. */
  readonly refusal: string
  readonly loadMode: string
  readonly experts: number
  readonly slots: number
}

/** Index, headers and tables through the device, by the built program's own parts. */
const opening = `
const [folder, wishes] = process.argv.slice(1)
const { openModel } = await import(${JSON.stringify(fromRoot('dist/src/engine/open.js'))})
const begin = performance.now()
let told = { refusal: '' }
try {
  const model = openModel(folder, JSON.parse(wishes))
  const { loadMode, experts, slots } = model.experts
  told = { ...told, loadMode, experts, slots }
  model.close()
} catch (error) {
  told = { refusal: error.message }
}
console.log(JSON.stringify({ ...told, seconds: (performance.now() - begin) / 1000 }))`

async function opened(model: string, wishes: OpenWishes): Promise<Opening> {
  const words = ['--input-type=module', '-e', opening, model, JSON.stringify(wishes)]
  const { stdout, stderr, peakBytes } = await peakOf(words)
  if (stdout === '') throw new Error(stderr)
  return { ...JSON.parse(stdout), peakBytes }
}

const model = join(folder, 'all 80 layers')
let checkpoint: Checkpoint
beforeAll(async () => {
  await written(model, synth(config, { seed: 0, sparse: true, dtype: 'fp8' }))
  checkpoint = openCheckpoint(model)
})

describe('Ring-1T in FP8, all 80 layers', () => {
  it('opens in under 10 s and 2 GB, mapped, with a budget', async () => {
    const experts = 76 * 256
    const wishes: OpenWishes = { loadMode: 'mapped', expertRam: { share: 0.25 } }
    const { seconds, peakBytes, ...found } = await opened(model, wishes)
    console.log(`all 80 layers: ${seconds.toFixed(2)} s, ${(peakBytes / 1e6).toFixed(0)} MB`)
    expect(found).toEqual({ refusal: '', loadMode: 'mapped', experts, slots: experts / 4 })
    expect(seconds).toBeLessThan(10)
    expect(peakBytes).toBeLessThan(2e9)
    // All headers were read, and the scales are in memory.
    expect(peakBytes).toBeGreaterThan(sizesOf(checkpoint).scaleBytes + 40e6)
  })

  it('reads nothing before it refuses slots for all experts, in one line', async (context) => {
    if (os.totalmem() > sizesOf(checkpoint).expertBytes) return context.skip('they would fit here')
    const { refusal, seconds, peakBytes } = await opened(model, {
      loadMode: 'direct',
      expertRam: { share: 1 },
    })
    console.log(`all 80 layers: ${refusal}`)
    expect(refusal).toMatch(/^[^\n]*; --[a-z-]+ [^\n]*(would fit|leaves them)[^\n]*$/)
    expect(seconds).toBeLessThan(10)
    expect(peakBytes).toBeLessThan(1e9)
  })
})

describe('what is named where Ring-1T does not fit', () => {
  type Wishes = BudgetWishes & LayoutWishes
  /** As opening plans it, on a machine with so much free memory. */
  function plan(freeBytes: number, wishes: Wishes): ExpertPlan {
    const sizes = sizesOf(checkpoint)
    const stays = wishes.loadMode === 'mapped' ? 0 : sizes.denseBytes + sizes.scaleBytes
    const memory = planMemory(checkpoint.config, wishes, freeBytes - stays)
    return planExperts(checkpoint.config, sizes, wishes, memory, freeBytes, 2)
  }

  const direct: Wishes = { loadMode: 'direct', contextTokens: 4096 }
  const gigabytes = (count: number): Wishes => ({ ...direct, expertRam: { bytes: count * 1e9 } })

  // Dense weights, scales and scratch are 23.7 GB, the KV of 4,096 tokens 1.3 GB, 8 slots 0.4 GB.
  it.each<[string, number, Wishes, RegExp]>([
    ['less for experts', 128e9, gigabytes(200), /; --expert-ram \d{11} would fit$/],
    ['less, without head room', 25.5e9, gigabytes(1), /; --expert-ram 402751488 would fit$/],
    [
      'less, and a shorter context',
      25.2e9,
      gigabytes(1),
      /; --expert-ram 402751488 --ctx-size \d+ would fit$/,
    ],
    ['a shorter context', 26.5e9, direct, /head room .*; --ctx-size \d+ would fit$/],
    [
      'maps',
      24.3e9,
      { ...direct, contextTokens: 512 },
      /; --load-mode mapped would fit: it leaves weights in their files$/,
    ],
    [
      'maps, whatever the budget',
      24e9,
      { ...gigabytes(1), contextTokens: 512 },
      /; --load-mode mapped would fit/,
    ],
    [
      'maps, for dense weights alone',
      16e9,
      direct,
      /are 7432269824 bytes more than is free; --load-mode mapped leaves/,
    ],
  ])('%s', (_title, freeBytes, wishes, expected) => {
    const said = refusalOf(() => plan(freeBytes, wishes))
    expect(said).toMatch(expected)
    const slots = plan(freeBytes, { ...wishes, ...settingsIn(said) })
    expect(slots.slots * slots.slotBytes).toBeLessThan(freeBytes)
  })

  function refusalOf(refused: () => unknown): string {
    try {
      refused()
    } catch (error) {
      if (error instanceof ModelError) return error.message
      throw error
    }
    throw new Error('it was not refused')
  }

  /** What the line names after its semicolon, as a person would set it. */
  function settingsIn(said: string): Wishes {
    const named = said.slice(said.lastIndexOf(';'))
    const number = (flag: string) =>
      Number(new RegExp(`${flag} (\\d+)`).exec(named)?.[1] ?? Number.NaN)
    const [bytes, contextTokens] = [number('--expert-ram'), number('--ctx-size')]
    return {
      ...(Number.isNaN(bytes) ? {} : { expertRam: { bytes } }),
      ...(Number.isNaN(contextTokens) ? {} : { contextTokens }),
      ...(named.includes('--load-mode mapped') ? { loadMode: 'mapped' as const } : {}),
    }
  }
})

describe('deciding for 76 layers of 256 experts, 8 to a token', () => {
  const moeLayers = 76
  const experts = 256
  const topK = 8

  it.each([
    ['lfu', 0.25],
    ['lfu', 0.02],
    ['lru', 0.25],
    ['lru', 0.02],
  ])('under %s with slots for %d of them takes microseconds a layer', (name, share) => {
    const shape = { moeLayers, experts, topK, slots: Math.round(share * moeLayers * experts) }
    const policy = createPolicy(name, shape)
    if ('problem' in policy) throw new Error(policy.problem)
    const counts = newLayerCounts(moeLayers)
    const cache = new SlotCache(shape, policy, counts)
    const device = new CacheDevice(experts, shape.slots).touchAll()
    const dice = new Dice(23)
    const times: number[] = []
    for (let token = 0; token < 60; token += 1) {
      for (let layer = 0; layer < moeLayers; layer += 1) {
        const wanted = routed(dice, layer)
        const uses = usesOf(layer, experts, [...wanted])
        const begin = performance.now()
        device.tell(cache)
        cache.used(uses)
        const plan = cache.place(layer, wanted, 1)
        const end = performance.now()
        device.stage(plan.orders)
        expect(device.mix(layer, wanted, plan.places, 1)).toHaveLength(0)
        if (token >= 20) times.push(1000 * (end - begin))
      }
    }
    times.sort((a, b) => a - b)
    const mean = times.reduce((sum, time) => sum + time, 0) / times.length
    const hits = counts.hits.reduce((sum, count) => sum + count, 0) / (60 * moeLayers * topK)
    const [median = 0, late = 0] = [0.5, 0.99].map((at) => times[Math.floor(times.length * at)])
    console.log(
      `${name}, ${shape.slots} slots, hits ${hits.toFixed(2)}: mean ${mean.toFixed(1)} us a layer, median ${median.toFixed(1)}, 99 % ${late.toFixed(1)}`,
    )
    expect(median).toBeLessThan(200)
    // It was work: some were there, some had to be brought, some gave way.
    expect(hits).toBeGreaterThan(0.01)
    expect(hits).toBeLessThan(0.9)
    expect(counts.evictions.some((count) => count > 0)).toBe(true)
  })

  /** Eight experts of a layer, rising; each layer has favourites of its own. */
  function routed(dice: Dice, layer: number): Int32Array {
    const chosen = new Set<number>()
    while (chosen.size < topK) {
      const rank = Math.floor((dice.below(1000) ** 2 / 1e6) * experts)
      chosen.add((rank * 37 + layer * 11) % experts)
    }
    return Int32Array.from(chosen).sort()
  }
})
