// How the memory of a GPU is divided, what stays in RAM where it has no room for all that every token needs,
// and that what is drawn then is the same (over the emulation).
import { describe, expect, it } from 'vitest'
import { type BudgetWishes, sizesOf } from '../src/engine/budget.js'
import { divideGpuMemory } from '../src/engine/gpubudget.js'
import { movableOf } from '../src/engine/inram.js'
import type { LayoutWishes } from '../src/engine/layout.js'
import { openCheckpoint } from '../src/model/checkpoint.js'
import { command, lastObject } from './command.js'
import { fromRoot, ringTiny } from './paths.js'

const checkpoint = openCheckpoint(ringTiny)

describe('a GPU too small for what every token needs', () => {
  it('leaves some of it to the processor, says so, and draws the same tokens', async () => {
    const sizes = { ...sizesOf(checkpoint), ...movableOf(checkpoint) }
    const inRamOf = (gpu: number) =>
      divideGpuMemory(checkpoint.config, sizes, { contextTokens: 256 }, { ram: 2 ** 33, gpu })
        .experts.inRam
    let bytes = 2 ** 29
    while ((inRamOf(bytes)?.mlps ?? 0) < 3) bytes -= 2 ** 16
    const words = ['run', '-p', '12+9=?', '-n', '4', '--ctx-size', '256', '--json', '--backend']
    const environment = {
      RING_CUDA_LIBRARY: fromRoot('build/native/Release/ring_cuda_emulated.so'),
      RING_EMULATED_MEMORY: String(bytes),
    }
    const [small, processor] = await Promise.all([
      command([...words, 'cuda'], { environment }),
      command([...words, 'cpu']),
    ])
    expect(small.stderr).toMatch(/the head and the MLPs of layers 0 to 2 \(.*\) stay in memory/)
    expect(lastObject(small).tokens).toEqual(lastObject(processor).tokens)
    expect(lastObject(small)).toMatchObject({ backend: 'cuda' })
  })
})

