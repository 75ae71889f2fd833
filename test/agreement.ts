// How a run agrees with the golden values: router choices, log-probabilities, continuations. Measured
// here once, judged by the tests and printed by the proof.
import type { OpenWishes } from '../src/engine/open.js'
import type { Scored } from '../src/engine/score.js'
import { driveOne } from './drive.js'
import type { Golden, GoldenCase } from './goldens.js'
import { requestOf } from './models.js'

/** Reads a golden's prompt and scores every position. */
export function score(
  model: string,
  golden: Golden,
  kvType: 'f32' | 'bf16',
  wishes: OpenWishes = {},
): Scored {
  const request = requestOf(golden.ids, { score: true, routing: true, topLogprobs: 20 })
  const { ending } = driveOne(model, { kvType, ...wishes }, request)
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
export interface Flip {
  readonly moeLayer: number
  readonly token: number
  readonly margin: number
}

export function flips(scored: Scored, golden: Golden): Flip[] {
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
export function firstCauses(found: readonly Flip[]): Flip[] {
  return found.filter(
    (flip) => !found.some((other) => other.moeLayer < flip.moeLayer && other.token <= flip.token),
  )
}

/**
 * Largest difference of log-probabilities among the reference's top 20 at a position. Its files hold
 * logits, so both sides are taken relative to the most likely token.
 */
export function differenceAt(scored: Scored, golden: Golden, token: number): number {
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

/** Largest difference of log-probabilities at the last position, of which the golden holds all. */
export function lastDifference(scored: Scored, golden: Golden): number {
  const normaliser = logSumExp(golden.lastLogits)
  const first = (golden.ids.length - 1) * scored.topCount
  let largest = 0
  for (let rank = 0; rank < scored.topCount; rank += 1) {
    const id = scored.topIds[first + rank] ?? -1
    const expected = (golden.lastLogits[id] ?? Number.NaN) - normaliser
    largest = Math.max(largest, Math.abs((scored.topLogprobs[first + rank] ?? 0) - expected))
  }
  return largest
}

/** Largest difference of a final expert weight, where both chose the expert. */
export function weightDifference(scored: Scored, golden: Golden): number {
  let largest = 0
  for (let moeLayer = 0; moeLayer < golden.router.length; moeLayer += 1) {
    for (let token = 0; token < golden.ids.length; token += 1) {
      const choice = choicesAt(scored, golden, moeLayer, token)
      for (const [rank, expert] of choice.theirs.entries()) {
        const ours = choice.ourWeights[choice.ours.indexOf(expert)]
        if (ours === undefined) continue
        largest = Math.max(largest, Math.abs(ours - (choice.theirWeights[rank] ?? 0)))
      }
    }
  }
  return largest
}

/** Drawn greedily: ours, and how many of the first the reference is certain of. */
export function continuation(
  { model, golden }: GoldenCase,
  greedyMargin: number,
  wishes: OpenWishes = {},
) {
  const maxTokens = golden.greedy.ids.length
  const request = requestOf(golden.ids, { maxTokens })
  const { emissions } = driveOne(model, { kvType: 'f32', ...wishes }, request)
  const tie = golden.greedy.margin.findIndex((margin) => margin < greedyMargin)
  return {
    ours: emissions.map((emission) => emission.token),
    certain: tie < 0 ? maxTokens : tie,
  }
}
