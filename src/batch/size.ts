// How many sequences a job has in work at once, and how many tokens' keys and values they share. Pure:
// what the answers may need, what is free and what a batch costs in, numbers out. Sequences take KV
// blocks as they grow, so what counts is what they need on average, not the longest.
import { blocksFor, kvBlockTokens } from '../engine/kv.js'
import { bestBatch, type StepCost } from './cost.js'

export interface BatchSize {
  readonly sequences: number
  /** Positions of the longest. */
  readonly contextTokens: number
  readonly kvTokens: number
}

/** A step of more has no place for prompts, and each answer waits longer. */
const SEQUENCES_AUTO = 512
/** Of what a sequence may need in the end, what it has on average over its time. */
const SHARE_HELD = 0.5
/** Requests that wait behind those in work, at least. */
const WAITING_LEAST = 8

/** What a step of so many sequences costs, which each have the keys and values of so many tokens. */
export type CostOf = (sequences: number, tokensEach: number) => StepCost

/** `needs`: tokens of every answer with its prompt, the most first; `wish`: how many, or what decides it. */
export function batchSize(
  needs: readonly number[],
  wish: number | CostOf,
  kvTokensFree: number,
): BatchSize {
  const contextTokens = Math.max(1, needs[0] ?? 1)
  const rounded = needs.map(roundedUp)
  const each = Math.max(kvBlockTokens, mean(rounded))
  const isAsked = typeof wish === 'number'
  const most = Math.min(isAsked ? wish : SEQUENCES_AUTO, needs.length)
  const fitting = Math.max(1, Math.min(most, Math.floor(kvTokensFree / (SHARE_HELD * each))))
  const sequences = isAsked ? fitting : bestBatch(fitting, (size) => wish(size, each))
  const wanted = rounded.slice(0, sequences).reduce((sum, tokens) => sum + tokens, 0)
  const free = Math.floor(kvTokensFree / kvBlockTokens) * kvBlockTokens
  // A block for each stays free, so that those that run can grow (schedule.ts).
  const held = roundedUp(sequences * (each + kvBlockTokens))
  const shared = Math.min(wanted, held, free)
  // Room for the longest, without which nothing could be answered.
  return { sequences, contextTokens, kvTokens: Math.max(roundedUp(contextTokens), shared) }
}

/** How an engine is opened for it. Nobody waits for a token, so prompts are read as soon as there is a place. */
export function openedFor(size: BatchSize) {
  const waiting = Math.max(WAITING_LEAST, size.sequences)
  return { ...size, waiting, kvByNeed: true, drawShare: 0 }
}

function roundedUp(tokens: number): number {
  return blocksFor(tokens) * kvBlockTokens
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length)
}
