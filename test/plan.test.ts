// Plans as functions: sums that hold by themselves, more memory and more drives that never harm, the bottleneck
// where it was put, and the same as a rehearsal by hand.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { createPolicy } from '../src/cache/policies.js'
import { sizesOf } from '../src/engine/budget.js'
import { divideGpuMemory } from '../src/engine/gpubudget.js'
import { openCheckpoint } from '../src/model/checkpoint.js'
import { type ModelConfig, parseConfig, readConfig } from '../src/model/config.js'
import { inventoryOfConfig } from '../src/model/inventory.js'
import { decodePlan, machineModel } from '../src/plan/decode.js'
import { fitOf } from '../src/plan/fit.js'
import { type Forecast, type ForecastWishes, forecast, type Subject } from '../src/plan/forecast.js'
import { geometryOf } from '../src/plan/geometry.js'
import {
  assumedMachine,
  freeOf,
  type MachineName,
  type PlannedMachine,
  withNumbers,
} from '../src/plan/machine.js'
import { batchPlan, wideStep } from '../src/plan/manytokens.js'
import { plannedModel } from '../src/plan/published.js'
import { crowd, rehearse } from '../src/plan/rehearse.js'
import { madeRouting, type PlannedRouting, recordedRouting, stepsOf } from '../src/plan/routing.js'
import { oneToken, speedsOf } from '../src/plan/speeds.js'
import { plainRouters } from '../src/simulate/foresightrouter.js'
import { Rehearsal } from '../src/simulate/rehearsal.js'
import { decodeTokensOf, walk } from '../src/simulate/routing.js'
import { readRouting } from '../src/simulate/source.js'
import { Dice } from './dice.js'
import { fixtures, fromRoot, ringTiny } from './paths.js'
import { routingOf } from './routings.js'

const GIB = 2 ** 30
const published = fromRoot('models/published')

/** The geometry of ring-tiny widened 16 by 16: 160 experts of 25 MB. */
const tiny = readConfig(ringTiny)
const wide = {
  ...tiny,
  hidden: 16 * tiny.hidden,
  expertWidth: 16 * tiny.expertWidth,
  sharedWidth: 16 * tiny.sharedWidth,
  denseWidth: 16 * tiny.denseWidth,
}
const trace = readRouting(join(fixtures, 'traces/ring-tiny-ahead.trace'))
const routing = recordedRouting(trace, plainRouters, wide)
const subject: Subject = { config: wide, geometry: geometryOf(wide), routing }
const wishes: ForecastWishes = {
  contextTokens: 512,
  promptTokens: 64,
  answerTokens: 64,
  batches: [4, 16],
}

function machine(numbers: Partial<Record<MachineName, number>> = {}): PlannedMachine {
  const usual = { ram: 3 * GIB, cores: 2, memory: 40e9, drive: 2e9 }
  return withNumbers(assumedMachine(), { ...usual, ...numbers }, 'given')
}

function planned(numbers: Partial<Record<MachineName, number>>, more = {}): Forecast {
  const found = forecast(subject, machine(numbers), { ...wishes, ...more })
  if ('problem' in found) throw new Error(found.problem)
  return found
}

describe('what a model amounts to', () => {
  it.each(['inclusionAI/Ring-1T-FP8', 'inclusionAI/Ring-flash-2.0', 'inclusionAI/Ling-mini-2.0'])(
    'is the sum of its parts: %s',
    (name) => {
      const { config } = plannedModel(name, published)
      const { bytes, parameters } = inventoryOfConfig(config)
      const { moeLayers, topK, attention, shared, expert, outer, embeddingBytes } =
        geometryOf(config)
      const each = (kind: 'bytes' | 'products') =>
        moeLayers * (attention[kind] + shared[kind]) + outer[kind]
      expect(each('bytes') + embeddingBytes).toBe(bytes.dense)
      expect(expert.bytes).toBe(bytes.oneExpert)
      const embedding = config.vocabulary * config.hidden
      expect(each('products') + moeLayers * topK * expert.products + embedding).toBe(
        parameters.active,
      )
    },
  )

  it('takes as much memory as the checkpoint that the engine opens', () => {
    expect(geometryOf(tiny).sizes).toEqual(sizesOf(openCheckpoint(ringTiny)))
  })
})

