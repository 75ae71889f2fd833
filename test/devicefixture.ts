// What a suite over devices needs of each: how to make one, and what to feed it.
import { expect } from 'vitest'
import { type Device, isDeviceError, type Layout } from '../native/index.js'
import type { Tier } from '../src/cache/place.js'

export interface DeviceFixture {
  readonly name: string
  /** What its slots lie in; absent: RAM. */
  readonly tier?: Tier
  create(): Device
  /** A layout for it with room for 2 sequences, `lockstep` as given, and its own control words. */
  layout(lockstep: boolean): Layout
  /** At least 200 tokens that sequence 0 can begin with. */
  readonly tokens: readonly number[]
}

/** The code of the DeviceError that the call throws; 'none' when it throws nothing. */
export function codeOf(call: () => unknown): string {
  try {
    call()
  } catch (error) {
    if (!isDeviceError(error)) throw error
    expect(error.message).toMatch(/^[^\n]+$/)
    return error.code
  }
  return 'none'
}
