// What can be set for speed on this machine, for this model as it was opened: which values are worth a
// contest, those first that promise most. Pure: it opens nothing and measures nothing. Only settings that
// leave every bit of an answer as it is stand here.
import type { EngineFacts } from './protocol.js'
import type { Knob } from './search.js'
import type { SettingName, Settings, SettingValue } from './settings.js'

const KIB = 2 ** 10
const MIB = 2 ** 20

/** What reads are cut into when nobody says; native/io/reader.h has the same number. */
const USUAL_CHUNK_BYTES = 2 * MIB
/** Of io_uring and of the paced drive. */
const USUAL_DEPTH = 32
const chunks = [256 * KIB, 512 * KIB, MIB, 2 * MIB, 4 * MIB, 8 * MIB]
const depths = [4, 8, 16, 32, 64, 128]
/** Of an automatic budget. */
const budgetShares = [0.7, 0.8, 0.9, 1]
const batches = [16, 32, 64, 128]

/** Processors that this process may use. */
export interface Cores {
  readonly logical: number
  /** Of the machine, a core with two threads counted once. */
  readonly physical: number
}

/** What was chosen by flags; those that are no setting of speed decide which settings have an effect. */
export interface Given extends Settings {
  readonly hasBudget: boolean
  readonly hasLoadMode: boolean
}

/** What a model is once it is open, as far as it matters here. */
type Opened = Pick<EngineFacts, 'experts' | 'device'>

/** Of answers one at a time. */
export function knobsOf(facts: Opened, cores: Cores, given: Given): Knob[] {
  const { loadMode, tier, slots, experts, slotBytes } = facts.experts
  const threads = threadsKnob(cores, given.threads)
  const isReading = loadMode === 'direct' && slots < experts
  if (!isReading) {
    const isFree = !given.hasLoadMode && !given.hasBudget && tier === 'ram'
    return [threads, ...(isFree ? [loadModeKnob(facts)] : [])].filter(isOpen)
  }
  const knobs = [
    threads,
    choice('prefetch', ['auto', 'on', 'off'], given.prefetch),
    ladder('readDepth', depths, usualDepth(facts.device, given.readDepth), given.readDepth),
    ladder('readChunk', chunksFor(facts), USUAL_CHUNK_BYTES, given.readChunk),
    choice('policy', ['auto', 'lfu', 'lru'], given.policy),
  ]
  if (!given.hasBudget && tier === 'ram') {
    const automatic = slots * slotBytes
    const sizes = budgetShares.map((share) => Math.floor(slots * share) * slotBytes)
    knobs.push(ladder('expertRamMost', sizes, automatic, given.expertRamMost))
  }
  return knobs.filter(isOpen)
}

/** Of batch jobs. */
export function batchKnobs(given: Given, usual: number): Knob[] {
  return [ladder('maxBatch', batches, usual, given.maxBatch)]
}

/** All that hyperthreads give, one for each core, one left to the drive and the rest, and half. */
function threadsKnob({ logical, physical }: Cores, given: number | undefined): Knob {
  const wanted = [logical, Math.min(physical, logical), logical - 1, Math.ceil(logical / 2)]
  return choice('threads', [...new Set(wanted.filter((threads) => threads >= 1))], given)
}

/** A small model is mapped and a large one that fits lies in slots; each may be better the other way. */
function loadModeKnob({ experts }: Opened): Knob {
  const { loadMode } = experts
  const other = loadMode === 'mapped' ? 'direct' : 'mapped'
  return choice('loadMode', experts.experts > 0 ? [loadMode, other] : [loadMode], undefined)
}

/** No larger than a matrix of an expert, which is never read together with another one. */
function chunksFor({ experts: { expertReadBytes } }: Opened): number[] {
  return chunks.filter((bytes) => bytes === USUAL_CHUNK_BYTES || bytes <= expertReadBytes / 3)
}

/** As the reader tells of itself, where nobody has chosen it. */
function usualDepth(device: string, given: number | undefined): number {
  if (given !== undefined) return USUAL_DEPTH
  const reader = device.slice(device.indexOf(';') + 1)
  const [, depth, threads] = /depth (\d+)|^ ?(\d+) threads/.exec(reader) ?? []
  return Number(depth ?? threads ?? USUAL_DEPTH)
}

/** The first value is the usual one. */
function choice(
  name: SettingName,
  values: readonly SettingValue[],
  given: SettingValue | undefined,
): Knob {
  const all = given === undefined || values.includes(given) ? values : [...values, given]
  return { name, values: all, start: startOf(all, given, 0), usual: 0, isLadder: false }
}

function ladder(
  name: SettingName,
  values: readonly number[],
  usual: number,
  given: number | undefined,
): Knob {
  const all = [...new Set([...values, usual, given ?? usual])].sort((one, other) => one - other)
  const usualAt = all.indexOf(usual)
  return { name, values: all, start: startOf(all, given, usualAt), usual: usualAt, isLadder: true }
}

function startOf(
  values: readonly SettingValue[],
  given: SettingValue | undefined,
  usual: number,
): number {
  return given === undefined ? usual : values.indexOf(given)
}

/** Whether there is anything to choose. */
function isOpen({ values }: Knob): boolean {
  return values.length > 1
}