describe('published models', () => {
  it('are as their configs are, in FP8 where the name says so', () => {
    const [plain, small] = ['inclusionAI/Ring-1T', 'inclusionAI/Ring-1T-FP8'].map((name) =>
      inventoryOfConfig(plannedModel(name, published).config),
    )
    expect(plain?.parameters.total).toBe(999_705_328_640)
    expect((small?.bytes.total ?? 0) / 1e9).toBeCloseTo(1002.92, 2)
    expect(plannedModel('inclusionAI/Ling-1T', published).config.context).toBe(32768)
  })

  it.each(['ring-1t', 'ring-flash', 'ring-mini'])('%s is the published config', (name) => {
    const text = (path: string) => readFileSync(path, 'utf8')
    const config = text(join(published, `${name}.json`))
    expect(config).toBe(text(join(fixtures, `configs/${name}.json`)))
    expect(() => parseConfig(config, name)).not.toThrow()
  })
})

describe('decode', () => {
  it('is a rehearsal of the engine on the routing', () => {
    const fit = fitOf(wide, subject.geometry, machine(), { ...wishes, expertRam: { share: 0.25 } })
    if ('problem' in fit) throw new Error(fit.problem)
    const speeds = speedsOf(subject.geometry, machine(), fit, oneToken(96), 'likely')
    const modelled = machineModel(subject.geometry, machine(), speeds)
    const shape = { moeLayers: 5, experts: 32, topK: 4, slots: 40 }
    const policy = createPolicy('auto', shape)
    if ('problem' in policy) throw new Error(policy.problem)
    const rehearsal = new Rehearsal(trace, {
      ...{ policy, slotsPerLayer: 8, machine: modelled, routers: plainRouters },
      lookAhead: 'off',
    })
    walk(trace, (visit) => rehearsal.visit(visit))
    const tokens = decodeTokensOf(trace)
    const { tokensPerSecond, shareOfBound } = rehearsal.figures(tokens)
    const of = rehearse(routing, 8, modelled, 'off')
    expect(1 / (5 * of.seconds)).toBeCloseTo(tokensPerSecond, 6)
    expect(of.stallSeconds).toBeCloseTo(of.seconds - modelled.layerSeconds, 9)
    const read = (5 * of.misses * modelled.expertBytes) / modelled.bytesPerSecond
    expect(read * tokensPerSecond).toBeCloseTo(shareOfBound, 6)
    expect(of.misses).toBeGreaterThan(1)
    const plan = decodePlan(subject.geometry, machine(), fit, routing, 96)
    expect(plan.misses).toBeCloseTo(5 * of.misses, 9)
    const seconds = plan.computeSeconds + plan.stallSeconds
    expect(1 / plan.tokensPerSecond.likely).toBeCloseTo(seconds, 9)
    // Without look-ahead it takes longer, but not by more than look-ahead can win.
    expect(seconds - speeds.outer).toBeLessThan(5 * of.seconds * 1.02)
    expect(seconds - speeds.outer).toBeGreaterThan(5 * of.seconds * 0.8)
  })

  it('is never slower with more memory, and finds more there', () => {
    const plans = [0.1, 0.2, 0.3, 0.5, 0.75, 1].map(
      (share) => planned({ ram: 16 * GIB }, { expertRam: { share } }).decode,
    )
    const rates = plans.map(({ tokensPerSecond }) => tokensPerSecond.likely)
    expect(rates).toEqual([...rates].sort((a, b) => a - b))
    expect(new Set(rates).size).toBe(6)
    const hits = plans.map(({ hitRate }) => hitRate.likely)
    expect(hits).toEqual([...hits].sort((a, b) => a - b))
    expect(hits.at(-1)).toBe(1)
    expect(plans.at(-1)).toMatchObject({ misses: 0, stallSeconds: 0, bottleneck: 'memory' })
  })

  it('is never slower with more drives', () => {
    const rates = [1, 2, 4, 8].map((drives) => planned({ drives }).decode.tokensPerSecond.likely)
    expect(rates).toEqual([...rates].sort((a, b) => a - b))
    const [one = 0, two = 0] = rates
    expect(two / one).toBeGreaterThan(1.5)
    expect(two / one).toBeLessThan(2)
  })

  it('gives slow, likely and fast in this order', () => {
    const { tokensPerSecond, hitRate } = planned({}).decode
    for (const { low, likely, high } of [tokensPerSecond, hitRate]) {
      expect(low).toBeLessThan(likely)
      expect(likely).toBeLessThan(high)
    }
  })

  it('is less sure where the drive was not measured', () => {
    const assumed = { ...machine(), drive: { value: 2e9, source: 'assumed' } as const }
    const found = forecast(subject, assumed, wishes)
    if ('problem' in found) throw new Error(found.problem)
    const given = planned({})
    expect(found.decode.tokensPerSecond.likely).toBe(given.decode.tokensPerSecond.likely)
    expect(found.decode.tokensPerSecond.low).toBeLessThan(given.decode.tokensPerSecond.low)
  })
})

