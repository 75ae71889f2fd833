// The flags of `simulate`, which starts no engine and so takes none of the shared ones.
import { type Command, InvalidArgumentError, Option } from 'commander'
import type { Phase, Scope } from '../simulate/contest.js'
import type { MachineModel } from '../simulate/machine.js'
import type { LookAheadName } from '../simulate/rehearsal.js'
import { filled, real, seed, whole } from './argument.js'
import { bytesOf, machineWords, rateOf, secondsOf, shareOf } from './machinewords.js'

/** Slots of a layer, or a share (0 to 1) of its experts. */
export type SlotWish = { readonly slots: number } | { readonly share: number }

export interface SimulateFlags {
  readonly slots: readonly SlotWish[]
  readonly policy: readonly string[]
  readonly scope: Scope
  readonly phase: Phase
  readonly machine?: MachineModel
  readonly prefetch?: readonly LookAheadName[]
  readonly foresight?: boolean
  /** The model that traces were recorded from, where it is not the bundled one. */
  readonly routers?: string
  readonly generate?: number
  readonly html?: string
  readonly threads?: number
  readonly json?: boolean
  readonly quiet?: boolean
}

const lookAheads: readonly LookAheadName[] = ['off', 'auto', 'on', 'oracle', 'wrong']

/** What the machine's numbers are called, and what stands where they are left out. */
const machineHelp = `
--machine takes NAME=VALUE, separated by commas:
  drive=2GB/s      what the drive reads in a second
  expert=25MB      one expert
  compute=3ms      a layer with all its experts in slots
  mix=60%          of that, the routed experts' share, computed while others are read (60%)
  latency=100us    until a chunk begins to arrive (100us)
  chunk=2MB        what is read at once (2MB)
  depth=16         chunks under way (16)
  copy=25GB/s      a link that what was read has to pass (none)
  ram=50%          with copy: slots in RAM for so many of a layer's experts; those of --slots
                   are then a GPU's, and what they miss is copied from there (none)`

export function addSimulateFlags(command: Command): Command {
  command.addHelpText('after', machineHelp)
  return command
    .addOption(
      option('--slots <n,...>', 'slots of a layer: 8, or 10% of its experts')
        .argParser(slotWishes)
        .default(slotWishes('5%,10%,15%,25%,50%'), '5%,10%,15%,25%,50%'),
    )
    .addOption(
      option('--policy <name,...>', 'policies of the engine, and belady, belady1, static')
        .argParser((text: string) => text.split(',').map(filled('the name of a policy')))
        .default(['auto', 'lru', 'belady1', 'belady', 'static'], 'auto,lru,belady1,belady,static'),
    )
    .addOption(
      option('--scope <scope>', 'slots for each layer, or as many in one pool')
        .choices(['layer', 'global'])
        .default('layer'),
    )
    .addOption(
      option('--phase <phase>', 'what is counted; prompts always warm')
        .choices(['all', 'decode'])
        .default('decode'),
    )
    .addOption(
      option('--machine <name=value,...>', 'models time too, see below').argParser(machine),
    )
    .addOption(
      option(
        '--prefetch <name,...>',
        `with --machine: reads ahead, as ${lookAheads.join(', ')}`,
      ).argParser(lookAheadNames),
    )
    .addOption(option('--foresight', 'how much of the routing is foreseen, not policies'))
    .addOption(
      option('--routers <model>', 'with --foresight: the model that traces are of').argParser(
        filled('a model'),
      ),
    )
    .addOption(option('--generate <seed>', 'a trace of 76 layers x 256 experts').argParser(seed))
    .addOption(option('--html <file>', 'writes a page of charts').argParser(filled('a file name')))
    .addOption(
      option('--threads <n>', 'threads (default: as many as cores)').argParser(whole(1, 1024)),
    )
    .addOption(option('--json', 'one JSON object as the last line of stdout'))
    .addOption(option('-q, --quiet', 'nothing on stderr but errors'))
}

function slotWishes(text: string): SlotWish[] {
  return text.split(',').map((word) => {
    if (/^\d{1,5}$/.test(word) && Number(word) >= 1) return { slots: Number(word) }
    const share = /^(.+)%$/.exec(word)?.[1]
    if (share !== undefined) return { share: real(0, 100, true)(share) / 100 }
    throw new InvalidArgumentError('Expected slots, as 8, or shares, as 10%, separated by commas.')
  })
}

function lookAheadNames(text: string): LookAheadName[] {
  return text.split(',').map((word) => {
    const found = lookAheads.find((name) => name === word)
    if (found !== undefined) return found
    throw new InvalidArgumentError(`Expected ${lookAheads.join(', ')}, separated by commas.`)
  })
}

/** More would take longer to model than to read. */
const chunksMost = 4096
const machineNames = [
  'drive',
  'expert',
  'compute',
  'mix',
  'latency',
  'chunk',
  'depth',
  'copy',
  'ram',
] as const

function machine(text: string): MachineModel {
  const given = machineWords(text, machineNames)
  const value = (name: (typeof machineNames)[number], otherwise?: string): string => {
    const found = given.get(name) ?? otherwise
    if (found !== undefined) return found
    throw new InvalidArgumentError(`Expected ${name}=, as in drive=2GB/s,compute=3ms,expert=25MB.`)
  }
  const made = {
    bytesPerSecond: rateOf(value('drive')),
    latencySeconds: secondsOf(value('latency', '100us')),
    chunkBytes: bytesOf(value('chunk', '2MB')),
    depth: whole(1, 4096)(value('depth', '16')),
    copyBytesPerSecond: given.has('copy') ? rateOf(value('copy')) : Number.POSITIVE_INFINITY,
    expertBytes: bytesOf(value('expert')),
    layerSeconds: secondsOf(value('compute')),
    expertShare: shareOf(value('mix', '60%')),
    ...(given.has('ram') ? { belowShare: shareOf(value('ram')) } : {}),
  }
  if (given.has('ram') && !given.has('copy')) {
    throw new InvalidArgumentError('Expected copy= beside ram=: the link that lies between.')
  }
  if (made.expertBytes / made.chunkBytes <= chunksMost) return made
  throw new InvalidArgumentError(`Expected at most ${chunksMost} chunks in an expert.`)
}

/** With its environment variable: --scope is RING_SCOPE. */
function option(flags: string, description: string): Option {
  const made = new Option(flags, description)
  return made.env(`RING_${made.name().toUpperCase().replaceAll('-', '_')}`)
}
