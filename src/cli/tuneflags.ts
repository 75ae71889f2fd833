// The flags of `tune`.
import { type Command, InvalidArgumentError } from 'commander'
import { flagOf, type SettingName, settingNames } from '../engine/settings.js'
import { real } from './argument.js'
import { addAll, option, type SharedFlags } from './flags.js'

export interface TuneFlags extends SharedFlags {
  readonly maxMinutes: number
  /** Absent: by the time there is. */
  readonly runSeconds?: number
  readonly try?: readonly SettingName[]
  readonly show?: boolean
  readonly forget?: boolean
}

const help = `
Only settings that leave every bit of the answers as it is are tried. Those given as flags are where the search
begins. What is found is kept in ~/.cache/ring-offload/tuned and used by run, chat, serve, batch and bench where they
are given the same --expert-ram, --load-mode, --math, --mirror and --paced.`

export function addTuneFlags(command: Command): Command {
  command.addHelpText('after', help)
  return addAll(command, 'Tuning:', [
    option('--max-minutes <m>', 'how long it may take', real(0, 1440, true)).default(20),
    option(
      '--run-seconds <s>',
      'of one run (default: a 100th of the time, 12 at most)',
      real(0, 3600, true),
    ),
    option('--try <settings>', 'only these, as threads,read-chunk (default: all)', settings),
    option('--show', 'tell what was found before, and do nothing').conflicts('forget'),
    option('--forget', 'forget what was found before, and do nothing'),
  ])
}

function settings(text: string): readonly SettingName[] {
  return text.split(',').map((word) => {
    const name = settingNames.find((one) => flagOf(one) === word)
    if (name !== undefined) return name
    throw new InvalidArgumentError(`Expected some of ${settingNames.map(flagOf).join(',')}.`)
  })
}