describe('what binds', () => {
  it('is the drive while most of the time is waiting', () => {
    expect(planned({ drive: 1e9 }).decode.bottleneck).toBe('drive')
    expect(planned({ drive: 1e9 }).prompt.bottleneck).toBe('drive')
  })

  it('is memory where the drive is fast', () => {
    expect(planned({ drive: 100e9, memory: 10e9 }).decode.bottleneck).toBe('memory')
  })

  it('is the processor where many tokens meet few cores', () => {
    const { prompt } = planned({ drive: 100e9, cores: 1 }, { promptTokens: 400 })
    expect(prompt.bottleneck).toBe('processor')
  })

  it('is the link where a GPU takes experts from RAM, the drive where they are not there either', () => {
    const card = { ram: 8 * GIB, gpu: 1.2 * GIB, copy: 10e9 }
    const { decode, fit, prompt } = planned(card)
    expect(fit.isOnGpu).toBe(true)
    expect(decode.bottleneck).toBe('link')
    expect(prompt.bottleneck).toBe('link')
    expect(decode.copiedBytes).toBeGreaterThan(decode.readBytes)
    const narrow = planned({ ...card, ram: 2 * GIB, copy: 100e9 }).decode
    expect(narrow.bottleneck).toBe('drive')
    expect(narrow.tokensPerSecond.likely).toBeLessThan(decode.tokensPerSecond.likely)
    expect(planned({ ...card, gpu: 8 * GIB }).decode).toMatchObject({
      ...{ bottleneck: 'gpu', copiedBytes: 0, readBytes: 0 },
    })
  })
})

describe('what fits', () => {
  it('leaves on the drive what has no slot', () => {
    const { fit } = planned({})
    expect(fit.slots.gpu).toBe(0)
    expect(fit.slots.ram + fit.onDrive).toBe(160)
    const bytes = fit.slots.ram * fit.slotBytes + fit.residentBytes.ram
    expect(bytes).toBeLessThan(3 * GIB)
    expect(bytes).toBeGreaterThan(2 * GIB)
  })

  it('goes to a GPU first, which is left out where it is too small', () => {
    const [none, card] = [planned({ gpu: 2 ** 28 }).fit, planned({ gpu: 4 * GIB }).fit]
    expect(none).toEqual(planned({}).fit)
    expect(card.isOnGpu).toBe(true)
    const free = { ram: 3 * GIB, gpu: 0.9 * 4 * GIB }
    const { sizes, embeddingBytes } = geometryOf(wide)
    const all = { ...sizes, embeddingBytes, headBytes: 0, mlpBytes: [] }
    const { experts } = divideGpuMemory(wide, all, { contextTokens: 512 }, free)
    expect(card.slots).toEqual({ gpu: experts.slots, ram: experts.slotsBelow })
    expect(card.slots.gpu).toBeGreaterThan(30)
    expect(card.onDrive).toBe(Math.max(0, 160 - card.slots.ram - card.slots.gpu))
  })

  it('is a sentence where it does not', () => {
    const found = forecast(subject, machine({ ram: 2 ** 28 }), wishes)
    expect('problem' in found && found.problem).toMatch(/not enough memory/)
  })

  it('is less for many sequences, whose keys and values take room', () => {
    const { batches } = planned(
      {},
      {
        ...{ batches: [1, 1024], promptTokens: 1900, contextTokens: 2048 },
      },
    )
    expect('problem' in (batches[0] ?? {})).toBe(false)
    expect(batches[1]).toMatchObject({ sequences: 1024, problem: expect.any(String) })
  })

  it('keeps memory for the system of what is given', () => {
    expect(freeOf(64 * GIB)).toBe(62 * GIB)
    expect(freeOf(1)).toBe(0)
  })
})

