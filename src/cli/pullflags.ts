// The flags of `pull`. The variables of the hub itself (HF_TOKEN, HF_ENDPOINT and their like) are read
// where the hub is asked.
import { type Command, Option } from 'commander'
import { filled, folders, whole } from './argument.js'

export interface PullFlags {
  readonly include?: readonly string[]
  readonly exclude?: readonly string[]
  readonly dir?: readonly string[]
  readonly jobs: number
  /** Seconds. */
  readonly stall: number
  readonly dryRun?: boolean
  readonly json?: boolean
  readonly quiet?: boolean
}

const help = `
Files of other formats (*.gguf, *.onnx, and *.bin beside *.safetensors) are left out unless --include names
them. HF_TOKEN or the token file opens gated models; HF_ENDPOINT, HF_HOME, HF_HUB_CACHE and HF_HUB_OFFLINE
mean what they mean to the public tools. Ended in whatever way, the same command goes on.`

export function addPullFlags(command: Command): Command {
  return command
    .addHelpText('after', help)
    .addOption(option('--include <glob>', 'only such files; may be repeated').argParser(globs))
    .addOption(option('--exclude <glob>', 'no such files; may be repeated').argParser(globs))
    .addOption(
      option('--dir <dir>', 'large files go there; repeated: spread by free space').argParser(
        folders,
      ),
    )
    .addOption(option('--jobs <n>', 'files at once').argParser(whole(1, 64)).default(4))
    .addOption(
      option('--stall <seconds>', 'a connection without a byte for so long is given up')
        .argParser(whole(1, 250))
        .default(30),
    )
    .addOption(option('--dry-run', 'say what would be fetched, and fetch nothing'))
    .addOption(option('--json', 'one JSON object as the last line of stdout'))
    .addOption(option('-q, --quiet', 'nothing on stderr but errors'))
}

function globs(text: string, earlier: readonly string[] = []): readonly string[] {
  return [...earlier, filled('a glob, such as *.json')(text)]
}

function option(flags: string, description: string): Option {
  const made = new Option(flags, description)
  return made.env(`RING_${made.name().toUpperCase().replaceAll('-', '_')}`)
}
