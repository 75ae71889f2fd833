// The same bits from experts that are large enough to be read in several chunks: ring-tiny widened, so
// its routing is real. Tokens and raw logits must not depend on budget, mode or policy, on what was
// evicted, or on when a read lands.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Counter, FaultKind, type ReadFault } from '../native/index.js'
import type { Cache } from '../src/cache/cache.js'
import { createPolicy, policyNames } from '../src/cache/policies.js'
import type { CacheShape, Policy } from '../src/cache/policy.js'
import { Profile } from '../src/cache/profile.js'
import { SlotCache } from '../src/cache/slotcache.js'
import type { OpenModel, OpenWishes } from '../src/engine/open.js'
import { openCheckpoint } from '../src/model/checkpoint.js'
import { widen } from '../src/model/widen.js'
import { Dice } from './dice.js'
import { withModel } from './drive.js'
import { tinyGoldens } from './goldens.js'
import { type Continuation, continuation } from './logits.js'
import { ringTiny } from './paths.js'
import { written } from './written.js'

const folder = mkdtempSync(join(tmpdir(), 'ring-'))
const model = join(folder, 'wide')
afterAll(() => rmSync(folder, { recursive: true }))

const long = tinyGoldens.find((one) => one.golden.name === 'raw-prose-long')?.golden.ids ?? []
const chat = tinyGoldens.find((one) => one.golden.name === 'chat-add')?.golden.ids ?? []
/** In one step it sweeps; in steps of up to 128 tokens experts are taken as they land. */
const prompt = Array.from({ length: 260 }, (_, index) => long[index % long.length] ?? 0)
const drawn = 12

/** Reads of 64 KiB that take as long as chance says. */
const paced: OpenWishes['reads'] = {
  pace: { bytesPerSecond: 2e9, latencySeconds: 1e-4, depth: 8, jitter: 1, seed: 5 },
  chunkBytes: 65536,
}

function wishes(more: OpenWishes): OpenWishes {
  return { threads: 2, contextTokens: 512, ...more }
}

function direct(share: number, more: OpenWishes = {}): OpenWishes {
  return wishes({ loadMode: 'direct', expertRam: { share }, ...more })
}

function mapped(more: OpenWishes = {}): OpenWishes {
  return wishes({ loadMode: 'mapped', ...more })
}

const run = (how: OpenWishes, ids: readonly number[] = prompt) =>
  withModel(model, how, (opened) => continuation(opened, ids, drawn))

let expected: Continuation
/** Which experts a prompt and its answer use. */
let profile: Profile

beforeAll(async () => {
  await written(model, widen(openCheckpoint(ringTiny), { hidden: 2, expert: 2 }), 16 * 2 ** 20)
  expected = run(mapped())
  profile = withModel(model, direct(0.5), (opened) => profileOf(opened, chat))
})

describe('the same tokens and logits, widened', () => {
  it('are those of the small model', () => {
    const small = withModel(ringTiny, mapped(), (opened) => continuation(opened, prompt, drawn))
    expect(expected.tokens).toEqual(small.tokens)
    expect(new Set(expected.logits).size).toBe(drawn)
  })

  it.each([1, 0.5, 0.25, 0.1])('with slots for %d of the experts', (share) => {
    expect(run(direct(share))).toEqual(expected)
  })

  it.each([1, 0.5, 0.25, 0.1])('mapped, and advised to keep %d of the experts', (share) => {
    expect(run(mapped({ expertRam: { share }, stepTokens: 100 }))).toEqual(expected)
  })
})

describe.each(policyNames.map((name) => name.replace('SEED', '13')))('the policy %s', (name) => {
  it('gives the same with slots for a tenth of the experts, read late', () => {
    const how = direct(0.1, { reads: paced, stepTokens: 100 })
    withModel(model, how, (opened) => {
      expect(continuation(opened, prompt, drawn, under(opened, name))).toEqual(expected)
      expect(total(opened.counters.layers.evictions)).toBeGreaterThan(0)
    })
  })
})

describe('reads that lag', () => {
  it('behind all others at random places change nothing', () => {
    const faults = slowExperts(0.02)
    withModel(model, direct(0.25, { reads: { faults } }), (opened) => {
      expect(continuation(opened, prompt, drawn)).toEqual(expected)
      expect(opened.counters.device[Counter.stall_nvme_s]).toBeGreaterThan(0.02)
    })
  })
})

describe('a prompt that wants more experts than there are slots', () => {
  const slotBytes = 3 * (512 * 256 + 4096)
  it.each([
    ['as few as one token wants', 4],
    ['five', 5],
    ['half as many as a layer has', 16],
  ])('gives the same with slots: %s', (_title, slots) => {
    for (const stepTokens of [90, 260]) {
      const budget = { expertRam: { bytes: slots * slotBytes }, policy: 'random:3' }
      withModel(model, direct(0, { stepTokens, ...budget }), (opened) => {
        expect(opened.experts.slots).toBe(slots)
        expect(continuation(opened, prompt, drawn)).toEqual(expected)
      })
    }
  })
})

/** The model's stage with its cache under another policy. */
function under(opened: OpenModel, name: string): OpenModel['stage'] {
  const shape = shapeOf(opened)
  return {
    ...opened.stage,
    cache: new SlotCache(shape, policyOf(name, shape), opened.counters.layers),
  }
}

function policyOf(name: string, shape: CacheShape): Policy {
  const policy = createPolicy(name, shape, profile)
  if ('problem' in policy) throw new Error(policy.problem)
  return policy
}

function shapeOf({ checkpoint, experts: { slots } }: OpenModel): CacheShape {
  const { layers, firstMoeLayer, experts, topK } = checkpoint.config
  return { moeLayers: layers - firstMoeLayer, experts, topK, slots }
}

function profileOf(opened: OpenModel, ids: readonly number[]): Profile {
  const { moeLayers, experts } = shapeOf(opened)
  const made = new Profile(moeLayers, experts)
  const { cache } = opened.stage
  const listening: Cache = {
    used(records) {
      made.add(records)
      cache.used(records)
    },
    settle: (events) => cache.settle(events),
    place: (moeLayer, wanted, tokens) => cache.place(moeLayer, wanted, tokens),
  }
  continuation(opened, ids, drawn, { ...opened.stage, cache: listening })
  expect(total(made.counts)).toBe((ids.length + drawn - 1) * moeLayers * 4)
  return made
}

/** A third of the experts, by chance, each of which is late every time. */
function slowExperts(delaySeconds: number): ReadFault[] {
  const dice = new Dice(17)
  const { layers } = openCheckpoint(model)
  const late = layers.flatMap(({ experts }) => experts).filter(() => dice.below(3) === 0)
  return late.map(({ down }) => {
    const offset = down.offset + down.rows
    return { kind: FaultKind.slow, file: down.file, offset, bytes: 1, times: -1, delaySeconds }
  })
}

function total(values: Float64Array): number {
  return values.reduce((sum, value) => sum + value, 0)
}
