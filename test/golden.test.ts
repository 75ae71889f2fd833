// Right numbers: every golden of the independent reference, on ring-tiny and on the edge checkpoints,
// through the same begin/advance loop that serves people. Bounds are those the reference states: a
// router choice may differ only where its margin is below the bound, a drawn token only where the
// gap between the best two is.
import { afterEach, describe, expect, it } from 'vitest'
import type { Scored } from '../src/engine/score.js'
import { driveOne } from './drive.js'
import { edgeGoldens, type Golden, type GoldenCase, tinyGoldens } from './goldens.js'
import { requestOf } from './models.js'

const bounds = { logits: 2e-3, routerMargin: 1e-4, greedyMargin: 1e-2 }
const bf16Bounds = { routerMargin: 5e-3, logprob: 0.1 }

function score(model: string, golden: Golden, kvType: 'f32' | 'bf16'): Scored {
  const request = requestOf(golden.ids, { score: true, routing: true, topLogprobs: 20 })
  const { ending } = driveOne(model, { kvType }, request)
  if (ending.scored === undefined) throw new Error('nothing was scored')
  return ending.scored
}

/** The experts that one token chose, as a set in rising order, ours and the reference's. */
function choicesAt(scored: Scored, golden: Golden, moeLayer: number, token: number) {
  const reference = golden.router[moeLayer]
  const topK = reference?.ids[token]?.length ?? 0
  const at = (moeLayer * golden.ids.length + token) * topK
  return {
    ours: [...scored.experts.subarray(at, at + topK)],
    ourWeights: [...scored.weights.subarray(at, at + topK)],
    theirs: reference?.ids[token] ?? [],
    theirWeights: reference?.weights[token] ?? [],
    margin: reference?.margin[token] ?? 0,
  }
}

const rising = (list: readonly number[]) => [...list].sort((a, b) => a - b)

/** A router choice that differs from the reference's. */
interface Flip {
  readonly moeLayer: number
  readonly token: number
  readonly margin: number
}

function flips(scored: Scored, golden: Golden): Flip[] {
  const found: Flip[] = []
  for (let moeLayer = 0; moeLayer < golden.router.length; moeLayer += 1) {
    for (let token = 0; token < golden.ids.length; token += 1) {
      const { ours, theirs, margin } = choicesAt(scored, golden, moeLayer, token)
      if (String(rising(ours)) !== String(rising(theirs))) {
        found.push({ moeLayer, token, margin })
      }
    }
  }
  return found
}

/**
 * Flips that no other flip can have caused: a changed choice reaches the later layers of its own and
 * of later tokens, and moves their scores by far more than rounding does. The reference itself, with
 * keys and values rounded to BF16, flips the same choices in the same places.
 */
function firstCauses(found: readonly Flip[]): Flip[] {
  return found.filter(
    (flip) => !found.some((other) => other.moeLayer < flip.moeLayer && other.token <= flip.token),
  )
}

/**
 * Largest difference of log-probabilities among the reference's top 20 at a position. Its files hold
 * logits, so both sides are taken relative to the most likely token.
 */
function differenceAt(scored: Scored, golden: Golden, token: number): number {
  const top = golden.top20[token]
  if (top === undefined) throw new Error(`no golden for position ${token}`)
  const ours = new Map<number, number>()
  for (let rank = 0; rank < scored.topCount; rank += 1) {
    const at = token * scored.topCount + rank
    ours.set(scored.topIds[at] ?? -1, scored.topLogprobs[at] ?? Number.NaN)
  }
  const [best = -1] = top.ids
  const anchor = ours.get(best)
  if (anchor === undefined) return Number.POSITIVE_INFINITY
  let largest = 0
  for (const [rank, id] of top.ids.entries()) {
    const logprob = ours.get(id)
    const expected = (top.values[rank] ?? 0) - (top.values[0] ?? 0)
    // The twentieth may change places with the twenty-first within the bound.
    if (logprob === undefined) {
      const last = (top.values.at(-1) ?? 0) - (top.values[0] ?? 0)
      largest = Math.max(largest, Math.abs(expected - last))
    } else {
      largest = Math.max(largest, Math.abs(logprob - anchor - expected))
    }
  }
  return largest
}

