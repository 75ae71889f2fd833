/**
 * The few kinds of value that a config key may have, as zod checks whose messages are parts of our
 * own sentence, and the step that turns the first failed check into that sentence. It must not know
 * any key. zod's own messages never reach a person.
 */
import { z } from 'zod'
import { ModelError, shown } from './error.js'

/** A whole number from `least` to `most`. */
export function whole(least: number, most: number) {
  return z.custom<number>(
    (value) => Number.isInteger(value) && Number(value) >= least && Number(value) <= most,
    `must be a whole number from ${least} to ${most}`,
  )
}

/** A number above `below` and at most `most`. */
export function real(below: number, most: number) {
  return z.custom<number>(
    (value) => typeof value === 'number' && value > below && value <= most,
    `must be a number above ${below} and at most ${most}`,
  )
}

/** A number from `least` to `most`. */
export function atLeast(least: number, most: number) {
  return z.custom<number>(
    (value) => typeof value === 'number' && value >= least && value <= most,
    `must be a number from ${least} to ${most}`,
  )
}

export function flag() {
  return z.custom<boolean>((value) => typeof value === 'boolean', 'must be true or false')
}

/** Nothing but this value, because another one would change the mathematics. */
export function oneOf<Value extends string | boolean | number>(only: Value) {
  return z.custom<Value>((value) => value === only, `must be ${shown(only)}`)
}

/**
 * The value, if it has the shape; else a ModelError: file, key, what it must be, what was found.
 * `prefix` is the path of the value itself inside the file.
 */
export function parseFields<Shape extends z.ZodType>(
  shape: Shape,
  value: unknown,
  file: string,
  prefix: readonly string[] = [],
): z.output<Shape> {
  const result = shape.safeParse(value)
  if (result.success) return result.data
  const issue = result.error.issues[0]
  const path = issue?.path ?? []
  const expected = issue?.code === 'custom' ? issue.message : 'must be an object'
  const key = [...prefix, ...path.map(String)].join('.')
  throw new ModelError(`${file}: ${key} ${expected}, found ${shown(valueAt(value, path))}`)
}

/** What lies at a path of keys; undefined where there is none. */
export function valueAt(value: unknown, path: readonly PropertyKey[]): unknown {
  let inner = value
  for (const key of path) {
    if (typeof inner !== 'object' || inner === null) return undefined
    inner = Reflect.get(inner, key)
  }
  return inner
}
