/**
 * The kinds of value that the keys of a JSON file may have, and the step that turns the first value of
 * another kind into a sentence of ours. It must not know any key. Few kinds, because a command that only
 * reads a config should begin at once; what strangers may send to the server is checked by zod, which
 * loads a hundred modules, and takes the kinds of here (src/serve/known.ts).
 */
import { ModelError, shown } from './error.js'
import { isRecord } from './json.js'

type Path = readonly string[]

/** What may stand at a key. */
export interface Field<Value> {
  /** What stands there, as it is kept; throws Mismatch. `path`: the keys on the way to it. */
  read(value: unknown, path: Path): Value
}

/** A field that is told by its value alone; `expected` goes on with a sentence that began with its key. */
export interface Kind<Value> extends Field<Value> {
  readonly expected: string
  is(value: unknown): value is Value
}

/** What a field gives. */
export type Read<Of> = Of extends Field<infer Value> ? Value : never

type Fields = Readonly<Record<string, Field<unknown>>>
type MayLack<Of extends Fields> = {
  [Key in keyof Of]: undefined extends Read<Of[Key]> ? Key : never
}[keyof Of]
type FieldsRead<Of extends Fields> = {
  [Key in Exclude<keyof Of, MayLack<Of>>]: Read<Of[Key]>
} & { [Key in MayLack<Of>]?: Read<Of[Key]> }

class Mismatch extends Error {
  constructor(
    readonly path: Path,
    readonly expected: string,
  ) {
    super(expected)
  }
}

/** Values of which `is` is true. */
export function kind<Value>(is: (value: unknown) => boolean, expected: string): Kind<Value> {
  const isOfKind = (value: unknown): value is Value => is(value)
  return {
    expected,
    is: isOfKind,
    read(value, path) {
      if (isOfKind(value)) return value
      throw new Mismatch(path, expected)
    },
  }
}

/** A whole number from `least` to `most`. */
export function whole(least: number, most: number): Kind<number> {
  return kind(
    (value) => Number.isInteger(value) && Number(value) >= least && Number(value) <= most,
    `must be a whole number from ${least} to ${most}`,
  )
}

/** A number above `below` and at most `most`. */
export function real(below: number, most: number): Kind<number> {
  return kind(
    (value) => typeof value === 'number' && value > below && value <= most,
    `must be a number above ${below} and at most ${most}`,
  )
}

/** A number from `least` to `most`. */
export function atLeast(least: number, most: number): Kind<number> {
  return kind(
    (value) => typeof value === 'number' && value >= least && value <= most,
    `must be a number from ${least} to ${most}`,
  )
}

export function flag(): Kind<boolean> {
  return kind((value) => typeof value === 'boolean', 'must be true or false')
}

/** Nothing but this value, because another one would change the mathematics. */
export function oneOf<Value extends string | boolean | number>(only: Value): Kind<Value> {
  return kind((value) => value === only, `must be ${shown(only)}`)
}

/** One of these words. */
export function among<Word extends string>(...words: readonly Word[]): Kind<Word> {
  return kind((value) => words.some((word) => word === value), `must be ${words.join(' or ')}`)
}

/** At most so many UTF-16 units. */
export function text(most = Number.POSITIVE_INFINITY): Kind<string> {
  return kind((value) => typeof value === 'string' && value.length <= most, 'must be text')
}

export function date(): Kind<string> {
  return kind(
    (value) => typeof value === 'string' && !Number.isNaN(Date.parse(value)),
    'must be a date',
  )
}

/** The key may be absent. */
export function optional<Value>(field: Field<Value>): Field<Value | undefined> {
  return { read: (value, path) => (value === undefined ? value : field.read(value, path)) }
}

/** Absent or null. */
export function nullish<Value>(field: Field<Value>): Field<Value | null | undefined> {
  return optional(nullable(field))
}

export function nullable<Value>(field: Field<Value>): Field<Value | null> {
  return { read: (value, path) => (value === null ? value : field.read(value, path)) }
}

/** Absent means null. */
export function orNull<Value>(field: Field<Value>): Field<Value | null> {
  return { read: (value, path) => (value == null ? null : field.read(value, path)) }
}

/** So many at least and at most. */
export function list<Value>(
  field: Field<Value>,
  least = 0,
  most = Number.POSITIVE_INFINITY,
): Field<Value[]> {
  const isOfAnyLength = least === 0 && most === Number.POSITIVE_INFINITY
  const expected = isOfAnyLength ? 'must be a list' : `must be a list of ${least} to ${most}`
  return {
    read(value, path) {
      if (!Array.isArray(value) || value.length < least || value.length > most)
        throw new Mismatch(path, expected)
      return value.map((item, index) => field.read(item, [...path, `${index}`]))
    },
  }
}

/** An object with any keys. */
export function byName<Value>(field: Field<Value>): Field<Record<string, Value>> {
  return {
    read(value, path) {
      const entries = Object.entries(recordAt(value, path))
      return Object.fromEntries(
        entries.map(([key, inner]) => [key, field.read(inner, [...path, key])]),
      )
    },
  }
}

/** An object with these keys; others are left out. */
export function object<Of extends Fields>(fields: Of): Field<FieldsRead<Of>> {
  return {
    read(value, path) {
      const record = recordAt(value, path)
      const read: Record<string, unknown> = {}
      for (const [key, field] of Object.entries(fields)) {
        const found = field.read(record[key], [...path, key])
        if (found !== undefined) read[key] = found
      }
      return read as FieldsRead<Of>
    },
  }
}

/**
 * The value, if it has the shape; else a ModelError: file, key, what it must be, what was found.
 * `prefix` is the path of the value itself inside the file.
 */
export function parseFields<Value>(
  field: Field<Value>,
  value: unknown,
  file: string,
  prefix: Path = [],
): Value {
  try {
    return field.read(value, [])
  } catch (error) {
    if (!(error instanceof Mismatch)) throw error
    const { path, expected } = error
    const key = [...prefix, ...path].join('.')
    throw new ModelError(`${file}: ${key} ${expected}, found ${shown(valueAt(value, path))}`)
  }
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

function recordAt(value: unknown, path: Path): Record<string, unknown> {
  if (isRecord(value)) return value
  throw new Mismatch(path, 'must be an object')
}
