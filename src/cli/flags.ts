// Every flag of the commands, once, with its environment variable and the record it becomes. What a
// flag does is decided elsewhere; here its text is checked, and a flag that has no effect yet is told
// apart. Surprising: sampling is greedy unless --temp says otherwise, so that a command gives the
// same answer twice.
import { join } from 'node:path'
import { Command, InvalidArgumentError, Option } from 'commander'
import type { EngineWishes } from '../engine/engine.js'
import { cacheFolder } from '../engine/manifest.js'
import {
  ahead,
  type Budget,
  budget,
  filled,
  folders,
  logitBias,
  type Paced,
  paced,
  real,
  ropeScaling,
  seed,
  whole,
} from './argument.js'
import { Failure } from './failure.js'

/** Flags that every command takes. */
export interface SharedFlags {
  readonly backend: 'auto' | 'cpu' | 'cuda'
  readonly expertRam?: Budget
  readonly expertVram?: Budget
  readonly loadMode: 'auto' | 'mapped' | 'direct'
  readonly policy?: string
  readonly profile?: string
  readonly saveProfile?: string
  readonly prefetch: 'auto' | 'on' | 'off'
  readonly threads?: number
  readonly ctxSize?: number
  readonly kvType: 'bf16' | 'f32'
  readonly ropeScaling?: { readonly factor: number }
  readonly math: 'f32' | 'bf16'
  readonly mirror?: readonly string[]
  readonly paced?: Paced
  readonly trace?: string
  /** Distances to look ahead; true: none. */
  readonly traceScores?: readonly number[] | true
  readonly json?: boolean
  readonly quiet?: boolean
}

/** How an answer is drawn. */
export interface DrawFlags {
  readonly predict?: number
  readonly temp: number
  readonly topK: number
  readonly topP: number
  readonly minP: number
  readonly repetitionPenalty: number
  readonly presencePenalty: number
  readonly frequencyPenalty: number
  readonly logitBias?: ReadonlyMap<number, number>
  readonly seed?: number
}

/** What a conversation begins with. */
export interface TalkFlags {
  readonly system?: string
  readonly think: 'auto' | 'on' | 'off'
}

export interface RunFlags extends SharedFlags, DrawFlags, TalkFlags {
  readonly prompt?: string
  readonly file?: string
  readonly raw?: boolean
}

export interface BenchFlags extends SharedFlags {
  readonly predict: number
  readonly promptTokens?: number
  readonly compare?: Partial<SharedFlags>
  readonly pairs: number
}

export interface ServeFlags extends SharedFlags {
  readonly host: string
  readonly port: number
  readonly apiKeyFile?: string
  readonly insecure?: boolean
  readonly alias?: string
  readonly parallel: number
  readonly queue: number
  /** Seconds. */
  readonly timeout: number
  /** Seconds. */
  readonly grace: number
}

export interface ChatFlags extends SharedFlags, DrawFlags, TalkFlags {}

export interface ScoreFlags extends SharedFlags {
  readonly input: string
  readonly output: string
  readonly topLogprobs: number
  readonly routing?: boolean
}

export interface VerifyFlags extends SharedFlags {
  readonly record?: boolean
}

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

export function addSharedFlags(command: Command): Command {
  return addAll(command, 'Engine:', [
    option('--backend <name>', 'what computes').choices(['auto', 'cpu', 'cuda']).default('auto'),
    option('--threads <n>', 'compute threads (default: as many as cores)', whole(1, 1024)),
    option('--ctx-size <n>', 'positions of the context (default: what fits)', whole(1, 2 ** 30)),
    option('--kv-type <type>', 'how keys and values are kept')
      .choices(['bf16', 'f32'])
      .default('bf16'),
    option('--rope-scaling <yarn,factor>', 'extend the context by YaRN', ropeScaling),
    option('--expert-ram <size>', 'memory for experts: 96GiB, or 25% of all', budget),
    option('--expert-vram <size>', 'GPU memory for experts: a size, or a share of all', budget),
    option('--load-mode <mode>', 'how weights are read')
      .choices(['auto', 'mapped', 'direct'])
      .default('auto'),
    option('--policy <name>', 'which experts stay in memory', filled('the name of a policy')),
    option(
      '--profile <file>',
      'what earlier runs learnt of the routing; none: begin anew',
      filled('the name of a file'),
    ),
    option(
      '--save-profile <file>',
      'keep what is learnt in this file, for --profile',
      filled('the name of a file'),
    ),
    option('--math <kind>', 'products; bf16 is faster and not exact')
      .choices(['f32', 'bf16'])
      .default('f32'),
    option('--mirror <folder>', 'holds copies of the files; may be repeated', folders),
    option('--paced <rate,latency>', 'a drive made of RAM, as 2GB/s,200us; for measuring', paced),
    option('--prefetch <when>', 'read experts before their layers ask; auto: where it is faster')
      .choices(['auto', 'on', 'off'])
      .default('auto'),
    option('--trace <file>', 'record the routing', filled('the name of a file')),
    option('--trace-scores [ahead]', 'with --trace: probabilities too, and ahead as 1,2,4', ahead),
    option('--json', 'one JSON object as the last line of stdout'),
    option('-q, --quiet', 'nothing on stderr but errors'),
  ])
}

