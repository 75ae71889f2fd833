// JSON schemas that an answer can be held to: each is made into one that asks for no less, in words that
// the compiler of grammars keeps. That skips what it does not know, takes one of several constraints that
// stand side by side, and gives no reason for what it refuses; so what it would not keep is told here, with
// its place, and sizes are bounded. It knows no vocabulary and no HTTP.
import { isRecord } from '../model/json.js'
import { anyText, heldPattern, PatternFault } from './pattern.js'
import { formats } from './stringformats.js'

export type Schema = Readonly<Record<string, unknown>>

/** Why a schema cannot be followed: a sentence, without the name of the field that held it. */
export type Objection = string

const CHARS_MAX = 32_768
/** The compiler's stack ends between 40 and 60 objects within each other. */
const DEPTH_MAX = 24
const PARTS_MAX = 512
/** Of items or characters: one, and all of a schema. The time to compile rises with them. */
const COUNT_MAX = 64
const COUNTS_MAX = 128

const types = ['object', 'array', 'string', 'integer', 'number', 'boolean', 'null'] as const
type Type = (typeof types)[number]

/** Keywords of one type; of another one they say nothing. */
const ofType: Readonly<Record<Type, readonly string[]>> = {
  object: ['properties', 'required', 'additionalProperties'],
  array: ['items', 'minItems', 'maxItems'],
  string: ['pattern', 'format', 'minLength', 'maxLength'],
  integer: ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum'],
  number: ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum'],
  boolean: [],
  null: [],
}
/** Of these one says all that is said of a value. */
const whole = ['$ref', 'const', 'enum', 'anyOf', 'oneOf', 'allOf']
const maps = ['$defs', 'definitions']
/** Say nothing of what is valid. */
const notes = [
  ...['$schema', '$id', '$comment', 'title', 'description', 'default', 'examples', 'deprecated'],
  ...['readOnly', 'writeOnly'],
]
const known = new Set(['type', ...whole, ...maps, ...notes, ...Object.values(ofType).flat()])

/** Integers beyond are no longer told apart by who reads them. */
const INTEGER_MAX = Number.MAX_SAFE_INTEGER

/** The schema in words that are kept, or why there is none. */
export function heldSchema(schema: Schema): Schema | Objection {
  const { length } = JSON.stringify(schema)
  if (length > CHARS_MAX) return `has ${length} characters, and at most ${CHARS_MAX} are taken`
  try {
    return new Holder(schema).root()
  } catch (error) {
    if (error instanceof Fault) return error.message
    throw error
  }
}

/** What is wrong with a schema, a sentence. */
class Fault extends Error {}

class Holder {
  #parts = 0
  #counts = 0

  constructor(private readonly schema: Schema) {}

