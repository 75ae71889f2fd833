// The flags of `score`, and which of them go together.
import { type Command, InvalidArgumentError } from 'commander'
import { filled, real, whole } from './argument.js'
import { Failure, Status } from './failure.js'
import { addAll, option, type SharedFlags } from './flags.js'

/** Ratios of probabilities, here by there, that count as near. */
export interface Band {
  readonly least: number
  readonly most: number
}

export interface ScoreFlags extends SharedFlags {
  readonly input?: string
  readonly output?: string
  readonly topLogprobs: number
  readonly routing?: boolean
  readonly against?: string
  readonly band: Band
}

/** The band of IcePop's masks (ringtech.notion.site/icepop, arXiv 2510.18855). */
const usualBand: Band = { least: 0.5, most: 5 }

export function addScoreFlags(command: Command): Command {
  return addAll(command, 'Files and figures:', [
    option(
      '-i, --input <file>',
      'JSON lines to score; with --against the lines that a batch was asked; - is stdin',
      filled('a file name'),
    ),
    option('-o, --output <file>', 'where the results go; - is stdout', filled('a file name')),
    option('--top-logprobs <n>', 'likeliest tokens at each position', whole(0, 1024)).default(0),
    option('--routing', 'the experts of every token'),
    option(
      '--against <file>',
      "compare with another engine's samples: lines of score, or of a batch's output",
      filled('a file name'),
    ),
    option(
      '--band <least,most>',
      'ratios of probabilities, here by there, that are near',
      band,
    ).default(usualBand, '0.5,5'),
  ])
}

/** Throws a Failure for flags that do not go together. */
export function checkScoreFlags({ input, output, against }: ScoreFlags): void {
  const missing = (name: string) => new Failure(`option '${name}' not specified`, Status.usage)
  if (against === undefined) {
    if (input === undefined) throw missing('-i, --input <file>')
    if (output === undefined) throw missing('-o, --output <file>')
  } else if (output === '-') {
    throw new Failure('-o - does not go with --against: its report is on stdout', Status.usage)
  } else if (against === '-' && input === '-') {
    throw new Failure('--against - and -i - are both standard input', Status.usage)
  }
}

/** `0.5,5` */
function band(text: string): Band {
  try {
    const [least = '', most = '', ...others] = text.split(',')
    if (others.length === 0) return { least: real(0, 1)(least), most: real(1, 1e6)(most) }
  } catch (error) {
    if (!(error instanceof InvalidArgumentError)) throw error
  }
  throw new InvalidArgumentError('Expected two ratios, one up to 1 and one from 1, as 0.5,5.')
}