describe('a budget in GPU memory', () => {
  const { config } = checkpoint
  const sizes = { ...sizesOf(checkpoint), ...movableOf(checkpoint) }
  const MIB = 2 ** 20
  const divided = (wishes: BudgetWishes & LayoutWishes, mebibytes: number, ram = 2 ** 33) =>
    divideGpuMemory(config, sizes, wishes, { ram, gpu: mebibytes * MIB })

  it('has slots for what is left beside weights, KV and head room', () => {
    expect(divided({}, 1024).experts).toMatchObject({ tier: 'gpu', slots: sizes.experts })
    const { plan, experts } = divided({ contextTokens: 512 }, 285)
    expect(experts.slots).toBeGreaterThanOrEqual(config.topK)
    expect(experts.slots).toBeLessThan(sizes.experts)
    const { slots, slotBytes, denseBytes, scaleBytes, scratchBytes } = experts
    const taken = slots * slotBytes + denseBytes + scaleBytes + scratchBytes + plan.kvBytes
    expect(taken).toBeLessThanOrEqual((285 - 256) * MIB)
    expect(taken).toBeGreaterThan((285 - 256) * MIB - slotBytes)
    expect(experts.rooms).toBeLessThanOrEqual(slots)
  })

  it('has slots in RAM below for the others, of what is left there', () => {
    const slotBytes = 64 * MIB
    const large = { ...sizes, slotBytes, expertBytes: sizes.experts * slotBytes }
    const below = (wishes: BudgetWishes, ram: number) => {
      const all = { contextTokens: 512, expertVram: { share: 0.25 }, ...wishes }
      return divideGpuMemory(config, large, all, { ram, gpu: 2 ** 34 }).experts
    }
    const { rooms, slotsBelow, denseBytes, scaleBytes } = below({}, 2 ** 34)
    expect(slotsBelow).toBe(sizes.experts)
    expect(below({ expertVram: { share: 1 } }, 2 ** 34).slotsBelow).toBe(0)
    expect(below({ expertRamMost: (rooms + 30) * slotBytes }, 2 ** 34).slotsBelow).toBe(30)
    const ram = 256 * MIB + denseBytes + scaleBytes + (rooms + 20.5) * slotBytes
    expect(below({}, ram).slotsBelow).toBe(20)
    expect(below({ expertRam: { bytes: (rooms + 9) * slotBytes } }, ram).slotsBelow).toBe(9)
    expect(below({ expertRam: { bytes: 0 } }, ram).slotsBelow).toBe(0)
    const refusal = messageOf(() => below({ expertRam: { share: 0.5 } }, ram))
    const bytes = Number(/; --expert-ram (\d+) would fit$/.exec(refusal)?.[1])
    expect(below({ expertRam: { bytes } }, ram).slotsBelow).toBe(20)
  })

  it('leaves the embedding in RAM, and nothing else where there is room', () => {
    const { denseBytes, inRam } = divided({}, 1024).experts
    expect(inRam).toBe(null)
    expect(denseBytes).toBe(sizes.denseBytes - sizes.embeddingBytes)
    expect(sizes.embeddingBytes).toBeGreaterThan(0)
  })

  it('leaves the head in RAM, then MLPs of the first layers, as far as needed', () => {
    // As of a model whose dense weights are large.
    const mlpBytes = sizes.mlpBytes.map(() => 50 * MIB)
    const added = 100 * MIB - sizes.headBytes + sum(mlpBytes) - sum(sizes.mlpBytes)
    const large = {
      ...{ ...sizes, mlpBytes, headBytes: 100 * MIB, denseBytes: sizes.denseBytes + added },
    }
    const wishes = { contextTokens: 512 }
    const at = (mebibytes: number, more: BudgetWishes & LayoutWishes = {}) =>
      divideGpuMemory(config, large, { ...wishes, ...more }, { ram: 2 ** 34, gpu: mebibytes * MIB })
    const whole = (large.denseBytes - large.embeddingBytes) / MIB + 300
    expect(at(whole).experts.inRam).toBe(null)
    const ways = [50, 140, 190, 240].map((less) => at(whole - less).experts)
    expect(ways.map(({ inRam }) => inRam && [inRam.head, inRam.mlps, inRam.bytes / MIB])).toEqual([
      [true, 0, 100],
      [true, 1, 150],
      [true, 2, 200],
      [true, 3, 250],
    ])
    for (const { denseBytes, inRam } of ways)
      expect(denseBytes + (inRam?.bytes ?? 0)).toBe(large.denseBytes - large.embeddingBytes)
    // Slots that somebody asks for are not what anything is moved for.
    const wanted = { expertVram: { share: 1 } }
    expect(() => at(whole - 290, wanted)).not.toThrow()
    const refusal = messageOf(() => at(256))
    expect(refusal).toMatch(/bytes, the head and all MLPs left in RAM and head room/)
  })

  it('is refused with a setting that fits', () => {
    const asked = { contextTokens: 2048, sequences: 100, expertVram: { share: 1 } }
    const { plan, experts } = divided(asked, 4096)
    const { slotBytes, denseBytes, scaleBytes, scratchBytes } = experts
    const taken = denseBytes + scaleBytes + scratchBytes + plan.kvBytes
    const mebibytes = (taken + 10 * slotBytes) / MIB
    const refusal = messageOf(() => divided(asked, mebibytes))
    const bytes = Number(/; --expert-vram (\d+) would fit$/.exec(refusal)?.[1])
    const fitting = divided({ ...asked, expertVram: { bytes } }, mebibytes).experts.slots
    expect(fitting).toBeGreaterThanOrEqual(config.topK)
    expect(fitting).toBeLessThanOrEqual(10)
  })

  it.each<[string, BudgetWishes & LayoutWishes, number, number, RegExp]>([
    ['weights alone are too many', {}, 257, 2 ** 33, /^not enough GPU memory: .*--backend cpu/],
    [
      'fewer slots than a token wants',
      { expertVram: { share: 0.01 } },
      1024,
      2 ** 33,
      /fewer than/,
    ],
    [
      'a context that is too long',
      { contextTokens: 2048 },
      278,
      2 ** 33,
      /--ctx-size \d+ would fit/,
    ],
    ['no memory for the copies', {}, 1024, 2 ** 28, /^not enough memory: what is copied/],
    [
      'experts that stay in their files',
      { loadMode: 'mapped' },
      1024,
      2 ** 33,
      /--load-mode mapped/,
    ],
  ])('is refused: %s', (_, wishes, mebibytes, ram, said) => {
    expect(messageOf(() => divided(wishes, mebibytes, ram))).toMatch(said)
  })

  function sum(values: readonly number[]): number {
    return values.reduce((all, value) => all + value, 0)
  }

  function messageOf(call: () => unknown): string {
    try {
      call()
    } catch (error) {
      return error instanceof Error ? error.message : ''
    }
    return ''
  }
})
