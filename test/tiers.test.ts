// Experts in slots: whatever the budget, the policy, the way of reading and the order of arrival, the
// same bits come out; and a read that fails costs those who needed it, nobody else.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { Counter, FaultKind, type ReadFault } from '../native/index.js'
import type { OpenWishes } from '../src/engine/open.js'
import { openCheckpoint } from '../src/model/checkpoint.js'
import { command } from './command.js'
import { drive, driveOne, withModel } from './drive.js'
import { tinyGoldens } from './goldens.js'
import { requestOf } from './models.js'
import { ringTiny } from './paths.js'

const long = tinyGoldens.find((one) => one.golden.name === 'raw-prose-long')?.golden.ids ?? []
const chat = tinyGoldens.find((one) => one.golden.name === 'chat-add')?.golden.ids ?? []
const sort = tinyGoldens.find((one) => one.golden.name === 'chat-sort')?.golden.ids ?? []

/** A scored prompt, then drawn tokens: everything that came out, as text. */
function bits(wishes: OpenWishes, ids: readonly number[]): string {
  const request = requestOf(ids, { maxTokens: 24, topLogprobs: 4, routing: true })
  const { emissions, ending } = driveOne(ringTiny, wishes, request)
  expect(ending.message).toBe('')
  const weights = ending.scored?.weights ?? new Float32Array(0)
  return JSON.stringify([emissions, Buffer.from(weights.buffer).toString('hex')])
}

const total = (values: Float64Array) => values.reduce((sum, value) => sum + value, 0)

const direct = (share: number, more: OpenWishes = {}): OpenWishes => ({
  loadMode: 'direct',
  expertRam: { share },
  threads: 2,
  ...more,
})

describe('the same bits', () => {
  const mapped = bits({ loadMode: 'mapped', threads: 2 }, chat)

  it.each([1, 0.5, 0.25, 0.1])('with slots for %d of the experts', (share) => {
    expect(bits(direct(share), chat)).toBe(mapped)
  })

  it.each(['lru', 'lfu', 'random:7'])('under the policy %s', (policy) => {
    expect(bits(direct(0.15, { policy }), chat)).toBe(mapped)
  })

  it.each(['uring_registered', 'uring', 'threads', 'buffered'] as const)('read by %s', (rung) => {
    expect(bits(direct(0.2, { reads: { rung } }), chat)).toBe(mapped)
  })

  it('with random evictions and random delays of reads', () => {
    const pace = { bytesPerSecond: 4e8, latencySeconds: 3e-4, depth: 8, jitter: 1, seed: 3 }
    const wishes = direct(0.1, { policy: 'random:11', reads: { pace, chunkBytes: 16384 } })
    expect(bits(wishes, chat)).toBe(mapped)
  })

  it('of a prompt that wants more experts at once than there are slots', () => {
    const whole = bits({ loadMode: 'mapped', threads: 2 }, long)
    const fewest = { bytes: 4 * 131072 }
    expect(bits({ ...direct(0.1), expertRam: fewest }, long)).toBe(whole)
  })

  it('of a sweep through fewer slots than a layer has experts', () => {
    const ids = Array.from({ length: 400 }, (_, index) => long[index % long.length] ?? 0)
    const whole = bits({ loadMode: 'mapped', threads: 2 }, ids)
    expect(bits(direct(0.05), ids)).toBe(whole)
    expect(bits(direct(0.1, { stepTokens: 130 }), ids)).toBe(whole)
  })

  it('of sweeps that look ahead, while reads are late by chance', () => {
    const ids = Array.from({ length: 700 }, (_, index) => long[index % long.length] ?? 0)
    const request = () => requestOf(ids, { maxTokens: 4, topLogprobs: 2 })
    const whole = driveOne(ringTiny, { loadMode: 'mapped', threads: 2 }, request())
    const pace = { bytesPerSecond: 4e8, latencySeconds: 1e-3, depth: 8, jitter: 1, seed: 9 }
    for (const share of [0.04, 0.1, 0.5]) {
      for (const policy of ['lfu', 'random:5']) {
        // Of the four tokens that are drawn behind the sweeps, forecasts may read ahead as well.
        const alone = { policy, stepTokens: 140, prefetch: 'off' } as const
        const wishes = direct(share, { ...alone, reads: { pace } })
        withModel(ringTiny, wishes, (model) => {
          const [driven] = drive(model, [request()])
          expect(driven?.emissions).toEqual(whole.emissions)
          const { ahead, aheadHits, aheadWasted, misses } = model.counters.layers
          // Five sweeps, each with four layers that may be looked ahead to.
          expect(total(ahead)).toBeGreaterThanOrEqual(20)
          expect(ahead[0]).toBe(0)
          const needed = total(misses) + total(aheadHits)
          expect(total(aheadWasted)).toBeLessThanOrEqual(0.02 * needed)
        })
      }
    }
  })

  it('of two sequences that share the slots', () => {
    const both = (wishes: OpenWishes) =>
      withModel(ringTiny, { ...wishes, sequences: 2 }, (model) =>
        drive(model, [requestOf(chat, { maxTokens: 16 }), requestOf(sort, { maxTokens: 16 })]).map(
          ({ emissions }) => emissions,
        ),
      )
    expect(both(direct(0.1))).toEqual(both({ loadMode: 'mapped' }))
  })
})