describe('steps of many tokens', () => {
  const written = routingOf([[[0]], [[1]], [[2]], [[3]], [[4]], [[5]], [[6]]], 8, 1)

  it('are made of tokens that lie apart, each once', () => {
    const { ids, sequences } = stepsOf(written, 2, 16)
    expect(sequences.map(({ first, tokens, prompt }) => [first, tokens, prompt])).toEqual([
      [0, 2, 2],
      [2, 2, 2],
      [4, 2, 2],
    ])
    expect([...ids]).toEqual([1, 4, 2, 5, 3, 6])
  })

  it('are as wide as the routing at most, and one comes twice', () => {
    const { ids, sequences } = stepsOf(written, 100, 16)
    expect([...ids]).toEqual([1, 2, 3, 4, 5, 6])
    expect(sequences.map(({ first, tokens }) => [first, tokens])).toEqual([
      [0, 6],
      [0, 6],
    ])
  })

  it('want an expert once, and load what has no slot', () => {
    const each = { ...routing, routing: routingOf([[[0]], [[1]], [[0]], [[1]], [[0]], [[1]]], 8) }
    // Streams are three apart: 0 and 1, then 1 and 0, then 0 and 1.
    expect(crowd(each, 8, 2)).toEqual({ wanted: 2, loads: 0 })
    expect(crowd(each, 1, 2).loads).toBeGreaterThanOrEqual(1)
  })

  it('of a batch give more tokens in all, the more sequences there are', () => {
    const { batches } = planned({}, { batches: [2, 8, 32] })
    const rates = batches.map((batch) => ('problem' in batch ? 0 : batch.tokensPerSecond.likely))
    expect(rates).toEqual([...rates].sort((a, b) => a - b))
  })

  it('of a longer prompt take longer', () => {
    const seconds = [64, 512, 2048].map(
      (promptTokens) =>
        planned({}, { promptTokens, contextTokens: undefined }).prompt.seconds.likely,
    )
    expect(seconds).toEqual([...seconds].sort((a, b) => a - b))
  })
})

/** Tokens of random weights: each expert as likely as any other. */
function evenRouting(experts: number, topK: number, layers: number): PlannedRouting {
  const dice = new Dice(3)
  const of = (sequences: number, tokens: number, prompt: number) => {
    const chosen = () => {
      const one = new Set<number>()
      while (one.size < topK) one.add(dice.below(experts))
      return [...one]
    }
    const all = Array.from({ length: sequences * tokens }, () =>
      Array.from({ length: layers }, chosen),
    )
    const placed = Array.from({ length: sequences }, (_, at) => ({
      first: at * tokens,
      tokens,
      prompt,
    }))
    return { ...routingOf(all, experts), sequences: placed }
  }
  const many = of(128, 9, 1)
  return { kind: 'generated', routing: of(8, 40, 8), routers: plainRouters, many }
}

