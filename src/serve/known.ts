// The kinds of value that files have (src/model/fields.ts), for the bodies of requests.
import { z } from 'zod'
import type { Kind } from '../model/fields.js'

/** A check of zod that says the same. */
export function known<Value>({ is, expected }: Kind<Value>) {
  return z.custom<Value>(is, expected)
}
