// Decode in time that is computed, with the engine's own cache and look-ahead. The drive's sums are done
// by hand: 1 GB/s, experts of 10 MB that take 10 ms in chunks of 1 MB, of which one may be under way ahead.
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { placeOf, Tier } from '../src/cache/place.js'
import { EventField, EventKind, OrderField, Urgency } from '../src/cache/records.js'
import { readRouters } from '../src/simulate/foresightrouter.js'
import { type Judgement, judge } from '../src/simulate/judge.js'
import type { LookAheadName } from '../src/simulate/rehearsal.js'
import { readRouting } from '../src/simulate/source.js'
import { VirtualDrive } from '../src/simulate/virtualdrive.js'
import { machine } from './machine.js'
import { fixtures, ringTiny } from './paths.js'

function order(expert: number, urgency: Urgency): number[] {
  const record = new Array<number>(OrderField.count).fill(-1)
  record[OrderField.expert] = expert
  record[OrderField.to] = placeOf(Tier.ram, expert)
  record[OrderField.urgency] = urgency
  return record
}

function ordered(drive: VirtualDrive, ...orders: number[][]): void {
  drive.stage(Int32Array.from(orders.flat()))
}

/** [expert, kind, ms] of everything that happens from now on. */
function course(drive: VirtualDrive, events: number): [number, number, number][] {
  const told: [number, number, number][] = []
  while (told.length < events) {
    drive.runToEvent()
    const records = drive.events()
    for (let at = 0; at < records.length; at += EventField.count) {
      const [kind = -1, expert = -1] = [
        records[at + EventField.kind],
        records[at + EventField.expert],
      ]
      told.push([expert, kind, Math.round(drive.now * 1e6) / 1e3])
    }
  }
  return told
}

describe('a drive in computed time', () => {
  it('reads what somebody waits for in the order of the orders', () => {
    const drive = new VirtualDrive(machine)
    ordered(drive, order(1, Urgency.demand), order(2, Urgency.demand))
    expect(course(drive, 2)).toEqual([
      [1, EventKind.arrived, 10],
      [2, EventKind.arrived, 20],
    ])
  })

  it('lets a demand wait for no more of a guess than is under way', () => {
    const drive = new VirtualDrive(machine)
    ordered(drive, order(1, Urgency.ahead))
    drive.runUntil(2.9e-3)
    ordered(drive, order(2, Urgency.demand))
    // Guesses come in pieces of 0.8 MB, the fourth of which ends after 3.2 ms.
    expect(course(drive, 2)).toEqual([
      [2, EventKind.arrived, 13.2],
      [1, EventKind.arrived, 20],
    ])
  })

  it('goes on with a guess that has come true where it stands', () => {
    const drive = new VirtualDrive(machine)
    ordered(drive, order(1, Urgency.ahead), order(2, Urgency.ahead))
    drive.runUntil(3.9e-3)
    ordered(drive, order(2, Urgency.demand), order(1, Urgency.demand))
    expect(course(drive, 2)).toEqual([
      [2, EventKind.arrived, 14],
      [1, EventKind.arrived, 20],
    ])
    expect(drive.bytesAhead).toBe(4e6)
  })

  it('drops what is called back, but for what is under way', () => {
    const drive = new VirtualDrive(machine)
    ordered(drive, order(1, Urgency.ahead))
    drive.runUntil(2e-3)
    ordered(drive, order(1, Urgency.cancel), order(2, Urgency.demand))
    expect(course(drive, 2)).toEqual([
      [1, EventKind.cancelled, 2.4],
      [2, EventKind.arrived, 12.4],
    ])
    expect(drive.bytesCancelled).toBeCloseTo(2.4e6, 0)
  })

  it('passes chunks over a second link as they land', () => {
    const drive = new VirtualDrive({ ...machine, copyBytesPerSecond: 2e9 })
    ordered(drive, order(1, Urgency.demand), order(2, Urgency.demand))
    expect(course(drive, 2).map(([, , ms]) => ms)).toEqual([10.5, 20.5])
    const slow = new VirtualDrive({ ...machine, copyBytesPerSecond: 5e8 })
    ordered(slow, order(1, Urgency.demand), order(2, Urgency.demand))
    expect(course(slow, 2).map(([, , ms]) => ms)).toEqual([20, 40])
  })

  it('copies what lies below, or will, one after the other, and those first that are waited for', () => {
    const drive = new VirtualDrive({ ...machine, copyBytesPerSecond: 5e9, belowShare: 1 })
    const copy = (expert: number, urgency: Urgency) => {
      const record = order(expert, urgency)
      record[OrderField.from] = placeOf(Tier.ram, expert)
      record[OrderField.to] = placeOf(Tier.gpu, expert)
      return record
    }
    // 2 ms each; the first is read before, and told as well.
    ordered(drive, order(1, Urgency.demand), copy(1, Urgency.demand))
    ordered(drive, copy(2, Urgency.ahead), copy(3, Urgency.ahead), copy(4, Urgency.demand))
    expect(course(drive, 5)).toEqual([
      [4, EventKind.arrived, 2],
      [2, EventKind.arrived, 4],
      [3, EventKind.arrived, 6],
      [1, EventKind.arrived, 10],
      [1, EventKind.arrived, 12],
    ])
    expect([drive.link.copies, drive.bytesRead]).toEqual([4, 1e7])
    ordered(drive, copy(5, Urgency.ahead), copy(6, Urgency.ahead), copy(6, Urgency.cancel))
    expect(course(drive, 2)).toEqual([
      [6, EventKind.cancelled, 12],
      [5, EventKind.arrived, 14],
    ])
  })

  it('counts the time in which somebody waits', () => {
    const drive = new VirtualDrive(machine)
    ordered(drive, order(1, Urgency.ahead))
    drive.runUntil(10e-3)
    ordered(drive, order(2, Urgency.demand))
    drive.runUntil(30e-3)
    expect(drive.busySeconds).toBeCloseTo(20e-3, 9)
    expect(drive.demandSeconds).toBeCloseTo(10e-3, 9)
  })
})

