// `doctor`: this machine, told and measured. What the system tells is read anew each time; what takes time
// to measure is taken from the record of earlier runs where it stands, and kept there at once.
import { Limit, MathKind, measureMemory, measureProducts, probe } from '../../native/index.js'
import { ModelError } from '../model/error.js'
import type { Environment } from '../model/locate.js'
import { type GpuBackend, probeGpu } from './backend.js'
import { measureReads, type ReadEffort } from './drivereads.js'
import { type Drive, driveOf } from './drives.js'
import { type FoundGpus, findGpus } from './gpu.js'
import { type Host, hostOf } from './host.js'
import {
  type ComputingMeasure,
  type MachineRecord,
  type MemoryMeasure,
  machineKey,
  readMachine,
  withReads,
  writeMachine,
} from './machine.js'
import { reasonOf } from './manifest.js'
import { type ExaminedDrive, type Finding, findingsOf } from './remedies.js'
import { kernelsKey } from './tuned.js'

export interface ExamineWishes {
  /** Each must be there; drives that several share are examined once. */
  readonly folders: readonly string[]
  /** Measure also what stands in the record. */
  readonly isFresh: boolean
  readonly signal: AbortSignal
  readonly environment?: Environment
  readonly effort?: ReadEffort
  /** For each of what is measured of computing; absent: enough of them. */
  readonly computeSeconds?: number
  /** Called before something is measured. */
  readonly onMeasuring: (what: string) => void
}

export interface Examination {
  readonly host: Host
  readonly memory: MemoryMeasure
  readonly computing: ComputingMeasure
  readonly drives: readonly ExaminedDrive[]
  readonly graphics: FoundGpus
  /** The GPU that this build could compute on, or why there is none. */
  readonly cuda: GpuBackend | string
  readonly findings: readonly Finding[]
  /** Why what was measured could not be kept; null where it was. */
  readonly note: string | null
}

const usualComputeSeconds = 0.25
/** Of a step that is bound by multiplying. */
const manyTokens = Limit.unordered_tokens

/** Throws ModelError for a folder that is not there, the signal's reason when it is aborted. */
export async function examine(wishes: ExamineWishes): Promise<Examination> {
  const { folders, signal, onMeasuring } = wishes
  const host = hostOf(probe())
  const drives = distinct(folders.map(foundUnder))
  const graphics = await findGpus()
  const cuda = probeGpu(wishes.environment)
  const kept = new Kept(wishes, machineKey(host))
  signal.throwIfAborted()
  const memory = kept.memory ?? kept.keepMemory(measuredMemory(onMeasuring))
  const computing = kept.computing ?? kept.keepComputing(measuredComputing(host, wishes))
  const examined: ExaminedDrive[] = []
  const { cores } = host.processor
  for (const drive of drives) examined.push(await examinedDrive(drive, cores, kept, wishes))
  const findings = findingsOf(host, examined, graphics.gpus)
  return { host, memory, computing, drives: examined, graphics, cuda, findings, note: kept.note }
}

function foundUnder(folder: string): Drive {
  try {
    return driveOf(folder)
  } catch (error) {
    throw new ModelError(`${folder}: cannot be looked at: ${reasonOf(error)}`)
  }
}

function distinct(drives: readonly Drive[]): Drive[] {
  return drives.filter(({ key }, index) => drives.findIndex((one) => one.key === key) === index)
}

function measuredMemory(onMeasuring: (what: string) => void): MemoryMeasure {
  onMeasuring('memory')
  return { bytesPerSecond: Math.round(measureMemory(0)), measured: new Date().toISOString() }
}

function measuredComputing(
  { processor }: Host,
  { computeSeconds = usualComputeSeconds, onMeasuring }: ExamineWishes,
): ComputingMeasure {
  onMeasuring('computing')
  const threads = processor.cores
  const rates = (math: keyof typeof MathKind) => {
    const tokens = [1, manyTokens]
    const asked = { threads, math: MathKind[math], tokens, seconds: computeSeconds }
    const [one = 0, many = 0] = measureProducts(asked)
    return { one, each: one === 0 ? null : Math.round((manyTokens - 1) / (1 / many - 1 / one)) }
  }
  const [f32, bf16] = [rates('f32'), rates('bf16')]
  return {
    threads,
    productsPerSecond: f32.each ?? 0,
    bf16ProductsPerSecond: bf16.each,
    oneTokenBytesPerSecond: Math.round(f32.one),
    build: kernelsKey(),
    measured: new Date().toISOString(),
  }
}

async function examinedDrive(
  drive: Drive,
  threads: number,
  kept: Kept,
  { signal, effort, onMeasuring }: ExamineWishes,
): Promise<ExaminedDrive> {
  const known = kept.reads(drive)
  if (known !== null) return { drive, reads: known, problem: null }
  onMeasuring(`the drive of ${drive.folder}`)
  try {
    const measured = await measureReads(drive.folder, threads, signal, effort)
    const reads = { drive: drive.key, ...measured, measured: new Date().toISOString() }
    kept.keepReads(reads)
    return { drive, reads, problem: null }
  } catch (error) {
    signal.throwIfAborted()
    return { drive, reads: null, problem: reasonOf(error) }
  }
}

/** The record while it is added to; where it cannot be written, measuring goes on. */
class Kept {
  note: string | null = null
  #record: MachineRecord
  readonly #environment: Environment

  constructor(
    private readonly wishes: ExamineWishes,
    key: string,
  ) {
    this.#environment = wishes.environment ?? process.env
    this.#record = readMachine(this.#environment, key)
  }

  get memory(): MemoryMeasure | null {
    return this.wishes.isFresh ? null : this.#record.memory
  }

  /** Of these kernels; those of another build compute at another rate. */
  get computing(): ComputingMeasure | null {
    const { computing } = this.#record
    return this.wishes.isFresh || computing?.build !== kernelsKey() ? null : computing
  }

  reads({ key }: Drive) {
    if (this.wishes.isFresh) return null
    const found = this.#record.drives.find(({ drive }) => drive === key)
    // Earlier versions measured less.
    return found === undefined || found.beside === null ? null : found
  }

  keepMemory(memory: MemoryMeasure): MemoryMeasure {
    this.#write({ ...this.#record, memory })
    return memory
  }

  keepComputing(computing: ComputingMeasure): ComputingMeasure {
    this.#write({ ...this.#record, computing })
    return computing
  }

  keepReads(reads: Parameters<typeof withReads>[1]): void {
    this.#write(withReads(this.#record, reads))
  }

  #write(record: MachineRecord): void {
    this.#record = record
    try {
      writeMachine(this.#environment, record)
    } catch (error) {
      this.note = `what was measured is not kept: ${reasonOf(error)}`
    }
  }
}
