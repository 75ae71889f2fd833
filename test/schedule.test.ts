// Who shares a step while prompts arrive beside sequences that draw: the time of both, by the clock that
// the schedule is told.
import { describe, expect, it } from 'vitest'
import { KvBlocks } from '../src/engine/kv.js'
import { PrefixTree } from '../src/engine/prefix.js'
import { Schedule } from '../src/engine/schedule.js'
import { Sequence } from '../src/engine/sequence.js'
import { requestOf } from './models.js'

const PROMPT_MS = 1000
const DRAW_MS = 50

/** Steps until a prompt of eight pieces is read beside a sequence that draws: whether each had a piece. */
function stepsWith(drawShare: number): boolean[] {
  const schedule = new Schedule(new PrefixTree(new KvBlocks(64), () => {}), 2, 65, drawShare)
  const stream = new Sequence(0, requestOf([1], { maxTokens: 500 }))
  const reader = new Sequence(1, requestOf(new Array(512).fill(1), { maxTokens: 1 }))
  schedule.add(stream)
  schedule.add(reader)
  const steps: boolean[] = []
  while (reader.pending > 0) {
    const shares = schedule.next()
    expect(shares[0]?.sequence).toBe(stream)
    for (const { sequence, tokens } of shares) sequence.computed += tokens
    stream.accept(1)
    const hasPiece = shares.length > 1
    steps.push(hasPiece)
    schedule.took(hasPiece ? PROMPT_MS : DRAW_MS)
  }
  return steps
}

describe('a schedule', () => {
  it('gives sequences that draw their share of the time while a prompt is read', () => {
    // A step with a piece takes 1 s; 0.4 of the time are 667 ms, which are 14 steps of 50 ms.
    const steps = stepsWith(0.4)
    expect(steps.filter(Boolean).length).toBe(8)
    expect(steps.slice(0, 16)).toEqual([true, ...Array(14).fill(false), true])
  })

  it('reads on at once where they keep none', () => {
    expect(stepsWith(0)).toEqual(Array(8).fill(true))
  })

  it('reads on at once when nobody draws any more', () => {
    const schedule = new Schedule(new PrefixTree(new KvBlocks(64), () => {}), 2, 65, 0.4)
    const stream = new Sequence(0, requestOf([1], { maxTokens: 500 }))
    const reader = new Sequence(1, requestOf(new Array(512).fill(1), { maxTokens: 1 }))
    for (const one of [stream, reader]) schedule.add(one)
    expect(schedule.next().length).toBe(2)
    schedule.took(PROMPT_MS)
    expect(schedule.next().map(({ sequence }) => sequence)).toEqual([stream])
    schedule.remove(stream)
    expect(schedule.next().map(({ sequence }) => sequence)).toEqual([reader])
  })
})