describe('what is counted', () => {
  it('one miss for each expert when all have a slot, and hits from then on', () => {
    withModel(ringTiny, direct(1), (model) => {
      const { layers } = model.counters
      drive(model, [requestOf(chat, { maxTokens: 24 })])
      const first = total(layers.misses)
      expect(first).toBeGreaterThan(0)
      expect(first).toBeLessThanOrEqual(160)
      expect(total(layers.requests)).toBe(total(layers.hits) + first)
      drive(model, [requestOf(chat, { maxTokens: 24 })])
      expect(total(layers.misses)).toBe(first)
      expect(total(layers.evictions)).toBe(0)
    })
  })
})

describe('a read that fails', () => {
  const checkpoint = openCheckpoint(ringTiny)
  const { experts: perLayer, topK } = checkpoint.config
  const moeLayers = checkpoint.config.layers - checkpoint.config.firstMoeLayer

  /** Experts of the model, as the prompt and 12 drawn tokens want them. */
  function wantedBy(ids: readonly number[]): Set<number> {
    const request = requestOf(ids, { maxTokens: 12, routing: true })
    const { scored } = driveOne(ringTiny, { loadMode: 'mapped' }, request).ending
    const experts = [...(scored?.experts ?? [])]
    const perMoeLayer = experts.length / moeLayers
    expect(perMoeLayer % topK).toBe(0)
    return new Set(experts.map((index, at) => Math.floor(at / perMoeLayer) * perLayer + index))
  }

  /** A fault on one byte of an expert, far from its neighbours in the file. */
  function faultOn(expert: number, kind: number, times: number): ReadFault {
    const layer = checkpoint.layers[checkpoint.config.firstMoeLayer + Math.floor(expert / perLayer)]
    const up = layer?.experts[expert % perLayer]?.up
    if (up === undefined) throw new Error(`there is no expert ${expert}`)
    const offset = up.offset + Math.floor((up.rows * up.columns) / 2)
    return { kind, file: up.file, offset, bytes: 1, times, delaySeconds: 0 }
  }

  const ofChat = wantedBy(chat)
  const ofSort = wantedBy(sort)
  const onlyChat = [...ofChat].find((expert) => !ofSort.has(expert)) ?? -1
  const request = (ids: readonly number[]) => requestOf(ids, { maxTokens: 12 })
  const alone = (ids: readonly number[]) =>
    driveOne(ringTiny, { loadMode: 'mapped' }, request(ids)).emissions

  it.each([
    ['error', FaultKind.error],
    ['short read', FaultKind.short_read],
  ] as const)('twice by %s is read a third time, and nobody notices', (_, kind) => {
    const faults = [faultOn(onlyChat, kind, 2)]
    withModel(ringTiny, direct(0.5, { reads: { faults } }), (model) => {
      const [driven] = drive(model, [request(chat)])
      expect(driven?.ending.reason).toBe('length')
      expect(driven?.emissions).toEqual(alone(chat))
      expect(model.counters.device[Counter.failures]).toBe(0)
      if (kind === FaultKind.error) expect(model.counters.device[Counter.retries]).toBe(2)
    })
  })

  it('always fails the sequence that needs it, with file and byte, and no other', () => {
    const fault = faultOn(onlyChat, FaultKind.error, -1)
    const wishes = direct(0.5, { sequences: 2, reads: { faults: [fault] } })
    withModel(ringTiny, wishes, (model) => {
      const [first, second] = drive(model, [request(chat), request(sort)])
      expect(first?.ending.reason).toBe('failed')
      expect(first?.ending.message).toMatch(/safetensors: cannot be read at byte \d+: Input/)
      expect(second?.ending.reason).toBe('length')
      expect(second?.emissions).toEqual(alone(sort))
    })
  })

  it('leaves no slot behind: a hundred failures later everything else still runs', () => {
    const fault = faultOn(onlyChat, FaultKind.gone, -1)
    // Four slots: one that leaked would be missed at once.
    const wishes = { ...direct(0), expertRam: { bytes: 4 * 131072 }, reads: { faults: [fault] } }
    withModel(ringTiny, wishes, (model) => {
      for (let round = 0; round < 100; round += 1) {
        const [driven] = drive(model, [requestOf(chat, { maxTokens: 1 })])
        expect(['failed', 'length']).toContain(driven?.ending.reason)
      }
      const [driven] = drive(model, [request(sort)])
      expect(driven?.emissions).toEqual(alone(sort))
      expect(model.counters.device[Counter.failures]).toBeGreaterThan(50)
    })
  })

  it('with a wrong checksum is read again once; a block that stays wrong is never computed with', async () => {
    const home = mkdtempSync(join(tmpdir(), 'ring-manifest-'))
    const before = process.env.XDG_CACHE_HOME
    process.env.XDG_CACHE_HOME = home
    try {
      const verified = await command(['verify', ringTiny], {
        environment: { XDG_CACHE_HOME: home },
      })
      expect(verified.stderr).not.toMatch(/error/)
      expect(verified.status).toBe(0)
      for (const [times, reason] of [
        [1, 'length'],
        [-1, 'failed'],
      ] as const) {
        const faults = [faultOn(onlyChat, FaultKind.flip, times)]
        withModel(ringTiny, direct(0.5, { reads: { faults } }), (model) => {
          const [driven] = drive(model, [request(chat)])
          expect(driven?.ending.reason).toBe(reason)
          expect(model.counters.device[Counter.mismatches]).toBeGreaterThan(0)
          if (times === 1) expect(driven?.emissions).toEqual(alone(chat))
          else expect(driven?.ending.message).toMatch(/differ from the checksum/)
        })
      }
    } finally {
      if (before === undefined) delete process.env.XDG_CACHE_HOME
      else process.env.XDG_CACHE_HOME = before
      rmSync(home, { recursive: true })
    }
  })
})

describe('a budget that cannot be', () => {
  it.each([
    ['fewer slots than one token wants', { bytes: 2 * 131072 }, /fewer than the 4/],
  ] as const)('is refused: %s', (_, expertRam, message) => {
    expect(() => withModel(ringTiny, { ...direct(1), expertRam }, () => {})).toThrow(message)
  })

  it('is refused for a policy that nobody knows', () => {
    expect(() => withModel(ringTiny, direct(1, { policy: 'clever' }), () => {})).toThrow(
      /--policy: no policy is named clever/,
    )
  })
})
