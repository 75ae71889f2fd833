// Flags that a program gives and no person has typed: a record whose names are those of flags becomes the
// words of a command line and is read like one, so that both have the same checks, defaults and messages.
// Variables of the environment are for persons and do not count. It knows no flag by name.
import { Command, CommanderError } from 'commander'
import { Failure, oneLine, Status } from './failure.js'

/** What a setting may be: a list is a flag that is repeated, a record one that is repeated as NAME=VALUE. */
type Setting = string | number | readonly string[] | Readonly<Record<string, number>> | undefined

/** `{ expertRam: '25%' }` is `--expert-ram=25%`; what is undefined is not said. */
export function wordsOf(settings: object): string[] {
  const entries: [string, Setting][] = Object.entries(settings)
  return entries.flatMap(([name, setting]) => {
    const flag = `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`
    return textsOf(setting).map((text) => `${flag}=${text}`)
  })
}

function textsOf(setting: Setting): string[] {
  if (setting === undefined) return []
  if (Array.isArray(setting)) return setting.map(String)
  if (typeof setting !== 'object') return [textOf(setting)]
  return Object.entries(setting).map(([name, value]) => `${name}=${textOf(value)}`)
}

/** Persons write -inf. */
function textOf(value: string | number): string {
  return value === Number.NEGATIVE_INFINITY ? '-inf' : String(value)
}

/** The flags that words give. Throws a Failure for words that are no such flags. */
export function flagsIn(add: (command: Command) => Command, words: readonly string[]): Command {
  const silent = { writeOut: () => {}, writeErr: () => {} }
  const command = add(new Command().helpOption(false).exitOverride().configureOutput(silent))
  for (const one of command.options) delete one.envVar
  try {
    return command.parse(words, { from: 'user' })
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error
    throw new Failure(oneLine(error.message.replace(/^error: /, '')), Status.usage)
  }
}
