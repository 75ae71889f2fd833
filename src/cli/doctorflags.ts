// The flags of `doctor`.
import { type Command, Option } from 'commander'

export interface DoctorFlags {
  readonly fresh?: boolean
  readonly json?: boolean
  readonly quiet?: boolean
}

const help = `
Each drive is read for some ten seconds: a file of 1 GiB or more that lies under the folder, or one that is
written there and is gone afterwards. What was measured is kept in ~/.cache/ring-offload/machine.json.`

export function addDoctorFlags(command: Command): Command {
  return command
    .addHelpText('after', help)
    .addOption(option('--fresh', 'measure also what was measured before'))
    .addOption(option('--json', 'one JSON object as the last line of stdout'))
    .addOption(option('-q, --quiet', 'nothing on stderr but errors'))
}

function option(flags: string, description: string): Option {
  const made = new Option(flags, description)
  return made.env(`RING_${made.name().toUpperCase().replaceAll('-', '_')}`)
}
