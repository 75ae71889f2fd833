// The text of a flag or of its environment variable, turned into a value, or refused with what was
// expected. Names no flag: the caller's message already does. Numbers are decimal and whole texts, so
// "12abc", "0x10", "1e999" and "" are refused instead of guessed at.
import { InvalidArgumentError } from 'commander'

/** Past this a JSON number would no longer be the seed that was given. */
const SEED_MAX = Number.MAX_SAFE_INTEGER
const TOKEN_ID_MAX = 2 ** 24
const BIAS_MAX = 1e4

export function whole(least: number, most: number): (text: string) => number {
  return (text) => {
    const value = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN
    if (value >= least && value <= most) return value
    throw new InvalidArgumentError(`Expected a whole number from ${least} to ${most}.`)
  }
}

/** A number from `least` to `most`; `isLeastOut`: above `least`. */
export function real(least: number, most: number, isLeastOut = false): (text: string) => number {
  return (text) => {
    const value = numberIn(text)
    const isAboveLeast = isLeastOut ? value > least : value >= least
    if (isAboveLeast && value <= most) return value
    const start = isLeastOut ? 'above' : 'from'
    const end = isLeastOut ? 'and at most' : 'to'
    throw new InvalidArgumentError(`Expected a number ${start} ${least} ${end} ${most}.`)
  }
}

export function seed(text: string): number {
  return whole(0, SEED_MAX)(text)
}

/** Text that says something. */
export function filled(what: string): (text: string) => string {
  return (text) => {
    if (text !== '') return text
    throw new InvalidArgumentError(`Expected ${what}.`)
  }
}

/** `yarn,FACTOR`; the largest factor is the one that configs may have. */
export function ropeScaling(text: string): { readonly factor: number } {
  const factor = numberIn(/^yarn,(.*)$/.exec(text)?.[1] ?? '')
  if (factor >= 1 && factor <= 1024) return { factor }
  throw new InvalidArgumentError('Expected yarn,FACTOR with a factor from 1 to 1024.')
}

const unitBytes: Readonly<Record<string, number>> = {
  '': 1,
  b: 1,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  tb: 1e12,
  kib: 2 ** 10,
  mib: 2 ** 20,
  gib: 2 ** 30,
  tib: 2 ** 40,
}

/** A budget: bytes, or a share (0 to 1) of all routed experts. */
export type Budget = { readonly bytes: number } | { readonly share: number }

export function budget(text: string): Budget {
  const [, number = '', unit = ''] = /^([\d.]+) ?([A-Za-z]*|%)$/.exec(text) ?? []
  const value = numberIn(number)
  if (unit === '%' && value > 0 && value <= 100) return { share: value / 100 }
  const bytes = Math.floor(value * (unitBytes[unit.toLowerCase()] ?? Number.NaN))
  if (bytes >= 1 && bytes <= 2 ** 50) return { bytes }
  throw new InvalidArgumentError('Expected a size such as 96GiB or 800MB, or a share such as 25%.')
}

/** A drive made of RAM: bytes per second and seconds until a read begins to arrive. */
export interface Paced {
  readonly bytesPerSecond: number
  readonly latencySeconds: number
}

const unitSeconds: Readonly<Record<string, number>> = { us: 1e-6, ms: 1e-3, s: 1 }

/** `2GB/s,200us` */
export function paced(text: string): Paced {
  const [, rate = '', rateUnit = '', latency = '', latencyUnit = ''] =
    /^([\d.]+) ?([A-Za-z]*)\/s,([\d.]+) ?(us|ms|s)$/.exec(text) ?? []
  const bytesPerSecond = numberIn(rate) * (unitBytes[rateUnit.toLowerCase()] ?? Number.NaN)
  const latencySeconds = numberIn(latency) * (unitSeconds[latencyUnit] ?? Number.NaN)
  if (bytesPerSecond >= 1e3 && bytesPerSecond <= 1e13 && latencySeconds <= 10)
    return { bytesPerSecond, latencySeconds }
  throw new InvalidArgumentError('Expected a rate and a latency, as 2GB/s,200us.')
}

/** Bytes per second, as 7GB/s. */
export function rate(text: string): number {
  const [, number = '', unit = ''] = /^([\d.]+) ?([A-Za-z]*)\/s$/.exec(text) ?? []
  const bytesPerSecond = numberIn(number) * (unitBytes[unit.toLowerCase()] ?? Number.NaN)
  if (bytesPerSecond >= 1e3 && bytesPerSecond <= 1e13) return bytesPerSecond
  throw new InvalidArgumentError('Expected a rate, as 7GB/s.')
}

/** Distances, as 1,2,4, or attended:1,2,4 behind the next layer's attention. */
export function ahead(text: string): { readonly ahead: number[]; readonly attends: boolean } {
  const [, attended, list = ''] = /^(attended:)?(.*)$/.exec(text) ?? []
  const distances = list.split(',').map((word) => (/^\d{1,4}$/.test(word) ? Number(word) : 0))
  if (distances.length <= 16 && distances.every((one) => one >= 1))
    return { ahead: distances, attends: attended !== undefined }
  throw new InvalidArgumentError(
    'Expected up to 16 distances in layers, as 1,2,4 or attended:1,2,4.',
  )
}

/** One folder more. */
export function folders(text: string, earlier: readonly string[] = []): readonly string[] {
  if (text === '') throw new InvalidArgumentError('Expected a folder.')
  return [...earlier, text]
}

/** ID=VALUE, several separated by commas; the flag may also be repeated. A later value of an id wins. */
export function logitBias(
  text: string,
  earlier: ReadonlyMap<number, number> = new Map(),
): ReadonlyMap<number, number> {
  const biases = new Map(earlier)
  for (const entry of text.split(',')) {
    const [, id = '', value = ''] = /^(\d{1,8})=(.*)$/.exec(entry) ?? []
    const bias = value === '-inf' ? Number.NEGATIVE_INFINITY : numberIn(value)
    const isBias = value === '-inf' || Math.abs(bias) <= BIAS_MAX
    if (id === '' || Number(id) >= TOKEN_ID_MAX || !isBias) {
      throw new InvalidArgumentError(
        `Expected ID=VALUE with a token id and a number from -${BIAS_MAX} to ${BIAS_MAX}, or -inf.`,
      )
    }
    biases.set(Number(id), bias)
  }
  return biases
}

function numberIn(text: string): number {
  const isNumber = /^-?(?:\d{1,16}(?:\.\d{0,16})?|\.\d{1,16})(?:[eE][-+]?\d{1,3})?$/.test(text)
  return isNumber ? Number(text) : Number.NaN
}

/** Bytes. */
export function size(text: string): number {
  const bytes = budget(text)
  if ('bytes' in bytes) return bytes.bytes
  throw new InvalidArgumentError('Expected a size such as 2GiB or 800MB.')
}

/** Bytes, or 0. */
export function sizeOrNone(text: string): number {
  return text === '0' ? 0 : size(text)
}

/** Bytes of one read from a drive. */
export function chunk(text: string): number {
  const bytes = size(text)
  if (bytes >= 2 ** 16 && bytes <= 2 ** 30) return bytes
  throw new InvalidArgumentError('Expected a size from 64KiB to 1GiB.')
}

/** From 1 to 1024. */
export function powerOfTwo(text: string): number {
  const value = /^\d{1,4}$/.test(text) ? Number(text) : 0
  if (value >= 1 && value <= 1024 && Number.isInteger(Math.log2(value))) return value
  throw new InvalidArgumentError('Expected a power of two from 1 to 1024.')
}