describe('a trace of ring-tiny, rehearsed', () => {
  const routing = readRouting(join(fixtures, 'traces/ring-tiny-ahead.trace'))
  const routers = readRouters(ringTiny, routing)
  const of = { ...machine, expertBytes: 25e6, bytesPerSecond: 2e9, chunkBytes: 1e6 }
  const rehearsed = (lookAhead: LookAheadName | undefined, policy = 'auto'): Judgement => {
    const contest = {
      policy,
      scope: 'layer',
      phase: 'decode',
      slotsPerLayer: 8,
      lookAhead,
    } as const
    const judged = judge(routing, contest, of, routers)
    if ('problem' in judged) throw new Error(judged.problem)
    return judged
  }
  const speedOf = ({ figures }: Judgement) => figures?.tokensPerSecond ?? Number.NaN
  const off = rehearsed('off')

  it('over slots in RAM reads less, copies what is there, and names what it waits for', () => {
    const over = (belowShare: number, copyBytesPerSecond: number) => {
      const contest = { policy: 'auto', scope: 'layer', phase: 'decode', slotsPerLayer: 8 } as const
      const judged = judge(routing, contest, { ...of, belowShare, copyBytesPerSecond }, routers)
      if ('problem' in judged || judged.tiers === null) throw new Error('there are no tiers')
      return { ...judged.tiers, requests: judged.requests, speed: speedOf(judged) }
    }
    const [none, half, all] = [over(0.26, 25e9), over(0.5, 25e9), over(1, 25e9)]
    for (const { hits, misses, requests, bytes } of [none, half, all]) {
      expect(hits.gpu + hits.ram + misses).toBe(requests)
      expect(bytes.link).toBeGreaterThan(0)
    }
    expect(half.misses).toBeLessThan(none.misses)
    expect(all.misses).toBeLessThan(half.misses)
    expect(all.speed).toBeGreaterThan(half.speed)
    expect(half.speed).toBeGreaterThan(none.speed)
    expect(none.bottleneck).toBe('drive')
    expect(over(1, 1e9).bottleneck).toBe('link')
    expect(over(1, 1e12).bottleneck).toBe('compute')
  })

  it('without look-ahead hits and takes as long as slots and a time line say', () => {
    const plain = rehearsed(undefined)
    expect(off.layerHits).toEqual(plain.layerHits)
    expect(speedOf(off) / speedOf(plain)).toBeCloseTo(1, 6)
    expect(off.ahead).toBeNull()
  })

  it('gains by look-ahead, and most by one that knows', () => {
    const [on, oracle] = [rehearsed('on'), rehearsed('oracle')]
    expect(speedOf(on)).toBeGreaterThan(1.01 * speedOf(off))
    expect(speedOf(oracle)).toBeGreaterThan(speedOf(on))
    expect(on.ahead?.used).toBeGreaterThan(50)
    expect(oracle.ahead?.wastedPerUseful).toBe(0)
  })

  it('loses at most 2 % by one that is always wrong', () => {
    const wrong = rehearsed('wrong')
    expect(wrong.ahead?.issued).toBeGreaterThan(0)
    expect(speedOf(wrong)).toBeGreaterThan(0.98 * speedOf(off))
  })

  it('does the same every time', () => {
    expect(rehearsed('on')).toEqual(rehearsed('on'))
  })

  it('refuses a policy that no engine can have', () => {
    expect(() => rehearsed('on', 'belady')).toThrow(/belady knows what comes/)
  })
})
