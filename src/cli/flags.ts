// Every flag of the commands, once, with its environment variable and the record it becomes. What a
// flag does is decided elsewhere; here its text is checked, and a flag that has no effect yet is told
// apart. Surprising: sampling is greedy unless --temp says otherwise, so that a command gives the
// same answer twice.
import { join } from 'node:path'
import { type Command, Option } from 'commander'
import { type BackendWish, chooseBackend } from '../engine/backend.js'
import type { EngineWishes } from '../engine/engine.js'
import { cacheFolder } from '../engine/manifest.js'
import { usualDrawShare } from '../engine/protocol.js'
import {
  ahead,
  type Budget,
  budget,
  chunk,
  filled,
  folders,
  logitBias,
  type Paced,
  paced,
  rate,
  real,
  ropeScaling,
  seed,
  size,
  sizeOrNone,
  whole,
} from './argument.js'
import { Failure } from './failure.js'
import type { ScreenFlags } from './screenflags.js'

/** Flags that every command takes. */
export interface SharedFlags {
  readonly backend: BackendWish
  readonly expertRam?: Budget
  readonly expertVram?: Budget
  readonly cpuExperts?: 'auto' | 'off' | undefined
  /** Bytes, of an automatic budget. */
  readonly expertRamMost?: number | undefined
  readonly loadMode?: 'auto' | 'mapped' | 'direct' | undefined
  readonly policy?: string | undefined
  readonly profile?: string
  readonly saveProfile?: string
  readonly prefetch?: 'auto' | 'on' | 'off' | undefined
  /** Reads under way at once. */
  readonly readDepth?: number | undefined
  /** Bytes of one read. */
  readonly readChunk?: number | undefined
  /** Whether settings that `tune` found are used. */
  readonly tuned: boolean
  readonly threads?: number | undefined
  readonly ctxSize?: number
  readonly kvType: 'bf16' | 'f32'
  readonly kvDir?: string
  readonly kvDisk?: number
  readonly kvDiskRate?: number
  readonly ropeScaling?: { readonly factor: number }
  readonly math: 'f32' | 'bf16'
  readonly mirror?: readonly string[]
  readonly paced?: Paced
  /** Bytes per second. */
  readonly ceiling?: number
  readonly trace?: string
  /** Distances to look ahead, and how; true: none. */
  readonly traceScores?: ReturnType<typeof ahead> | true
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
  /** Tokens; left out: no limit. */
  readonly reasoningBudget?: number
}

export interface RunFlags extends SharedFlags, DrawFlags, TalkFlags, ScreenFlags {
  readonly prompt?: string
  readonly file?: string
  readonly raw?: boolean
}

export interface ServeFlags extends SharedFlags, ScreenFlags {
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
  /** Of the time, from 0 to 0.95. */
  readonly streamShare: number
  readonly reasoningBudget?: number
  readonly showText?: boolean
}

export interface ChatFlags extends SharedFlags, DrawFlags, TalkFlags, ScreenFlags {}

export interface VerifyFlags extends SharedFlags {
  readonly record?: boolean
}

export function addSharedFlags(command: Command): Command {
  return addAll(command, 'Engine:', [
    option('--backend <name>', 'what computes; auto: a GPU where one can be used')
      .choices(['auto', 'cpu', 'cuda'])
      .default('auto'),
    option('--threads <n>', 'compute threads (default: as many as cores)', whole(1, 1024)),
    option('--ctx-size <n>', 'positions of the context (default: what fits)', whole(1, 2 ** 30)),
    option('--kv-type <type>', 'how keys and values are kept')
      .choices(['bf16', 'f32'])
      .default('bf16'),
    option(
      '--kv-dir <folder>',
      'keep keys and values there, for later prompts',
      filled('a folder'),
    ),
    option('--kv-disk <size>', 'most bytes there, or 0: none (default: 16GiB)', sizeOrNone),
    option('--kv-disk-rate <size>', 'most bytes written a second (default: 64MB)', size),
    option('--rope-scaling <yarn,factor>', 'extend the context by YaRN', ropeScaling),
    option('--expert-ram <size>', 'memory for experts: 96GiB, or 25% of all', budget),
    option('--expert-vram <size>', 'GPU memory for experts: a size, or a share of all', budget),
    option(
      '--cpu-experts <when>',
      'with a GPU; auto: some experts that lie in RAM are computed there (default: off)',
    ).choices(['auto', 'off']),
    option('--expert-ram-most <size>', 'no more than that, where the budget is automatic', size),
    option('--load-mode <mode>', 'how weights are read (default: auto)').choices([
      'auto',
      'mapped',
      'direct',
    ]),
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
    option('--ceiling <rate>', 'what the drive can do, as 7GB/s, for shares of it', rate),
    option(
      '--prefetch <when>',
      'read experts before their layers ask; auto, the default: where it is faster',
    ).choices(['auto', 'on', 'off']),
    option('--read-depth <n>', "reads under way at once (default: the drive's)", whole(1, 1024)),
    option('--read-chunk <size>', 'of one read of an expert (default: 2MiB)', chunk),
    option('--no-tuned', 'pass over settings that tune found'),
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
    reasoningBudget(),
  ])
}

function reasoningBudget(): Option {
  return option(
    '--reasoning-budget <n>',
    'tokens that may be thought (default: as many as the model likes)',
    whole(0, 2 ** 30),
  )
}