export function addDrawFlags(command: Command): Command {
  const penalty = real(-100, 100)
  return addAll(command, 'Drawing tokens:', [
    option('-n, --predict <n>', 'most tokens to draw (default: all the context leaves)', count()),
    option('--temp <t>', 'temperature; 0 always takes the likeliest token', real(0, 100)).default(
      0,
    ),
    option('--top-k <n>', 'draw among the n likeliest; 0: all', whole(0, 2 ** 24)).default(0),
    option('--top-p <p>', 'draw among the likeliest of mass p', real(0, 1, true)).default(1),
    option('--min-p <p>', 'drop what is less likely than p times the best', real(0, 1)).default(0),
    option('--repetition-penalty <x>', 'divides logits of seen tokens', real(0, 100, true)).default(
      1,
    ),
    option('--presence-penalty <x>', 'taken once from drawn tokens', penalty).default(0),
    option('--frequency-penalty <x>', 'taken per draw from drawn tokens', penalty).default(0),
    option('--logit-bias <id=value>', 'added to a logit; may be repeated; -inf bans', logitBias),
    option('--seed <n>', 'of the draws (default: a random one)', seed),
  ])
}

export function addTalkFlags(command: Command): Command {
  return addAll(command, 'Conversation:', [
    option('--system <text>', 'system message'),
    option('--think <when>', "thinking; auto: the template's default")
      .choices(['auto', 'on', 'off'])
      .default('auto'),
  ])
}

export function addPromptFlags(command: Command): Command {
  return addAll(command, 'Prompt:', [
    option('-p, --prompt <text>', 'the prompt (default: read from stdin)').conflicts('file'),
    option('-f, --file <file>', 'a file that holds the prompt; - is stdin', filled('a file name')),
    option('--raw', 'continue the text as it is: no chat template, no thinking apart').conflicts([
      'system',
      'think',
    ]),
  ])
}

export function addScoreFlags(command: Command): Command {
  return addAll(command, 'Files and figures:', [
    option(
      '-i, --input <file>',
      'JSON lines to score; - is stdin',
      filled('a file name'),
    ).makeOptionMandatory(),
    option(
      '-o, --output <file>',
      'where the results go; - is stdout',
      filled('a file name'),
    ).makeOptionMandatory(),
    option('--top-logprobs <n>', 'likeliest tokens at each position', whole(0, 1024)).default(0),
    option('--routing', 'the experts of every token'),
  ])
}

export function addBenchFlags(command: Command): Command {
  return addAll(command, 'Measuring:', [
    option('-n, --predict <n>', 'tokens to decode in a pass, over all prompts', count()).default(
      160,
    ),
    option(
      '--prompt-tokens <n>',
      'length of every prompt, by repetition (default: as they are)',
      count(),
    ),
    option(
      '--compare <setting>',
      'alternate with another setting, as expert-ram=50%,policy=lru',
      settings,
    ),
    option(
      '--pairs <n>',
      'with --compare: how many times both are measured',
      whole(1, 100),
    ).default(5),
  ])
}

export function addServeFlags(command: Command): Command {
  return addAll(command, 'Server:', [
    option('--host <host>', 'where to listen', filled('a host')).default('127.0.0.1'),
    option('--port <n>', '0: any that is free', whole(0, 65535)).default(8080),
    option('--api-key-file <file>', 'keys, one a line; RING_API_KEY is one more', filled('a file')),
    option('--insecure', 'let other machines in without a key'),
    option('--alias <name>', 'what clients call the model', filled('a name')),
    option('--parallel <n>', 'sequences in work at once', whole(1, 256)).default(4),
    option('--queue <n>', 'sequences that may wait', whole(0, 65536)).default(32),
    option('--timeout <s>', 'seconds for a whole request', whole(1, 86400)).default(3600),
    option('--grace <s>', 'seconds to end what is in work', whole(0, 86400)).default(30),
  ])
}

