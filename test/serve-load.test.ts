// A server under load for 8 seconds: answers as alone, and nothing left behind. The long version, with
// figures, is serve-load.proof.ts.
import { beforeAll, describe, expect, it } from 'vitest'
import { percentile } from './figure.js'
import { type Load, load } from './serveload.js'

const SECONDS = 8

describe('32 clients of all kinds', () => {
  let result: Load
  beforeAll(async () => {
    result = await load(SECONDS, 1)
  }, 120_000)

  it('each get what they should: the text of `run`, a refusal, the whole stream', () => {
    expect(result.faults).toEqual([])
    for (const [kind, count] of Object.entries(result.done)) expect(count, kind).toBeGreaterThan(0)
  })

  it('do not hold up /health, beyond what the machine itself is late', () => {
    expect(result.healthMs.length).toBeGreaterThan(SECONDS)
    const late = percentile(result.bareMs, 0.99)
    expect(percentile(result.healthMs, 0.99)).toBeLessThan(late + 100)
  })

  it('leave no sequence, no block and no socket behind', () => {
    expect(result.before).toMatchObject({ running: 0, waiting: 0, hasAllBlocks: true })
    expect(result.after).toEqual(result.before)
  })
})
