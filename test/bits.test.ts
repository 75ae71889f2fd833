// Same tokens whatever happened around them: results are compared bit for bit across thread counts,
// company in the batch, the pieces in which a prompt is read, and the order in which experts arrive.
import { afterEach, describe, expect, it } from 'vitest'
import { Limit, Reason, StopField } from '../native/index.js'
import { nowhere } from '../src/cache/place.js'
import type { OpenModel, OpenWishes } from '../src/engine/open.js'
import { greedy } from '../src/engine/sampling.js'
import { Dice } from './dice.js'
import { drive, driveOne, withModel } from './drive.js'
import { tinyGoldens } from './goldens.js'
import { batchOf, outcomeOf, requestOf } from './models.js'
import { edge, edgeNames, ringTiny } from './paths.js'

const long = tinyGoldens.find((one) => one.golden.name === 'raw-prose-long')?.golden.ids ?? []
const chat = tinyGoldens.find((one) => one.golden.name === 'chat-add')?.golden.ids ?? []

/** Everything that a scored request gives, as bytes. */
function scoreBits(wishes: OpenWishes, ids: readonly number[]): string {
  const request = requestOf(ids, { score: true, routing: true, topLogprobs: 8 })
  const { scored } = driveOne(ringTiny, wishes, request).ending
  if (scored === undefined) throw new Error('nothing was scored')
  const arrays = [
    scored.logprobs,
    scored.topIds,
    scored.topLogprobs,
    scored.experts,
    scored.weights,
  ]
  return arrays
    .map((array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString('hex'))
    .join()
}

/** Logits of the last position as bytes, from one step over all tokens. */
function logitBits(model: OpenModel, ids: readonly number[], run = advanceAll): string {
  const { vocabulary } = model.checkpoint.config
  const outcome = { ...outcomeOf(1), logits: new Float32Array(vocabulary) }
  const id = model.stage.device.begin(batchOf(ids))
  run(model, id)
  expect(model.stage.device.sample(id, outcome)).toBe(Reason.done)
  return Buffer.from(outcome.logits.buffer).toString('hex')
}

function advanceAll(model: OpenModel, id: number): void {
  const { device, stop } = model.stage
  expect(device.advance(id, stop)).toBe(Reason.done)
}

/** Advances in lockstep; `give` says which of the wanted experts get their place at each stop. */
function advanceInWaves(
  model: OpenModel,
  id: number,
  give: (count: number) => (at: number) => boolean,
): number {
  const { device, cache, firstMoeLayer, stop } = model.stage
  let stops = 0
  while (device.advance(id, stop) === Reason.missing) {
    stops += 1
    const count = stop[StopField.wanted] ?? 0
    const wanted = stop.subarray(StopField.experts, StopField.experts + count)
    const { places } = cache.place((stop[StopField.layer] ?? 0) - firstMoeLayer, wanted, 1)
    const isGiven = give(count)
    device.mix(
      id,
      places.map((place, at) => (isGiven(at) ? place : nowhere)),
    )
  }
  return stops
}

describe('the same bits', () => {
  afterEach(() => {
    delete process.env.RING_ISA
  })

  for (const isa of ['portable', 'avx2', 'avx512', 'avx512vbmi', 'avx512bf16']) {
    it(`for 1, 2 and 3 threads, and a prompt read whole, in pieces or token by token (${isa})`, (context) => {
      process.env.RING_ISA = isa
      const ids = long.slice(0, 160)
      let whole: string
      try {
        whole = scoreBits({ threads: 1 }, ids)
      } catch (error) {
        if (String(error).includes('RING_ISA')) context.skip(`this processor has no ${isa}`)
        throw error
      }
      for (const threads of [2, 3]) expect(scoreBits({ threads }, ids)).toBe(whole)
      for (const stepTokens of [1, 7, 32, 129]) {
        expect(scoreBits({ threads: 2, stepTokens }, ids)).toBe(whole)
      }
    })
  }

  it('for KV in F32 and BF16 alike', () => {
    for (const kvType of ['f32', 'bf16'] as const) {
      const whole = scoreBits({ kvType }, long)
      expect(scoreBits({ kvType, stepTokens: 1, threads: 1 }, long)).toBe(whole)
    }
  })

  it('for one sequence alone and among others, greedy or drawn', () => {
    const prompts = [chat, long, chat.slice(0, 9), long.slice(100, 300)]
    const requests = prompts.map((prompt, index) =>
      requestOf(prompt, {
        maxTokens: 24,
        topLogprobs: 3,
        sampling:
          index % 2 === 0
            ? greedy
            : {
                ...greedy,
                temperature: 0.9,
                topP: 0.95,
                seed: BigInt(index),
                frequencyPenalty: 0.3,
              },
      }),
    )
    const alone = requests.map((request) => driveOne(ringTiny, {}, request).emissions)
    const together = withModel(ringTiny, { sequences: 4, stepTokens: 64 }, (model) =>
      drive(model, requests),
    )
    expect(together.map((driven) => driven.emissions)).toEqual(alone)
  })

  it('for a continuation that was drawn and one that is read again', () => {
    const drawn = driveOne(ringTiny, {}, requestOf(chat, { maxTokens: 40 }))
    const tokens = drawn.emissions.map((emission) => emission.token)
    const request = requestOf([...chat, ...tokens], { score: true, topLogprobs: 1 })
    const { scored } = driveOne(ringTiny, {}, request).ending
    const read = [...(scored?.logprobs.subarray(chat.length) ?? [])]
    expect(read).toEqual(drawn.emissions.map((emission) => emission.logprob))
  })

  for (const name of edgeNames) {
    it(`for the ${name} checkpoint in lockstep and at once`, () => {
      const ids = Array.from({ length: 50 }, (_, index) => (index * 37 + 5) % 300)
      const atOnce = withModel(edge(name), {}, (model) => logitBits(model, ids))
      const lockstep = withModel(edge(name), { lockstep: true }, (model) =>
        logitBits(model, ids, (opened, id) => {
          advanceInWaves(opened, id, () => () => true)
        }),
      )
      expect(lockstep).toBe(atOnce)
    })
  }

  it('for experts that arrive in any order, some now and some later', () => {
    const ids = long.slice(0, Limit.unordered_tokens)
    const dice = new Dice(11)
    const atOnce = withModel(ringTiny, {}, (model) => logitBits(model, ids))
    let stops = 0
    const inWaves = withModel(ringTiny, { lockstep: true }, (model) =>
      logitBits(model, ids, (opened, id) => {
        stops = advanceInWaves(opened, id, (count) => {
          const certain = dice.below(count)
          return (at) => at === certain || dice.below(3) === 0
        })
      }),
    )
    expect(stops).toBeGreaterThan(5)
    expect(inWaves).toBe(atOnce)
  })

  it('for a large step whose experts come a few at a time, in rising index', () => {
    const ids = long.slice(0, Limit.unordered_tokens + 60)
    const atOnce = withModel(ringTiny, {}, (model) => logitBits(model, ids))
    const inWaves = withModel(ringTiny, { lockstep: true }, (model) =>
      logitBits(model, ids, (opened, id) => {
        advanceInWaves(opened, id, () => (at) => at < 3)
      }),
    )
    expect(inWaves).toBe(atOnce)
  })

  it('for two steps that are open at once', () => {
    const alone = withModel(ringTiny, { lockstep: true }, (model) => [
      logitBits(model, chat, (opened, id) => {
        advanceInWaves(opened, id, () => () => true)
      }),
      logitBits(model, long.slice(0, 32), (opened, id) => {
        advanceInWaves(opened, id, () => () => true)
      }),
    ])
    const turns = withModel(ringTiny, { lockstep: true, sequences: 2 }, (model) => {
      const { device, cache, firstMoeLayer, stop } = model.stage
      const outcomes = [0, 1].map(() => ({
        ...outcomeOf(1),
        logits: new Float32Array(model.checkpoint.config.vocabulary),
      }))
      const second = batchOf(long.slice(0, 32), 1)
      second.blocks = second.blocks.map((block) => block + 8)
      const ids = [device.begin(batchOf(chat)), device.begin(second)]
      const running = new Set(ids)
      while (running.size > 0) {
        for (const id of [...running]) {
          if (device.advance(id, stop) !== Reason.missing) {
            running.delete(id)
            continue
          }
          const wanted = stop.subarray(
            StopField.experts,
            StopField.experts + (stop[StopField.wanted] ?? 0),
          )
          device.mix(
            id,
            cache.place((stop[StopField.layer] ?? 0) - firstMoeLayer, wanted, 1).places,
          )
        }
      }
      return outcomes.map((outcome, index) => {
        expect(device.sample(ids[index] ?? 0, outcome)).toBe(Reason.done)
        return Buffer.from(outcome.logits.buffer).toString('hex')
      })
    })
    expect(turns).toEqual(alone)
  })
})
