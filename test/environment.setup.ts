// Runs around every test file: files that share a process must find the environment as it was, or one of
// them would decide what another one opens. The object stays too: native code sees its changes, and would
// go on seeing them behind another.
import { afterAll, expect } from 'vitest'

const environment = process.env
const before = { ...environment }

afterAll(() => {
  expect(process.env).toBe(environment)
  expect(process.env).toEqual(before)
})
