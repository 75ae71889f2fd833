// How a machine is written on the command line: NAME=VALUE, separated by commas, with rates, times, sizes and
// shares as the other flags write them. Which names there are is the command's business.
import { InvalidArgumentError } from 'commander'
import { budget, paced } from './argument.js'

/** The words by their names, each of which is known and stands once. */
export function machineWords<Name extends string>(
  text: string,
  names: readonly Name[],
): ReadonlyMap<Name, string> {
  const given = new Map<Name, string>()
  for (const entry of text.split(',')) {
    const [, word = '', value = ''] = /^([a-z]+)=(.+)$/.exec(entry) ?? []
    const name = names.find((one) => one === word)
    if (name === undefined || given.has(name)) {
      throw new InvalidArgumentError(`Expected NAME=VALUE of ${names.join(', ')}, each once.`)
    }
    given.set(name, value)
  }
  return given
}

/** Bytes per second. */
export function rateOf(text: string): number {
  return orRefuse(() => paced(`${text},0s`).bytesPerSecond, 'a rate such as 2GB/s')
}

export function secondsOf(text: string): number {
  return orRefuse(() => paced(`1GB/s,${text}`).latencySeconds, 'a time such as 3ms')
}

export function bytesOf(text: string): number {
  const size = orRefuse(() => budget(text), 'a size such as 25MB')
  if ('bytes' in size) return size.bytes
  throw new InvalidArgumentError('Expected a size such as 25MB.')
}

/** From 0 to 1. */
export function shareOf(text: string): number {
  const size = orRefuse(() => budget(text), 'a share such as 60%')
  if ('share' in size) return size.share
  throw new InvalidArgumentError('Expected a share such as 60%.')
}

/** What a larger flag is made of refuses with its own words. */
function orRefuse<Value>(parse: () => Value, expected: string): Value {
  try {
    return parse()
  } catch {
    throw new InvalidArgumentError(`Expected ${expected}.`)
  }
}
