// How many sequences a job has in work at once, and how many tokens' keys and values they share. Pure:
// what the answers may need, what is free and what a batch gives in, numbers out. Sequences take KV
// blocks as they grow, so what counts is what they need on average, not the longest. How many are best is
// first a model's word, and then tried out; so there is room for more of them than the model says, as
// long as that room costs the experts little.
import { blocksFor, kvBlockTokens } from '../engine/kv.js'

export interface BatchSize {
  /** At once, at most. */
  readonly sequences: number
  /** With how many a job begins that finds out by itself; null: it always has as many as there is room for. */
  readonly atFirst: number | null
  /** Positions of the longest. */
  readonly contextTokens: number
  readonly kvTokens: number
}

/** A step of more has no place for prompts, and each answer waits longer. */
const SEQUENCES_AUTO = 512
/** Of what a sequence may need in the end, what it has on average over its time. */
export const SHARE_HELD = 0.5
/** Requests that wait behind those in work, at least. */
const WAITING_LEAST = 8
/** What more sequences give beyond this is not worth the wait for each answer. */
const ENOUGH = 0.95
/** How far beyond the model's word may be tried, and what the room for that may cost. */
const TRIED_MOST = 2
const ROOM_WORTH = 0.97

/** Tokens per second with so many sequences in each step, of an engine that has room for `opened`. */
export type RateOf = (sequences: number, opened: BatchSize) => number

/** `needs`: tokens of every answer with its prompt, the most first; `wish`: how many, or what decides it. */
export function batchSize(
  needs: readonly number[],
  wish: number | RateOf,
  kvTokensFree: number,
): BatchSize {
  const contextTokens = Math.max(1, needs[0] ?? 1)
  const rounded = needs.map(roundedUp)
  const each = Math.max(kvBlockTokens, mean(rounded))
  const isAsked = typeof wish === 'number'
  const most = Math.min(isAsked ? wish : SEQUENCES_AUTO, needs.length)
  const fitting = Math.max(1, Math.min(most, Math.floor(kvTokensFree / (SHARE_HELD * each))))
  const roomFor = (sequences: number, atFirst: number | null = null): BatchSize => {
    const wanted = rounded.slice(0, sequences).reduce((sum, tokens) => sum + tokens, 0)
    const free = Math.floor(kvTokensFree / kvBlockTokens) * kvBlockTokens
    // A block for each stays free, so that those that run can grow (schedule.ts).
    const held = roundedUp(sequences * (each + kvBlockTokens))
    const shared = Math.min(wanted, held, free)
    // Room for the longest, without which nothing could be answered.
    const kvTokens = Math.max(roundedUp(contextTokens), shared)
    return { sequences, atFirst, contextTokens, kvTokens }
  }
  if (isAsked || fitting === 1) return roomFor(fitting)
  const best = bestBatch(fitting, (sequences) => wish(sequences, roomFor(sequences)))
  const rate = wish(best, roomFor(best))
  const affordable = sizesUpTo(Math.min(fitting, TRIED_MOST * best)).filter(
    (sequences) => sequences > best && wish(best, roomFor(sequences)) >= ROOM_WORTH * rate,
  )
  return roomFor(affordable.at(-1) ?? best, best)
}

/** The fewest at once, up to `most`, that come near the best rate. */
export function bestBatch(most: number, rateOf: (sequences: number) => number): number {
  const sizes = sizesUpTo(most)
  if (sizes.length === 1) return most
  const rates = sizes.map(rateOf)
  const best = Math.max(...rates)
  return sizes.find((_, at) => (rates[at] ?? 0) >= ENOUGH * best) ?? most
}

/** 2, 3, 4, 6, 8, 12 and so on: two in a step are never slower than one after the other. */
function sizesUpTo(most: number): number[] {
  const sizes: number[] = []
  for (let size = 2; size < most; size *= 2) sizes.push(size, 1.5 * size)
  return [...sizes.filter((size) => size < most), most]
}

/** How an engine is opened for it. Nobody waits for a token, so prompts are read as soon as there is a place. */
export function openedFor({ atFirst, ...size }: BatchSize) {
  const waiting = Math.max(WAITING_LEAST, size.sequences)
  const sequencesAtFirst = atFirst ?? undefined
  return { ...size, sequencesAtFirst, waiting, kvByNeed: true, drawShare: 0 }
}

function roundedUp(tokens: number): number {
  return blocksFor(tokens) * kvBlockTokens
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length)
}
