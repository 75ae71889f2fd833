// Flags of the commands that write a model to measure with. What they do is decided elsewhere.
import type { Command, Option } from 'commander'
import { powerOfTwo, seed, size, whole } from './argument.js'
import { addAll, option } from './flags.js'

/** Flags of the commands that write a model. */
export interface NewModelFlags {
  readonly shardSize: number
  readonly quiet?: boolean
}

export interface WidenFlags extends NewModelFlags {
  readonly hidden: number
  readonly expert: number
}

export interface SynthFlags extends NewModelFlags {
  readonly sparse?: boolean
  readonly layers?: number
  readonly seed: number
  readonly dtype?: 'fp8' | 'bf16'
}

export function addWidenFlags(command: Command): Command {
  return addAll(command, 'Size:', [
    option('--hidden <k>', 'hidden size times k, a power of two', powerOfTwo).makeOptionMandatory(),
    option(
      '--expert <m>',
      'width of every MLP times m, a power of two',
      powerOfTwo,
    ).makeOptionMandatory(),
    ...newModelOptions(),
  ])
}

export function addSynthFlags(command: Command): Command {
  return addAll(command, 'Size and weights:', [
    option('--sparse', 'holes for the large matrices: the shape, and no disk'),
    option('--layers <n>', 'only the first n layers', whole(1, 1024)),
    option('--dtype <type>', 'how weights are stored (default: as the config says)').choices([
      'fp8',
      'bf16',
    ]),
    option('--seed <n>', 'of the weights', seed).default(0),
    ...newModelOptions(),
  ])
}

function newModelOptions(): Option[] {
  return [
    option('--shard-size <size>', 'most bytes of data in a file: 2GiB, 800MB', size).default(
      2 * 2 ** 30,
      '2GiB',
    ),
    option('-q, --quiet', 'nothing on stderr but errors'),
  ]
}
