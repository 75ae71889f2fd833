// The flags of `bench`, and the other setting that it alternates with.
import { Command, InvalidArgumentError } from 'commander'
import { whole } from './argument.js'
import { addAll, addSharedFlags, option, type SharedFlags } from './flags.js'

export interface BenchFlags extends SharedFlags {
  readonly predict: number
  readonly promptTokens?: number
  readonly compare?: Partial<SharedFlags>
  readonly pairs: number
}

export function addBenchFlags(command: Command): Command {
  const count = whole(1, 2 ** 30)
  return addAll(command, 'Measuring:', [
    option('-n, --predict <n>', 'tokens to decode in a pass, over all prompts', count).default(160),
    option(
      '--prompt-tokens <n>',
      'length of every prompt, by repetition (default: as they are)',
      count,
    ),
    option(
      '--compare <setting>',
      'alternate with another setting, as expert-ram=50%,policy=lru or no-tuned',
      settings,
    ),
    option(
      '--pairs <n>',
      'with --compare: how many times both are measured',
      whole(1, 100),
    ).default(5),
  ])
}

/** NAME=VALUE or NAME, several separated by commas: the shared flags that another setting has. */
function settings(text: string): Partial<SharedFlags> {
  const words = text.split(',').flatMap((entry) => {
    const [, name, value] = /^([a-z-]+)(?:=(.+))?$/.exec(entry) ?? []
    if (name === undefined) throw new InvalidArgumentError('Expected settings as policy=lru.')
    return value === undefined ? [`--${name}`] : [`--${name}`, value]
  })
  const parsed = addSharedFlags(new Command())
    .exitOverride()
    .configureOutput({ writeErr: () => {} })
  try {
    parsed.parse(words, { from: 'user' })
  } catch (error) {
    throw new InvalidArgumentError(error instanceof Error ? error.message : String(error))
  }
  const given = Object.entries(parsed.opts<SharedFlags>()).filter(
    ([name]) => parsed.getOptionValueSource(name) === 'cli',
  )
  return Object.fromEntries(given)
}