export function addPromptFlags(command: Command): Command {
  return addAll(command, 'Prompt:', [
    option('-p, --prompt <text>', 'the prompt (default: read from stdin)').conflicts('file'),
    option('-f, --file <file>', 'a file that holds the prompt; - is stdin', filled('a file name')),
    option('--raw', 'continue the text as it is: no chat template, no thinking apart').conflicts([
      'system',
      'think',
      'reasoningBudget',
    ]),
  ])
}

export function addServeFlags(command: Command): Command {
  return addAll(command, 'Server:', [
    option('--host <host>', 'where to listen', filled('a host')).default('127.0.0.1'),
    option('--port <n>', '0: any that is free', whole(0, 65535)).default(8080),
    option('--api-key-file <file>', 'keys, one a line; RING_API_KEY is one more', filled('a file')),
    option('--insecure', 'let other machines in without a key'),
    option('--alias <name>', 'what clients call the model', filled('a name')),
    parallel().default(4),
    option('--queue <n>', 'sequences that may wait', whole(0, 65536)).default(32),
    option('--timeout <s>', 'seconds for a whole request', whole(1, 86400)).default(3600),
    option('--grace <s>', 'seconds to end what is in work', whole(0, 86400)).default(30),
    option(
      '--stream-share <x>',
      'of the time, what running streams keep while prompts are read',
      real(0, 0.95),
    ).default(usualDrawShare),
    reasoningBudget(),
    option('--show-text', 'tell the dashboard what is answered; else nobody is told'),
  ])
}

export function parallel(): Option {
  return option('--parallel <n>', 'sequences in work at once', whole(1, 256))
}

/** What `verify` can and cannot show. */
export const verifyProof =
  "It records; what proves that a download is right is the hub's sha256, which is compared where it is " +
  'known: in the Hugging Face cache, or beside the file as FILE.sha256. ' +
  'From then on verify finds what has changed on the drive.'

export function addVerifyFlags(command: Command): Command {
  command.addHelpText('after', `\n${verifyProof}`)
  return addAll(command, 'Checksums:', [
    option('--record', 'record them anew, whatever was recorded before'),
  ])
}

/** What the engine is asked for. `sampleable`: ids from there on are padding, never drawn. */
export function wishesOf(flags: SharedFlags, sampleable?: number): EngineWishes {
  return {
    contextTokens: flags.ctxSize,
    kvType: flags.kvType,
    threads: flags.threads,
    kvDir: flags.kvDir,
    kvDiskBytes: flags.kvDisk,
    kvDiskRate: flags.kvDiskRate,
    ropeScaling: flags.ropeScaling,
    sampleable,
    math: flags.math,
    backend: flags.backend,
    expertRam: flags.expertRam,
    expertVram: flags.expertVram,
    expertRamMost: flags.expertRamMost,
    cpuExperts: flags.cpuExperts,
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
      depth: flags.readDepth,
      chunkBytes: flags.readChunk,
      mirrors: flags.mirror,
      pace:
        flags.paced === undefined ? undefined : { ...flags.paced, depth: 32, jitter: 0, seed: 1 },
    },
  }
}

function scoresOf({ trace, traceScores }: SharedFlags): EngineWishes['scores'] {
  if (trace === undefined || traceScores === undefined) return undefined
  return traceScores === true ? { ahead: [], attends: false } : traceScores
}

const rungs = ['automatic', 'uring_registered', 'uring', 'threads', 'buffered'] as const

/** RING_IO forces a way of reading, so that each can be tried on one machine. */
function rungOf(text: string | undefined): (typeof rungs)[number] | undefined {
  if (text === undefined || text === '') return undefined
  const rung = rungs.find((name) => name === text)
  if (rung === undefined) throw new Failure(`RING_IO=${text}: expected one of ${rungs.join(', ')}`)
  return rung
}

/** Throws ModelError for what cannot be done on this machine, whatever the model. */
export function refuseUnavailable({ backend }: SharedFlags): void {
  if (backend === 'cuda') chooseBackend(backend)
}

/** One line for each flag that was given and that changes nothing. */
export function idleFlags(flags: SharedFlags & Partial<DrawFlags>): string[] {
  const lines: string[] = []
  const idle = (flag: string, isIdle: boolean, reason = '') => {
    if (isIdle) lines.push(`${flag} has no effect${reason === '' ? ' yet' : ` ${reason}`}`)
  }
  const isOnProcessor = flags.backend === 'cpu'
  idle('--expert-vram', flags.expertVram !== undefined && isOnProcessor, 'with --backend cpu')
  idle('--cpu-experts auto', flags.cpuExperts === 'auto' && isOnProcessor, 'with --backend cpu')
  const isDiskless = flags.kvDir === undefined
  idle('--kv-disk', flags.kvDisk !== undefined && isDiskless, 'without --kv-dir')
  idle('--kv-disk-rate', flags.kvDiskRate !== undefined && isDiskless, 'without --kv-dir')
  const isUnbudgeted = flags.loadMode === 'mapped' && flags.expertRam === undefined
  idle(
    '--policy',
    flags.policy !== undefined && isUnbudgeted,
    'where all experts are mapped and no --expert-ram is given',
  )
  const isMapped = flags.loadMode === 'mapped'
  idle('--prefetch on', flags.prefetch === 'on' && isMapped, 'on mapped experts')
  idle('--read-depth', flags.readDepth !== undefined && isMapped, 'on mapped experts')
  idle('--read-chunk', flags.readChunk !== undefined && isMapped, 'on mapped experts')
  const isAutomatic = flags.expertRam === undefined && !isMapped
  idle(
    '--expert-ram-most',
    flags.expertRamMost !== undefined && !isAutomatic,
    'where the budget is not automatic',
  )
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
