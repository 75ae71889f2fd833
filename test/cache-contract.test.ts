// The numbers that src/cache repeats are those of the native contract: it may not import the door, so
// this holds the two together.
import { describe, expect, it } from 'vitest'
import { nativeContract } from '../native/index.js'
import { slotBits, Tier } from '../src/cache/place.js'
import { EventField, EventKind, OrderField, Urgency, UseField } from '../src/cache/records.js'
import { unorderedTokens } from '../src/cache/slotcache.js'
import { aheadTokensMost } from '../src/prefetch/prefetch.js'

/** The entries of one group of the contract. */
function group(name: string): Record<string, number> {
  const entries = Object.entries(nativeContract).filter(([key]) => key.startsWith(`${name}.`))
  return Object.fromEntries(entries.map(([key, value]) => [key.slice(name.length + 1), value]))
}

describe('the cache repeats the native', () => {
  it.each([
    ['tier', Tier],
    ['urgency', Urgency],
    ['event', EventKind],
    ['event_field', EventField],
    ['order_field', OrderField],
    ['use_field', UseField],
  ])('%s', (name, ours) => {
    expect({ ...ours }).toEqual(group(name))
  })

  it('limits', () => {
    expect(nativeContract['limit.slot_bits']).toBe(slotBits)
    expect(nativeContract['limit.unordered_tokens']).toBe(unorderedTokens)
    expect(nativeContract['limit.ahead_tokens']).toBe(aheadTokensMost)
  })
})
