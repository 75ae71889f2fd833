// Modelled time, against sums done by hand: 1 GB/s, experts of 10 MB that take 10 ms, four of them a
// token, layers of 8 ms of which experts have a half: 1 ms for each.
import { describe, expect, it } from 'vitest'
import { type MachineModel, Timeline } from '../src/simulate/machine.js'
import { machine } from './machine.js'

/** Seconds of one token that hits and misses so often in its layers. */
function seconds(
  layers: readonly [hits: number, misses: number][],
  of: Partial<MachineModel> = {},
) {
  const timeline = new Timeline({ ...machine, ...of }, 4)
  for (const [hits, misses] of layers) timeline.layer(hits, misses)
  return 1 / timeline.figures(1).tokensPerSecond
}

describe('a layer', () => {
  it('that hits takes its computing alone', () => {
    expect(seconds([[4, 0]])).toBeCloseTo(8e-3, 9)
    expect(seconds([[4, 0], [4, 0]])).toBeCloseTo(16e-3, 9) // biome-ignore format: one line
  })

  it('computes its hits while the drive reads', () => {
    // 4 ms, then 10 ms of reading that hide 3 ms of hits, then 1 ms for what was read.
    expect(seconds([[3, 1]])).toBeCloseTo(15e-3, 9)
  })

  it('computes each miss as it lands, while the next is read', () => {
    expect(seconds([[0, 4]])).toBeCloseTo(4e-3 + 40e-3 + 1e-3, 9)
    // Slow computing instead: 10 ms for each expert, so the drive waits for nobody.
    expect(seconds([[2, 2]], { layerSeconds: 80e-3 })).toBeCloseTo(40e-3 + 20e-3 + 20e-3, 9)
  })

  it('orders nothing before the layer above is done', () => {
    expect(seconds([[3, 1], [3, 1]])).toBeCloseTo(30e-3, 9) // biome-ignore format: one line
  })
})

describe('a drive', () => {
  it('hides latency behind the reads under way, but the first', () => {
    expect(seconds([[0, 4]], { latencySeconds: 5e-4 })).toBeCloseTo(45.5e-3, 9)
  })

  it('of little depth waits for each chunk', () => {
    const alone = { latencySeconds: 1e-3, depth: 1, chunkBytes: 2e6 }
    // Five chunks of 2 ms, each after 1 ms.
    expect(seconds([[0, 1]], alone)).toBeCloseTo(4e-3 + 15e-3 + 1e-3, 9)
  })

  it('reads a last chunk that is smaller', () => {
    expect(seconds([[0, 1]], { chunkBytes: 3e6 })).toBeCloseTo(15e-3, 9)
  })
})

describe('the share of bound', () => {
  it('is what had to be read at the rate of the drive, over all time', () => {
    const timeline = new Timeline(machine, 4)
    timeline.layer(3, 1)
    timeline.layer(4, 0)
    expect(timeline.figures(1).shareOfBound).toBeCloseTo(10 / 23, 9)
  })

  it('of no time at all is none', () => {
    expect(new Timeline(machine, 4).figures(0)).toEqual({ tokensPerSecond: 0, shareOfBound: 0 })
  })
})