describe('steps of many tokens, beside what was measured (docs/proof.md)', () => {
  const config = readFileSync(join(ringTiny, 'config.json'), 'utf8')
  const shape = {
    ...{ num_hidden_layers: 4, hidden_size: 1024, intermediate_size: 2048 },
    ...{ moe_intermediate_size: 768, num_experts: 256, num_experts_per_tok: 8, n_group: 8 },
    topk_group: 4,
  }
  const many = parseConfig(JSON.stringify({ ...JSON.parse(config), ...shape }), 'many')
  /** Sequences; experts of a layer that they want, and those without a slot; tokens/s at 2 GB/s with slots for 25 %, and in memory. */
  type Row = readonly [number, number, number, number, number]
  // Means of two evenings, n=4: in memory they differ by up to 15 %.
  const models: [string, ModelConfig, PlannedRouting, Row[]][] = [
    [
      '4 GB model',
      // As `widen` makes it: query heads are copied too.
      { ...wide, heads: 16 * tiny.heads },
      routing,
      [
        [1, 4, 2, 6.99, 53.2],
        [4, 11.6, 7.2, 8.15, 84.1],
        [16, 25.3, 18.1, 12.9, 102],
        [64, 31.3, 24.7, 39.9, 127],
        [128, 31.7, 25, 74.5, 142],
      ],
    ],
    [
      '256 experts',
      many,
      evenRouting(256, 8, 3),
      [
        [1, 8, 4.6, 51.1, 455],
        [4, 30.6, 20.5, 51, 628],
        [16, 101, 79.2, 54.4, 756],
        [64, 214, 158, 110, 1095],
        [128, 249, 193, 186, 1293],
      ],
    ],
  ]
  const measured = models.flatMap(([name, of, routed, rows]) =>
    rows.flatMap(([sequences, wanted, loads, paced, inMemory]) => [
      [name, sequences, 0.25, paced, of, routed, { wanted, loads }] as const,
      [name, sequences, 1, inMemory, of, routed, { wanted, loads: 0 }] as const,
    ]),
  )

  it.each(measured)(
    '%s, %i at once, slots for %d: %d tokens/s',
    (_, sequences, share, rate, of, routed, crowded) => {
      const geometry = geometryOf(of)
      // Memory nearly as docs/benchmarks.md has it; products as a machine is assumed to have.
      const here = machine({ ram: 16 * GIB, memory: 61e9, products: 7e10, latency: 2e-4 })
      const room = { sequences: 128, kvTokens: 128 * 64, contextTokens: 64 }
      const fit = fitOf(of, geometry, here, { ...room, expertRam: { share }, loadMode: 'direct' })
      if ('problem' in fit) throw new Error(fit.problem)
      const placed = { geometry, machine: here, fit, routing: routed }
      const planned =
        sequences === 1
          ? batchPlan(placed, 1, 20).tokensPerSecond.likely
          : sequences / wideStep(placed, sequences, 20, false, crowded).seconds.likely
      const error = planned / rate - 1
      expect(error).toBeGreaterThan(-0.15)
      expect(error).toBeLessThan(0.15)
    },
  )

  it.each([4, 16, 64, 128])('as many experts are wanted by %i of them, nearly', (sequences) => {
    for (const [, , routed, rows] of models) {
      const wanted = rows.find(([of]) => of === sequences)?.[1] ?? Number.NaN
      const rehearsed = crowd(routed, 8, sequences).wanted
      expect(rehearsed / wanted).toBeGreaterThan(0.97)
      expect(rehearsed / wanted).toBeLessThan(1.15)
    }
  })
})

describe('routing that is made up', () => {
  it('is the same every time, for layers of so many experts', () => {
    const [one, other] = [madeRouting(wide), madeRouting(wide)]
    expect(one.routing.ids).toEqual(other.routing.ids)
    expect([one.routing.experts, one.routing.topK, one.kind]).toEqual([32, 4, 'generated'])
  })

  it('that was recorded of other layers is refused', () => {
    const { config } = plannedModel('inclusionAI/Ring-1T', published)
    expect(() => recordedRouting(trace, plainRouters, config)).toThrow(
      /--routing: .* has 32 experts in a layer, top 4; the model has 256, top 8/,
    )
  })
})
