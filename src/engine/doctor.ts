// `doctor`: this machine, told and measured. What the system tells is read anew each time; what takes time
// to measure is taken from the record of earlier runs where it stands, and kept there at once.
import { measureMemory, probe } from '../../native/index.js'
import { ModelError } from '../model/error.js'
import type { Environment } from '../model/locate.js'
import { type GpuBackend, probeGpu } from './backend.js'
import { measureReads, type ReadEffort } from './drivereads.js'
import { type Drive, driveOf } from './drives.js'
import { type FoundGpus, findGpus } from './gpu.js'
import { type Host, hostOf } from './host.js'
import {
  type MachineRecord,
  type MemoryMeasure,
  machineKey,
  readMachine,
  withReads,
  writeMachine,
} from './machine.js'
import { reasonOf } from './manifest.js'
import { type ExaminedDrive, type Finding, findingsOf } from './remedies.js'

export interface ExamineWishes {
  /** Each must be there; drives that several share are examined once. */
  readonly folders: readonly string[]
  /** Measure also what stands in the record. */
  readonly isFresh: boolean
  readonly signal: AbortSignal
  readonly environment?: Environment
  readonly effort?: ReadEffort
  /** Called before something is measured. */
  readonly onMeasuring: (what: string) => void
}

export interface Examination {
  readonly host: Host
  readonly memory: MemoryMeasure
  readonly drives: readonly ExaminedDrive[]
  readonly graphics: FoundGpus
  /** The GPU that this build could compute on, or why there is none. */
  readonly cuda: GpuBackend | string
  readonly findings: readonly Finding[]
  /** Why what was measured could not be kept; null where it was. */
  readonly note: string | null
}

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
  const examined: ExaminedDrive[] = []
  for (const drive of drives) examined.push(await examinedDrive(drive, kept, wishes))
  const findings = findingsOf(host, examined, graphics.gpus)
  return { host, memory, drives: examined, graphics, cuda, findings, note: kept.note }
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

async function examinedDrive(
  drive: Drive,
  kept: Kept,
  { signal, effort, onMeasuring }: ExamineWishes,
): Promise<ExaminedDrive> {
  const known = kept.reads(drive)
  if (known !== null) return { drive, reads: known, problem: null }
  onMeasuring(`the drive of ${drive.folder}`)
  try {
    const measured = await measureReads(drive.folder, signal, effort)
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

  reads({ key }: Drive) {
    if (this.wishes.isFresh) return null
    return this.#record.drives.find(({ drive }) => drive === key) ?? null
  }

  keepMemory(memory: MemoryMeasure): MemoryMeasure {
    this.#write({ ...this.#record, memory })
    return memory
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
