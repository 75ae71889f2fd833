// What was learnt, as named arrays of numbers: whoever learns shows its own arrays, so they can be written
// down and filled again without anybody knowing what they mean. As text each is its kind, its length and
// its bytes, deflated, in base64; text from anywhere is checked before any memory is taken for it.
import { deflateSync, inflateSync } from 'node:zlib'

export type Numbers = Float32Array | Float64Array | Uint8Array | Uint16Array | Int32Array
export type Learnt = Readonly<Record<string, Numbers>>

const kinds = {
  f32: Float32Array,
  f64: Float64Array,
  u8: Uint8Array,
  u16: Uint16Array,
  i32: Int32Array,
} as const

/** The same arrays under longer names. */
export function within(name: string, learnt: Learnt): Learnt {
  const entries = Object.entries(learnt).map(([part, numbers]) => [`${name}.${part}`, numbers])
  return Object.fromEntries(entries)
}

/**
 * Fills the arrays from those of the same name, kind and length, all of them or none. Returns whether it
 * did.
 */
export function recall(into: Learnt, from: Learnt): boolean {
  for (const [name, numbers] of Object.entries(into)) {
    const found = from[name]
    const fits = found?.constructor === numbers.constructor && found.length === numbers.length
    if (!fits) return false
  }
  for (const [name, numbers] of Object.entries(into)) numbers.set(from[name] ?? [])
  return true
}

export function printNumbers(numbers: Numbers): string {
  const kind = Object.entries(kinds).find(([, type]) => numbers instanceof type)?.[0] ?? ''
  const bytes = Buffer.from(numbers.buffer, numbers.byteOffset, numbers.byteLength)
  return `${kind}:${numbers.length}:${deflateSync(bytes, { level: 1 }).toString('base64')}`
}

/** Null: this is not what `printNumbers` prints. `mostBytes`: when inflated. */
export function parseNumbers(text: string, mostBytes: number): Numbers | null {
  const found = /^(f32|f64|u8|u16|i32):(\d{1,9}):([A-Za-z0-9+/=]*)$/.exec(text)
  if (found === null) return null
  const [, kind, length, data] = found
  const Kind = kinds[kind as keyof typeof kinds]
  const byteLength = Number(length) * Kind.BYTES_PER_ELEMENT
  if (byteLength > mostBytes) return null
  try {
    const bytes = inflateSync(Buffer.from(data ?? '', 'base64'), {
      maxOutputLength: Math.max(1, byteLength),
    })
    if (bytes.length !== byteLength) return null
    return new Kind(Uint8Array.from(bytes).buffer)
  } catch {
    return null
  }
}