function logSumExp(logits: Float32Array): number {
  const highest = logits.reduce((a, b) => Math.max(a, b))
  return highest + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - highest), 0))
}

function checkF32({ model, golden }: GoldenCase): void {
  const scored = score(model, golden, 'f32')
  for (const { margin } of flips(scored, golden)) expect(margin).toBeLessThan(bounds.routerMargin)
  for (let moeLayer = 0; moeLayer < golden.router.length; moeLayer += 1) {
    for (let token = 0; token < golden.ids.length; token += 1) {
      const choice = choicesAt(scored, golden, moeLayer, token)
      for (const [rank, expert] of choice.theirs.entries()) {
        const ours = choice.ourWeights[choice.ours.indexOf(expert)] ?? Number.NaN
        if (Number.isNaN(ours)) continue // a flip, judged above
        expect(Math.abs(ours - (choice.theirWeights[rank] ?? 0))).toBeLessThan(1e-3)
      }
    }
  }
  for (let token = 0; token < golden.ids.length; token += 1) {
    expect(differenceAt(scored, golden, token)).toBeLessThan(bounds.logits)
  }
  const normaliser = logSumExp(golden.lastLogits)
  const first = (golden.ids.length - 1) * scored.topCount
  for (let rank = 0; rank < scored.topCount; rank += 1) {
    const id = scored.topIds[first + rank] ?? -1
    const expected = (golden.lastLogits[id] ?? Number.NaN) - normaliser
    expect(Math.abs((scored.topLogprobs[first + rank] ?? 0) - expected)).toBeLessThan(bounds.logits)
  }
}

describe('goldens, KV in F32', () => {
  for (const one of [...tinyGoldens, ...edgeGoldens]) {
    it(`${one.title}: experts, weights and log-probabilities are the reference's`, () => {
      checkF32(one)
    })
    it(`${one.title}: continues greedily as the reference, up to a near tie`, () => {
      const { golden, model } = one
      const maxTokens = golden.greedy.ids.length
      const { emissions } = driveOne(model, { kvType: 'f32' }, requestOf(golden.ids, { maxTokens }))
      const ours = emissions.map((emission) => emission.token)
      const tie = golden.greedy.margin.findIndex((margin) => margin < bounds.greedyMargin)
      const certain = tie < 0 ? maxTokens : tie
      expect(certain).toBeGreaterThan(0)
      expect(ours.slice(0, certain)).toEqual(golden.greedy.ids.slice(0, certain))
    })
  }
})

describe('goldens, every instruction set', () => {
  afterEach(() => {
    delete process.env.RING_ISA
  })
  for (const isa of ['portable', 'avx2', 'avx512']) {
    it(`${isa} gives the reference's numbers on every edge checkpoint`, (context) => {
      process.env.RING_ISA = isa
      for (const one of edgeGoldens) {
        try {
          checkF32(one)
        } catch (error) {
          if (String(error).includes('RING_ISA')) context.skip(`this processor has no ${isa}`)
          throw error
        }
      }
    })
  }
})

describe('goldens, KV in BF16', () => {
  for (const { title, model, golden } of tinyGoldens) {
    it(`${title}: routes as the reference but for near ties, and agrees before the first`, () => {
      const scored = score(model, golden, 'bf16')
      const found = flips(scored, golden)
      for (const { margin } of firstCauses(found)) {
        expect(margin).toBeLessThan(bf16Bounds.routerMargin)
      }
      const firstFlip = Math.min(golden.ids.length, ...found.map((flip) => flip.token))
      for (let token = 0; token < firstFlip; token += 1) {
        expect(differenceAt(scored, golden, token)).toBeLessThan(bf16Bounds.logprob)
      }
    })
  }
})
