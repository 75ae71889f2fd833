// The flags of `batch`, and the texts of their values.
import { type Command, InvalidArgumentError } from 'commander'
import type { Interval } from '../batch/job.js'
import type { Order } from '../batch/results.js'
import { filled, real, whole } from './argument.js'
import { addAll, option, type SharedFlags } from './flags.js'
import type { ScreenFlags } from './screenflags.js'

export interface BatchFlags extends SharedFlags, ScreenFlags {
  readonly input: string
  readonly output: string
  readonly order: Order
  readonly strict?: boolean
  readonly maxBatch?: number | 'auto'
  /** Lines of which the next to begin is chosen. */
  readonly window: number
  readonly predict?: number
  readonly journalEvery: Interval
  /** Minutes after midnight. */
  readonly until?: number
  readonly maxHours?: number
  /** Whether programs that lines name are run. */
  readonly gradeCommands?: boolean
  readonly gradeUnconfined?: boolean
}

export function addBatchFlags(command: Command): Command {
  return addAll(command, 'Job:', [
    option(
      '-i, --input <file>',
      'requests, as OpenAI has batch lines; - is stdin',
      filled('a file name'),
    ).makeOptionMandatory(),
    option(
      '-o, --output <file>',
      'where the answers go; a journal lies beside it',
      outputName,
    ).makeOptionMandatory(),
    option('--order <order>', 'of the answers: as in the input, or as they are done')
      .choices(['input', 'done'])
      .default('input'),
    option('--strict', 'begin nothing while a line cannot be answered'),
    option('--max-batch <n>', 'answers in work at once, or auto', batchSize),
    option(
      '--window <n>',
      'lines of which those like what is in work begin first, as they share experts; 1: as they come',
      whole(1, 2 ** 20),
    ).default(1024),
    option(
      '-n, --predict <n>',
      'most tokens of chats that do not say (default: all the context leaves)',
      whole(1, 2 ** 30),
    ),
    option(
      '--journal-every <time>',
      'how much work a crash may cost: 30s, or tokens of an answer as 100',
      interval,
    ).default({ seconds: 30, tokens: Number.POSITIVE_INFINITY }, '30s'),
    option('--until <hh:mm>', 'park the job at this time', clock),
    option('--max-hours <h>', 'park the job after so many hours', real(0, 500, true)),
    option('--grade-commands', 'run the programs that lines name as graders'),
    option('--grade-unconfined', 'and do so without namespaces: with network and all files'),
  ])
}

function outputName(text: string): string {
  if (text === '-') {
    throw new InvalidArgumentError('Expected a file: a job goes on from what its output holds.')
  }
  return filled('a file name')(text)
}

function batchSize(text: string): number | 'auto' {
  return text === 'auto' ? text : whole(1, 4096)(text)
}

/** `30s` or `100`. */
function interval(text: string): Interval {
  const [, number = '', unit = ''] = /^(\d{1,7})(s?)$/.exec(text) ?? []
  const value = Number(number)
  if (value < 1) throw new InvalidArgumentError('Expected seconds as 30s, or tokens as 100.')
  if (unit === 's') return { seconds: value, tokens: Number.POSITIVE_INFINITY }
  return { seconds: Number.POSITIVE_INFINITY, tokens: value }
}

/** `07:00`, as minutes after midnight. */
function clock(text: string): number {
  const [, hours = '', minutes = ''] = /^([01]?\d|2[0-3]):([0-5]\d)$/.exec(text) ?? []
  if (minutes === '') throw new InvalidArgumentError('Expected a time of day, as 07:00.')
  return 60 * Number(hours) + Number(minutes)
}