  root(): Schema {
    const held = this.#held(this.schema, 'the schema', 0)
    const definitions = maps.flatMap((name): [string, Schema][] => {
      if (this.schema[name] === undefined) return []
      const map = this.#mapOf(this.schema, name, 'the schema')
      const entries = Object.entries(map).map(
        ([key, part]) => [key, this.#held(part, `${name}.${key}`, 1)] as const,
      )
      return [[name, Object.fromEntries(entries)]]
    })
    const all = { ...held, ...Object.fromEntries(definitions) }
    refuseEndless(all)
    return all
  }

  #held(part: unknown, place: string, depth: number): Schema {
    if (!isRecord(part)) throw new Fault(`has no schema at ${place}: an object is wanted`)
    this.#parts += 1
    if (this.#parts > PARTS_MAX) throw new Fault(`has more than ${PARTS_MAX} parts`)
    if (depth > DEPTH_MAX) throw new Fault(`is more than ${DEPTH_MAX} levels deep`)
    const strange = Object.keys(part).find((name) => !known.has(name))
    if (strange !== undefined) throw new Fault(`has ${strange} at ${place}, which is not supported`)
    const all = whole.find((name) => part[name] !== undefined)
    return all === undefined
      ? this.#typed(part, place, depth)
      : this.#wholly(all, part, place, depth)
  }

  /** What one keyword says all of. */
  #wholly(name: string, part: Schema, place: string, depth: number): Schema {
    const isValues = name === 'enum' || name === 'const'
    const beside = Object.keys(part).find(
      (one) =>
        one !== name &&
        !notes.includes(one) &&
        !maps.includes(one) &&
        !(isValues && (one === 'type' || one === 'enum')),
    )
    if (beside !== undefined) {
      throw new Fault(`has ${beside} beside ${name} at ${place}, of which only one can be kept`)
    }
    if (name === '$ref') {
      if (!this.#isTarget(part.$ref)) throw new Fault(`has a $ref at ${place} to nothing in it`)
      return { $ref: part.$ref }
    }
    if (isValues) return valuesOf(part, place)
    const list = part[name]
    if (!Array.isArray(list) || list.length === 0)
      throw new Fault(`has ${name} at ${place} that is no list of schemas`)
    const parts = list.map((one: unknown, at) =>
      this.#held(one, within(place, `${name}.${at}`), depth + 1),
    )
    const [first] = parts
    if (parts.length === 1 && first !== undefined) return first
    if (name === 'allOf')
      throw new Fault(`has allOf of several at ${place}, which is not supported`)
    if (name === 'oneOf' && !areApart(parts)) {
      throw new Fault(
        `has oneOf at ${place} of schemas that may hold at once; anyOf says what is meant`,
      )
    }
    return { anyOf: parts }
  }

  #typed(part: Schema, place: string, depth: number): Schema {
    const named = typesAt(part, place)
    const implied = types.filter((type) => ofType[type].some((name) => part[name] !== undefined))
    // Keywords of numbers are those of integers too.
    const all = named ?? implied.filter((type) => type !== 'integer')
    if (all.length === 0) return {}
    const parts = all.map((type) => this.#ofType(type, part, place, depth))
    const [first] = parts
    return parts.length === 1 && first !== undefined ? first : { anyOf: parts }
  }

  #ofType(type: Type, part: Schema, place: string, depth: number): Schema {
    switch (type) {
      case 'object':
        return this.#object(part, place, depth)
      case 'array':
        return this.#array(part, place, depth)
      case 'string':
        return this.#string(part, place)
      case 'integer':
      case 'number':
        return numberOf(type, part, place)
      default:
        return { type }
    }
  }

  #object(part: Schema, place: string, depth: number): Schema {
    const { required = [], additionalProperties: others } = part
    const map = part.properties === undefined ? {} : this.#mapOf(part, 'properties', place)
    const isListed = Array.isArray(required) && required.every((name) => typeof name === 'string')
    if (!isListed) throw new Fault(`has required at ${place} that is no list of names`)
    const absent = required.find((name) => !Object.hasOwn(map, name))
    if (absent !== undefined)
      throw new Fault(`requires ${absent} at ${place}, which is not among properties`)
    const entries = Object.entries(map).map(
      ([name, one]) =>
        [name, this.#held(one, within(place, `properties.${name}`), depth + 1)] as const,
    )
    const isOpen = others !== undefined && others !== false
    if (entries.length > 0 && isOpen) {
      // A name that is listed could come again, with another value.
      throw new Fault(
        `has additionalProperties beside properties at ${place}, which cannot be held apart`,
      )
    }
    const rest = isRecord(others)
      ? this.#held(others, within(place, 'additionalProperties'), depth + 1)
      : others === undefined || others === true
    if (entries.length === 0) return { type: 'object', additionalProperties: rest }
    return {
      type: 'object',
      properties: Object.fromEntries(entries),
      required,
      additionalProperties: false,
    }
  }

