// The flags of `plan`, which starts no engine and so takes none of the shared ones but those that divide memory.
import type { Command } from 'commander'
import { type MachineName, machineNames } from '../plan/machine.js'
import { type Budget, budget, filled, real, whole } from './argument.js'
import { addAll, option } from './flags.js'
import { bytesOf, machineWords, rateOf, secondsOf, shareOf } from './machinewords.js'

/** Numbers of a machine, in bytes, bytes per second, seconds and multiply-adds per second; ram is all that it has. */
export type MachineNumbers = Partial<Readonly<Record<MachineName, number>>>

/** A column: how it was written, and what it says. */
export interface WhatIf {
  readonly name: string
  readonly numbers: MachineNumbers
}

export interface PlanFlags {
  readonly machine?: MachineNumbers
  readonly whatIf?: readonly WhatIf[]
  readonly measure?: boolean
  readonly promptTokens: number
  readonly answerTokens: number
  readonly batch: readonly number[]
  readonly ctxSize?: number
  readonly kvType: 'bf16' | 'f32'
  readonly math: 'f32' | 'bf16'
  readonly expertRam?: Budget
  readonly routing?: string
  readonly html?: string
  readonly json?: boolean
  readonly quiet?: boolean
}

const help = `
--machine and --what-if take NAME=VALUE, separated by commas, as simulate --machine does:
  ram=256GiB       all memory; the system keeps 2 GiB of it
  cores=16         that compute
  memory=60GB/s    what memory is read at, by all of them
  reading=96%      of that, what computing one token reads weights at (96%)
  products=70e9    multiply-adds of a core in a second, of each token but one (70e9)
  drive=7GB/s      what a drive reads in a second
  drives=2         of them, with a copy of the files each
  beside=88%       of that, what is left while all cores compute (88%; of a drive that is given 100%)
  lost=80ms        of computing, for each GB that is read meanwhile (0)
  latency=100us    until a chunk begins to arrive (100us)
  chunk=2MiB       what is read at once (2MiB)
  depth=32         chunks under way (32)
  gpu=24GiB        its memory (0: none; not measured yet)
  vram=900GB/s     what that memory is read at (900GB/s)
  copy=25GB/s      the link to it (25GB/s)
What is not given is this machine's, as doctor measured it; where it has not, it is assumed and said to be.`

export function addPlanFlags(command: Command): Command {
  command.addHelpText('after', help)
  return addAll(command, 'Planning:', [
    option('--machine <name=value,...>', 'a machine, see below (default: this one)', numbersOf),
    option(
      '--what-if <name=value,...>',
      'one column more: the machine with these changes; may be repeated',
      (text: string, earlier: readonly WhatIf[] = []) => [
        ...earlier,
        { name: text, numbers: numbersOf(text) },
      ],
    ),
    option('--measure', 'measure first what doctor has not yet; some ten seconds'),
    option('--prompt-tokens <n>', 'of a prompt', whole(1, 2 ** 24)).default(512),
    option('--answer-tokens <n>', 'of an answer', whole(1, 2 ** 24)).default(512),
    option('--batch <n,...>', 'sequences at once', sequences).default([8, 32, 128], '8,32,128'),
    option('--ctx-size <n>', 'positions of the context (default: what fits)', whole(1, 2 ** 30)),
    option('--kv-type <type>', 'how keys and values are kept')
      .choices(['bf16', 'f32'])
      .default('bf16'),
    option('--math <kind>', 'products, as the other commands have them')
      .choices(['f32', 'bf16'])
      .default('f32'),
    option('--expert-ram <size>', 'memory for experts: 96GiB, or 25% of all', budget),
    option('--routing <trace>', 'routing of this model, recorded by --trace', filled('a trace')),
    option('--html <file>', 'writes a page of curves', filled('a file name')),
    option('--json', 'one JSON object as the last line of stdout'),
    option('-q, --quiet', 'nothing on stderr but errors'),
  ])
}

function sequences(text: string): number[] {
  return text.split(',').map(whole(1, 1024))
}

const parsers: Readonly<Record<MachineName, (text: string) => number>> = {
  ram: bytesOf,
  cores: whole(1, 1024),
  memory: rateOf,
  reading: shareOf,
  products: real(1e6, 1e15),
  drive: rateOf,
  drives: whole(1, 64),
  beside: shareOf,
  lost: (text) => secondsOf(text) / 1e9,
  latency: secondsOf,
  chunk: bytesOf,
  depth: whole(1, 4096),
  gpu: bytesOf,
  vram: rateOf,
  copy: rateOf,
}

function numbersOf(text: string): MachineNumbers {
  const words = machineWords(text, machineNames)
  const numbers = [...words].map(([name, word]) => [name, parsers[name](word)] as const)
  return Object.fromEntries(numbers)
}
