// Who shares a step while prompts arrive beside sequences that draw: the time of both, by the clock that
// the schedule is told. And who gives way where KV blocks run out, or where fewer are wished for.
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

describe('a schedule whose sequences take blocks as they grow', () => {
  /** So many blocks of 32 tokens, and sequences of one token that draw 60. */
  function growing(blocks: number, count: number) {
    const tree = new PrefixTree(new KvBlocks(blocks), () => {})
    const schedule = new Schedule(tree, 4, 65, 0)
    const sequences = Array.from({ length: count }, (_, slot) => {
      const request = requestOf([slot], { maxTokens: 60 })
      return new Sequence(slot, request, true, null, true)
    })
    for (const sequence of sequences) schedule.add(sequence)
    /** Slots of those in the step, which then draws. */
    const step = () => {
      const shares = schedule.next()
      for (const { sequence, tokens } of shares) {
        sequence.computed += tokens
        tree.grow(sequence)
        if (sequence.pending === 0) sequence.accept(1)
        if (sequence.finished !== null) schedule.remove(sequence)
      }
      return shares.map(({ sequence }) => sequence.slot)
    }
    return { schedule, sequences, step }
  }

  it('admits as many as have room to begin, with a block to spare for each that runs', () => {
    const { schedule, step } = growing(4, 4)
    expect(step()).toEqual([0, 1])
    expect(schedule.places).toBe(2)
  })

  it('parks the newest where no block is left, and takes it up again before others', () => {
    const { schedule, sequences, step } = growing(3, 3)
    const steps: number[][] = []
    while (!schedule.isIdle) steps.push(step())
    // Both grow beyond a block at the same time, and only one has another.
    expect(steps[0]).toEqual([0, 1])
    expect(schedule.timesParked).toBe(1)
    const alone = steps.findIndex((slots) => slots.length === 1)
    expect(alone).toBe(32)
    expect(steps[alone]).toEqual([0])
    expect(steps.find((slots) => !slots.includes(0))).toContain(1)
    expect(sequences.map(({ drawn }) => drawn)).toEqual([60, 60, 60])
  })
})

describe('a schedule of which fewer are wished for', () => {
  const sixty = (slot: number) => new Sequence(slot, requestOf([slot], { maxTokens: 60 }))

  it('lets the newest wait with what they have, and go on at once', () => {
    const tree = new PrefixTree(new KvBlocks(64), () => {})
    const schedule = new Schedule(tree, 4, 65, 0)
    for (let slot = 0; slot < 6; slot += 1) schedule.add(sixty(slot))
    const step = () => {
      const shares = schedule.next()
      for (const { sequence, tokens } of shares) {
        sequence.computed += tokens
        sequence.accept(1)
      }
      return shares.map(({ sequence, tokens }) => [sequence.slot, tokens])
    }
    const draws = (...slots: number[]) => slots.map((slot) => [slot, 1])
    expect(step()).toEqual(draws(0, 1, 2, 3))
    const { free } = tree
    schedule.wish(2, false)
    expect([step(), step(), schedule.places]).toEqual([draws(0, 1), draws(0, 1), 2])
    expect(tree.free).toBe(free)
    const [first] = schedule.sequences
    if (first !== undefined) schedule.remove(first)
    // Who waits goes before who has not begun.
    expect(step()).toEqual(draws(1, 2))
    schedule.wish(9, false)
    expect([step(), schedule.places]).toEqual([draws(1, 2, 3, 4), 4])
    expect(schedule.timesParked).toBe(0)
  })

  it('lets prompts wait while somebody draws', () => {
    const schedule = new Schedule(new PrefixTree(new KvBlocks(64), () => {}), 3, 65, 0)
    const [one, other] = [sixty(0), new Sequence(1, requestOf([5, 6, 7], { maxTokens: 9 }))]
    schedule.add(one)
    for (const { sequence } of schedule.next()) sequence.computed = 1
    one.accept(1)
    schedule.add(other)
    schedule.wish(3, true)
    expect(schedule.next().map(({ sequence }) => sequence)).toEqual([one])
    schedule.remove(one)
    expect(schedule.next().map(({ sequence }) => sequence)).toEqual([other])
  })
})

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