  #array(part: Schema, place: string, depth: number): Schema {
    const counts = this.#countsOf(part, 'minItems', 'maxItems', place)
    const { items } = part
    const held = items === undefined ? {} : this.#held(items, within(place, 'items'), depth + 1)
    return { type: 'array', items: held, ...counts }
  }

  #string(part: Schema, place: string): Schema {
    const { pattern, format } = part
    const counts = this.#countsOf(part, 'minLength', 'maxLength', place)
    const said = [pattern, format, Object.keys(counts)[0]].filter((one) => one !== undefined)
    if (said.length > 1) {
      throw new Fault(`has several of pattern, format and lengths at ${place}; one can be kept`)
    }
    if (format !== undefined) {
      const known = formats[String(format)]
      if (known === undefined) throw new Fault(`has a format at ${place} that is none of ${names}`)
      return { type: 'string', pattern: heldPattern(known) }
    }
    if (pattern === undefined) {
      const { minLength: least, maxLength: most } = counts
      if (least === undefined && most === undefined) return { type: 'string' }
      return { type: 'string', pattern: anyText(least ?? 0, most) }
    }
    try {
      return { type: 'string', pattern: heldPattern(String(pattern)) }
    } catch (error) {
      if (!(error instanceof PatternFault)) throw error
      throw new Fault(`has a pattern at ${place} ${error.message}, which is not supported`)
    }
  }

  #countsOf(part: Schema, low: string, high: string, place: string): Record<string, number> {
    const counts: Record<string, number> = {}
    for (const name of [low, high]) {
      const count = part[name]
      if (count === undefined) continue
      if (!Number.isInteger(count) || Number(count) < 0 || Number(count) > COUNT_MAX)
        throw new Fault(`has ${name} at ${place} that is no whole number from 0 to ${COUNT_MAX}`)
      counts[name] = Number(count)
      this.#counts += Number(count)
    }
    if (this.#counts > COUNTS_MAX)
      throw new Fault(`has counts that are more than ${COUNTS_MAX} together`)
    refuseAbove(counts[low], counts[high], place)
    return counts
  }

  #mapOf(part: Schema, name: string, place: string): Schema {
    const map = part[name]
    if (!isRecord(map)) throw new Fault(`has ${name} at ${place} that is no object`)
    return map
  }

  /** Whether it names a definition, or the whole. */
  #isTarget(ref: unknown): boolean {
    if (ref === '#') return true
    const [, kind = '', name = ''] = /^#\/(\$defs|definitions)\/([^/~%]+)$/.exec(String(ref)) ?? []
    const map = this.schema[kind]
    return isRecord(map) && Object.hasOwn(map, name)
  }
}

const names = Object.keys(formats).join(', ')

function within(place: string, name: string): string {
  return place === 'the schema' ? name : `${place}.${name}`
}

function refuseAbove(least: number | undefined, most: number | undefined, place: string): void {
  if (least !== undefined && most !== undefined && least > most)
    throw new Fault(`has a least that is above the most at ${place}`)
}

/** Null: it names none. */
function typesAt({ type }: Schema, place: string): Type[] | null {
  if (type === undefined) return null
  const all = [type].flat()
  if (all.length === 0) throw new Fault(`allows no type at ${place}`)
  return all.map((one) => {
    const found = types.find((known) => known === one)
    if (found !== undefined) return found
    throw new Fault(`has a type at ${place} that is none of ${types.join(', ')}`)
  })
}

/** Those of the listed values that all else allows. */
function valuesOf(part: Schema, place: string): Schema {
  const { enum: listed } = part
  if (listed !== undefined && !(Array.isArray(listed) && listed.length > 0))
    throw new Fault(`has an enum at ${place} that is no list of values`)
  const all: readonly unknown[] = Array.isArray(listed) ? listed : [part.const]
  const named = typesAt(part, place)
  const values = all.filter(
    (value) =>
      (part.const === undefined || isSame(value, part.const)) &&
      (named === null || named.some((type) => isOfType(value, type))),
  )
  if (values.length === 0) throw new Fault(`allows no value at ${place}`)
  return { enum: values }
}

function isOfType(value: unknown, type: Type): boolean {
  if (type === 'integer') return Number.isInteger(value)
  if (type === 'null') return value === null
  if (type === 'array') return Array.isArray(value)
  return type === 'object' ? isRecord(value) : typeof value === type
}

function isSame(one: unknown, other: unknown): boolean {
  return JSON.stringify(one) === JSON.stringify(other)
}