/** NAME=VALUE, several separated by commas: the shared flags that another setting has. */
function settings(text: string): Partial<SharedFlags> {
  const words = text.split(',').flatMap((entry) => {
    const [, name = '', value = ''] = /^([a-z-]+)=(.+)$/.exec(entry) ?? []
    return [`--${name}`, value]
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

/** What `verify` can and cannot show. */
export const verifyProof =
  "It records; what proves that a download is right is the hub's sha256. " +
  'From then on verify finds what has changed on the drive.'

export function addVerifyFlags(command: Command): Command {
  command.addHelpText('after', `\n${verifyProof}`)
  return addAll(command, 'Checksums:', [
    option('--record', 'record them anew, whatever was recorded before'),
  ])
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

function size(text: string): number {
  const bytes = budget(text)
  if ('bytes' in bytes) return bytes.bytes
  throw new InvalidArgumentError('Expected a size such as 2GiB or 800MB.')
}

function powerOfTwo(text: string): number {
  const value = /^\d{1,4}$/.test(text) ? Number(text) : 0
  if (value >= 1 && value <= 1024 && Number.isInteger(Math.log2(value))) return value
  throw new InvalidArgumentError('Expected a power of two from 1 to 1024.')
}

/** What the engine is asked for. `sampleable`: ids from there on are padding, never drawn. */
export function wishesOf(flags: SharedFlags, sampleable?: number): EngineWishes {
  return {
    contextTokens: flags.ctxSize,
    kvType: flags.kvType,
    threads: flags.threads,
    ropeScaling: flags.ropeScaling,
    sampleable,
    math: flags.math,
    expertRam: flags.expertRam,
    loadMode: flags.loadMode,
    policy: flags.policy,
    prefetch: flags.prefetch,
    profile: flags.profile === 'none' ? undefined : flags.profile,
    saveProfile: flags.saveProfile,
    // Where nobody says what to go by, each run goes by those before.
    remember:
      flags.profile === undefined && flags.saveProfile === undefined
        ? join(cacheFolder(process.env), 'profiles')
        : undefined,
    tracePath: flags.trace,
    scores: scoresOf(flags),
    reads: {
      rung: rungOf(process.env.RING_IO),
      mirrors: flags.mirror,
      pace:
        flags.paced === undefined ? undefined : { ...flags.paced, depth: 32, jitter: 0, seed: 1 },
    },
  }
}

function scoresOf({ trace, traceScores }: SharedFlags): EngineWishes['scores'] {
  if (trace === undefined || traceScores === undefined) return undefined
  return { ahead: traceScores === true ? [] : traceScores }
}

const rungs = ['automatic', 'uring_registered', 'uring', 'threads', 'buffered'] as const

/** RING_IO forces a way of reading, so that each can be tried on one machine. */
function rungOf(text: string | undefined): (typeof rungs)[number] | undefined {
  if (text === undefined || text === '') return undefined
  const rung = rungs.find((name) => name === text)
  if (rung === undefined) throw new Failure(`RING_IO=${text}: expected one of ${rungs.join(', ')}`)
  return rung
}

/** Throws a Failure for what no build of this program can do yet. */
export function refuseUnavailable(flags: SharedFlags): void {
  if (flags.backend === 'cuda') {
    throw new Failure('--backend cuda: this build has no CUDA backend; expected auto or cpu')
  }
}

/** One line for each flag that was given and that changes nothing. */
export function idleFlags(flags: SharedFlags & Partial<DrawFlags>): string[] {
  const lines: string[] = []
  const idle = (flag: string, isIdle: boolean, reason = '') => {
    if (isIdle) lines.push(`${flag} has no effect${reason === '' ? ' yet' : ` ${reason}`}`)
  }
  idle('--expert-vram', flags.expertVram !== undefined, 'yet: there is no GPU backend')
  const isUnbudgeted = flags.loadMode === 'mapped' && flags.expertRam === undefined
  idle(
    '--policy',
    flags.policy !== undefined && isUnbudgeted,
    'where all experts are mapped and no --expert-ram is given',
  )
  idle('--prefetch on', flags.prefetch === 'on' && flags.loadMode === 'mapped', 'on mapped experts')
  idle(
    '--trace-scores',
    flags.traceScores !== undefined && flags.trace === undefined,
    'without --trace',
  )
  if (flags.temp === 0) {
    const greedy = 'at --temp 0, which always takes the likeliest token'
    idle('--top-k', flags.topK !== 0, greedy)
    idle('--top-p', flags.topP !== 1, greedy)
    idle('--min-p', flags.minP !== 0, greedy)
    idle('--seed', flags.seed !== undefined, greedy)
  }
  return lines
}

function count() {
  return whole(1, 2 ** 30)
}

/** An option with its environment variable: --ctx-size is RING_CTX_SIZE. */
export function option<Value>(
  flags: string,
  description: string,
  parse?: (text: string, previous: Value) => Value,
): Option {
  const made = new Option(flags, description)
  const name = made.name().toUpperCase().replaceAll('-', '_')
  made.env(`RING_${name}`)
  return parse === undefined ? made : made.argParser(parse)
}

export function addAll(command: Command, heading: string, options: readonly Option[]): Command {
  command.optionsGroup(heading)
  for (const one of options) command.addOption(one)
  return command
}
