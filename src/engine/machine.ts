// What was measured of this machine, kept from one run to the next: how fast memory is read and weights are
// multiplied with, and each drive at several sizes and depths, alone and beside computing. A record is of one
// machine, known by its key; that of another, or one that cannot be read, is as good as none. It measures
// nothing itself.
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { ModelError } from '../model/error.js'
import {
  atLeast,
  date,
  list,
  nullable,
  object,
  oneOf,
  orNull,
  parseFields,
  type Read,
  text,
  whole,
} from '../model/fields.js'
import { parseObject } from '../model/json.js'
import type { Environment } from '../model/locate.js'
import { readText } from '../model/window.js'
import type { Host } from './host.js'
import { cacheFolder, replaceFile } from './manifest.js'

const RECORD_BYTES_MOST = 2 ** 20
const GIB = 2 ** 30

const rate = () => atLeast(1, 1e15)

const memoryShape = object({ bytesPerSecond: rate(), measured: date() })
const computingShape = object({
  threads: whole(1, 4096),
  /** Multiply-adds of each token more than one, F32-accurate, and by BF16 products where there are any. */
  productsPerSecond: rate(),
  bf16ProductsPerSecond: nullable(rate()),
  /** Weights, where each has one token. */
  oneTokenBytesPerSecond: rate(),
  /** The kernels that were measured. */
  build: text(),
  measured: date(),
})
const readsShape = object({
  /** See Drive.key. */
  drive: text(),
  /** How the bytes were read, for people. */
  reader: text(),
  measured: date(),
  /** Many large reads under way, for seconds: what experts are read at. */
  bytesPerSecond: rate(),
  /**
   * The same while all cores multiply one token with weights: what the drive gives, and what they do, of what
   * they do alone.
   */
  beside: orNull(object({ bytesPerSecond: rate(), computing: atLeast(0, 1) })),
  /** In short bursts, which many a drive gives faster than it can go on. */
  rates: list(object({ chunkBytes: whole(1, GIB), depth: whole(1, 4096), bytesPerSecond: rate() })),
})
const recordShape = object({
  version: oneOf(1),
  key: text(),
  memory: nullable(memoryShape),
  computing: orNull(computingShape),
  drives: list(readsShape),
})

/** All threads reading memory and doing nothing else; `measured` is an ISO date. */
export type MemoryMeasure = Readonly<Read<typeof memoryShape>>
/** All threads multiplying with FP8 weights of routed experts; `measured` is an ISO date. */
export type ComputingMeasure = Readonly<Read<typeof computingShape>>
/** Random reads of whole chunks, so many under way at once, of one drive; `measured` is an ISO date. */
export type DriveMeasure = Readonly<Read<typeof readsShape>>
/** What is kept of a machine. */
export type MachineRecord = Readonly<Read<typeof recordShape>>

/** Where the record lies. */
export function machinePath(environment: Environment): string {
  return join(cacheFolder(environment), 'machine.json')
}

/** Another processor, kernel or amount of memory makes another machine. */
export function machineKey({ identity, kernel, processor, memory }: Host): string {
  const { model, online } = processor
  const parts = [identity, kernel, model, online, Math.round(memory.bytes / GIB)]
  return createHash('sha256').update(parts.join('\n')).digest('hex').slice(0, 32)
}

/** What is known of the machine with this key; nothing where nothing stands. */
export function readMachine(environment: Environment, key: string): MachineRecord {
  const none: MachineRecord = { version: 1, key, memory: null, computing: null, drives: [] }
  const path = machinePath(environment)
  if (!existsSync(path)) return none
  try {
    const found = parseFields(
      recordShape,
      parseObject(readText(path, RECORD_BYTES_MOST), path),
      path,
    )
    return found.key === key ? found : none
  } catch (error) {
    // It can be made again, and will be.
    if (error instanceof ModelError) return none
    throw error
  }
}

/** Replaces what lay there. Throws ModelError where it cannot be written. */
export function writeMachine(environment: Environment, record: MachineRecord): void {
  replaceFile(machinePath(environment), Buffer.from(`${JSON.stringify(record, null, 1)}\n`), false)
}

/** The record with these reads in the place of earlier ones of the same drive. */
export function withReads(record: MachineRecord, reads: DriveMeasure): MachineRecord {
  const others = record.drives.filter(({ drive }) => drive !== reads.drive)
  return { ...record, drives: [...others, reads] }
}