/** Bounds of a number; those of real numbers include the bound or are refused. */
function numberOf(type: 'integer' | 'number', part: Schema, place: string): Schema {
  const bound = (name: string): number | undefined => {
    const value = part[name]
    if (value === undefined) return undefined
    if (typeof value === 'number' && Math.abs(value) <= INTEGER_MAX) return value
    throw new Fault(`has ${name} at ${place} that is no number of at most ${INTEGER_MAX}`)
  }
  const [low, high] = [bound('minimum'), bound('maximum')]
  const [above, below] = [bound('exclusiveMinimum'), bound('exclusiveMaximum')]
  const has = [low, high, above, below].some((one) => one !== undefined)
  if (!has) return { type }
  if (type === 'number')
    throw new Fault(`has bounds of a number at ${place}; those of an integer can be kept`)
  const least = greatest(
    low === undefined ? [] : [Math.ceil(low)],
    above === undefined ? [] : [Math.floor(above) + 1],
  )
  const most = greatest(
    high === undefined ? [] : [-Math.floor(high)],
    below === undefined ? [] : [1 - Math.ceil(below)],
  )
  // The library keeps both bounds rightly, and one alone not always.
  const minimum = least ?? -INTEGER_MAX
  const maximum = most === undefined ? INTEGER_MAX : 0 - most
  refuseAbove(minimum, maximum, place)
  return { type, minimum, maximum }
}

function greatest(...lists: number[][]): number | undefined {
  const all = lists.flat()
  return all.length === 0 ? undefined : Math.max(...all)
}

/** Whether no value is one of two of them: of other types, of other values, or told apart by a property. */
function areApart(parts: readonly Schema[]): boolean {
  return parts.every((one, at) => parts.slice(at + 1).every((other) => isApart(one, other)))
}

function isApart(one: Schema, other: Schema): boolean {
  const [values, others] = [one.enum, other.enum]
  if (Array.isArray(values) && Array.isArray(others))
    return !values.some((value) => others.some((second) => isSame(value, second)))
  const [kinds, otherKinds] = [kindsOf(one), kindsOf(other)]
  if (kinds !== null && otherKinds !== null && !kinds.some((kind) => otherKinds.includes(kind)))
    return true
  const [names, otherNames] = [one.required, other.required]
  if (!Array.isArray(names) || !Array.isArray(otherNames)) return false
  return names.some(
    (name: string) =>
      otherNames.includes(name) && isApart(propertyOf(one, name), propertyOf(other, name)),
  )
}

function propertyOf({ properties }: Schema, name: string): Schema {
  const part = isRecord(properties) ? properties[name] : undefined
  return isRecord(part) ? part : {}
}

/** Of a held schema, the types that its values may have, integers counted as numbers; null: any. */
function kindsOf({ type, enum: values }: Schema): string[] | null {
  if (Array.isArray(values)) {
    return values.map((value: unknown) =>
      value === null ? 'null' : Array.isArray(value) ? 'array' : typeof value,
    )
  }
  if (typeof type !== 'string') return null
  return [type === 'integer' ? 'number' : type]
}

/** Refuses definitions that lead back to themselves without a value between. */
function refuseEndless(root: Schema): void {
  const visit = (part: unknown, path: readonly string[]): void => {
    if (!isRecord(part)) return
    if (Array.isArray(part.anyOf)) for (const one of part.anyOf) visit(one, path)
    if (typeof part.$ref !== 'string') return
    if (path.includes(part.$ref)) throw new Fault(`has a $ref that leads to itself: ${part.$ref}`)
    visit(targetOf(root, part.$ref), [...path, part.$ref])
  }
  visit(root, ['#'])
  for (const name of maps) {
    const map = root[name]
    if (!isRecord(map)) continue
    for (const key of Object.keys(map)) visit(map[key], [`#/${name}/${key}`])
  }
}

function targetOf(root: Schema, ref: string): unknown {
  if (ref === '#') return root
  const [, kind = '', name = ''] = ref.split('/')
  const map = root[kind]
  return isRecord(map) ? map[name] : undefined
}
