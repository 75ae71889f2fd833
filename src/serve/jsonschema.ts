// Which JSON schemas an answer can be held to: those whose every keyword is enforced, of a bounded size.
// What compiles schemas skips what it does not know and gives no reason for what it refuses, so both are
// told here, with the place. It knows no vocabulary and no HTTP.
import { isRecord } from '../model/json.js'

/** Why a schema cannot be followed: a sentence, without the name of the field that held it. */
export type Objection = string

const CHARS_MAX = 32_768
/** The compiler's stack ends between 40 and 60 objects within each other. */
const DEPTH_MAX = 24
const PARTS_MAX = 512
/** Of items: one, and all of a schema. The time to compile rises with them. */
const COUNT_MAX = 64
const COUNTS_MAX = 128

const types = ['object', 'array', 'string', 'number', 'integer', 'boolean', 'null']
/** Say nothing of what is valid. */
const notes = ['$schema', '$id', '$comment', 'title', 'description', 'default', 'examples']
/** Not minLength and maxLength: over a large vocabulary one of 64 compiles for seconds. */
const counts = ['minItems', 'maxItems']
const maps = ['properties', '$defs', 'definitions']
const lists = ['anyOf', 'oneOf']
const handled = ['type', 'enum', 'const', 'required', 'additionalProperties', 'items', '$ref']
const known = new Set([...notes, ...counts, ...maps, ...lists, ...handled])

/** Null: an answer can be held to it. */
export function objectionTo(schema: Readonly<Record<string, unknown>>): Objection | null {
  const { length } = JSON.stringify(schema)
  if (length > CHARS_MAX) return `has ${length} characters, and at most ${CHARS_MAX} are taken`
  return new Survey(schema).objection(schema, 'the schema', 0)
}

class Survey {
  #parts = 0
  #counts = 0

  constructor(private readonly root: Readonly<Record<string, unknown>>) {}

  objection(part: unknown, place: string, depth: number): Objection | null {
    if (!isRecord(part)) return `has no schema at ${place}: an object is wanted`
    this.#parts += 1
    if (this.#parts > PARTS_MAX) return `has more than ${PARTS_MAX} parts`
    if (depth > DEPTH_MAX) return `is more than ${DEPTH_MAX} levels deep`
    const strange = Object.keys(part).find((name) => !known.has(name))
    if (strange !== undefined) return `has ${strange} at ${place}, which is not supported`
    return this.#ownFault(part, place) ?? this.#faultBelow(part, place, depth)
  }

  #ownFault(part: Readonly<Record<string, unknown>>, place: string): Objection | null {
    const { type, required, $ref: ref, enum: values } = part
    if (type !== undefined && ![type].flat().every((one) => types.includes(String(one))))
      return `has a type at ${place} that is none of ${types.join(', ')}`
    if (Array.isArray(type) && type.length === 0) return `allows no type at ${place}`
    if (values !== undefined && !(Array.isArray(values) && values.length > 0))
      return `has an enum at ${place} that is no list of values`
    for (const name of counts) {
      const count = part[name] ?? 0
      if (!Number.isInteger(count) || !isWithin(Number(count)))
        return `has ${name} at ${place} that is no whole number from 0 to ${COUNT_MAX}`
      this.#counts += Number(count)
    }
    if (this.#counts > COUNTS_MAX)
      return `has counts of items that are more than ${COUNTS_MAX} together`
    if (isAbove(part.minItems, part.maxItems))
      return `has a least that is above the most at ${place}`
    const isListed = Array.isArray(required) && required.every((name) => typeof name === 'string')
    if (required !== undefined && !isListed)
      return `has required at ${place} that is no list of names`
    const properties = isRecord(part.properties) ? part.properties : {}
    const absent = isListed ? required.find((name) => !Object.hasOwn(properties, name)) : undefined
    if (absent !== undefined) return `requires ${absent} at ${place}, which is not among properties`
    return ref === undefined || this.#isTarget(ref)
      ? null
      : `has a $ref at ${place} to nothing in it`
  }

  #faultBelow(
    part: Readonly<Record<string, unknown>>,
    place: string,
    depth: number,
  ): Objection | null {
    const below: [string, unknown][] = []
    for (const name of maps) {
      const map = part[name]
      if (map === undefined) continue
      if (!isRecord(map)) return `has ${name} at ${place} that is no object`
      for (const [key, value] of Object.entries(map)) below.push([`${name}.${key}`, value])
    }
    for (const name of lists) {
      const list = part[name]
      if (list === undefined) continue
      if (!Array.isArray(list) || list.length === 0)
        return `has ${name} at ${place} that is no list of schemas`
      for (const [at, value] of list.entries()) below.push([`${name}.${at}`, value])
    }
    if (part.items !== undefined) below.push(['items', part.items])
    const { additionalProperties: others } = part
    if (others !== undefined && typeof others !== 'boolean')
      below.push(['additionalProperties', others])
    for (const [name, value] of below) {
      const fault = this.objection(
        value,
        `${place === 'the schema' ? '' : `${place}.`}${name}`,
        depth + 1,
      )
      if (fault !== null) return fault
    }
    return null
  }

  /** Whether it names a definition, or the whole. */
  #isTarget(ref: unknown): boolean {
    if (ref === '#') return true
    const [, kind = '', name = ''] = /^#\/(\$defs|definitions)\/([^/~%]+)$/.exec(String(ref)) ?? []
    const map = this.root[kind]
    return isRecord(map) && Object.hasOwn(map, name)
  }
}

function isWithin(count: number): boolean {
  return count >= 0 && count <= COUNT_MAX
}

function isAbove(least: unknown, most: unknown): boolean {
  return typeof least === 'number' && typeof most === 'number' && least > most
}
