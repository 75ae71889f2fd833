// `doctor`: what it measures, what it keeps for the next time, and that it leaves nothing behind.
import fs from 'node:fs'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { measureDrive, Rung } from '../native/index.js'
import { type ExamineWishes, examine } from '../src/engine/doctor.js'
import { largeFileIn, type ReadEffort } from '../src/engine/drivereads.js'
import type { Host } from '../src/engine/host.js'
import {
  machineKey,
  machinePath,
  readMachine,
  withReads,
  writeMachine,
} from '../src/engine/machine.js'
import { findingsOf } from '../src/engine/remedies.js'
import { command, ended, lastObject, started } from './command.js'
import { fastDrive, fastHost, fastReads } from './fastmachine.js'

const MIB = 2 ** 20
const GIB = 2 ** 30

let root: string
beforeEach(() => {
  // Not under the system's folder for such things, which may be made of memory.
  root = fs.mkdtempSync(join(import.meta.dirname, '../build/ring-doctor-'))
})
afterEach(() => {
  fs.rmSync(root, { recursive: true })
})

/** Files of the made-up tree, by path. */
function write(files: Readonly<Record<string, string>>): void {
  for (const [path, text] of Object.entries(files)) {
    fs.mkdirSync(dirname(join(root, path)), { recursive: true })
    fs.writeFileSync(join(root, path), text)
  }
}

describe('the record', () => {
  const environment = () => ({ XDG_CACHE_HOME: root })

  it('comes back as it was kept, a drive once', () => {
    const key = machineKey(fastHost)
    const empty = readMachine(environment(), key)
    expect(empty).toEqual({ version: 1, key, memory: null, computing: null, drives: [] })
    const memory = { bytesPerSecond: 4e10, measured: fastReads.measured }
    const computing = {
      ...{ threads: 8, productsPerSecond: 5e11, bf16ProductsPerSecond: null },
      ...{ oneTokenBytesPerSecond: 4e10, build: 'this', measured: fastReads.measured },
    }
    const once = withReads({ ...empty, memory, computing }, { ...fastReads, bytesPerSecond: 1 })
    const record = withReads(withReads(once, { ...fastReads, drive: 'b' }), fastReads)
    expect(record.drives.map(({ drive }) => drive)).toEqual(['b', 'a drive'])
    writeMachine(environment(), record)
    expect(readMachine(environment(), key)).toEqual(record)
  })

  it('of another processor, kernel or amount of memory is none', () => {
    const { processor, memory } = fastHost
    const others: Host[] = [
      { ...fastHost, identity: 'other' },
      { ...fastHost, kernel: '6.9' },
      { ...fastHost, processor: { ...processor, model: 'B' } },
      { ...fastHost, memory: { ...memory, bytes: 128 * GIB } },
    ]
    const keys = new Set([fastHost, ...others].map(machineKey))
    expect(keys.size).toBe(5)
    expect(machineKey({ ...fastHost, memory: { ...memory, availableBytes: 1 } })).toBe(
      machineKey(fastHost),
    )
    const record = { version: 1, key: 'x', memory: null, drives: [fastReads] } as const
    // As it was before computing was measured.
    const { beside: _, ...reads } = fastReads
    const earlier = { ...record, drives: [reads] }
    write({ 'ring-offload/machine.json': JSON.stringify(earlier) })
    expect(readMachine(environment(), 'y').drives).toEqual([])
    const drives = [{ ...reads, beside: null }]
    expect(readMachine(environment(), 'x')).toEqual({ ...record, drives, computing: null })
  })

  it.each(['', 'anything', '{}', '{"version":2}', '[]'])('that holds %j is none', (text) => {
    write({ 'ring-offload/machine.json': text })
    expect(readMachine(environment(), 'x').drives).toEqual([])
  })

  it('with a rate that is none is none', () => {
    const record = {
      version: 1,
      key: 'x',
      memory: null,
      drives: [{ ...fastReads, bytesPerSecond: -1 }],
    }
    write({ 'ring-offload/machine.json': JSON.stringify(record) })
    expect(readMachine(environment(), 'x').drives).toEqual([])
  })
})

/** Small enough for a test. */
const effort: ReadEffort = {
  fileBytes: 64 * MIB,
  writeSeconds: 20,
  probeBytes: 256 * MIB,
  probeSeconds: 0.05,
  lastingRounds: 1,
  besideRounds: 1,
  roundSeconds: 0.1,
}

const computeSeconds = 0.01

describe('a file to read', () => {
  it('is the largest whole one that is large enough, below the folder', () => {
    expect(largeFileIn(root, MIB)).toBeNull()
    const whole = (path: string, bytes: number) => write({ [path]: 'x'.repeat(bytes) })
    whole('a', MIB - 1)
    fs.truncateSync(join(root, 'a'), 4 * MIB)
    expect(largeFileIn(root, MIB)).toBeNull()
    whole('b/c/one', MIB)
    whole('b/two', MIB + 5)
    expect(largeFileIn(root, MIB)).toEqual({ path: join(root, 'b/two'), sizeBytes: MIB + 5 })
    expect(largeFileIn(root, 2 * MIB)).toBeNull()
  })

  it('is read as the sentence about the page cache says', () => {
    const path = join(root, 'file')
    fs.writeFileSync(path, Buffer.alloc(8 * MIB, 1))
    const { reader } = measureDrive({
      files: [{ path, sizeBytes: 8 * MIB }],
      io: { rung: Rung.buffered, depth: 0, chunkBytes: 0, faults: [] },
      ...{
        chunkBytes: 64 * 1024,
        depth: 4,
        bytes: 32 * MIB,
        seconds: 1,
        seed: 1,
        besideThreads: 0,
      },
    })
    const examined = { drive: fastDrive, reads: { ...fastReads, reader }, problem: null }
    expect(findingsOf(fastHost, [examined], [])).toMatchObject([{ found: /page cache/ }])
  })
})

describe('an examination', () => {
  const measuring: string[] = []
  const wishes = (more: Partial<ExamineWishes> = {}): ExamineWishes => ({
    folders: [join(root, 'models')],
    isFresh: false,
    signal: new AbortController().signal,
    environment: { XDG_CACHE_HOME: root },
    effort,
    computeSeconds,
    onMeasuring: (what) => measuring.push(what),
    ...more,
  })
  beforeEach(() => {
    measuring.length = 0
    fs.mkdirSync(join(root, 'models'))
  })

  it('measures memory, computing and each drive once, in order, and leaves nothing in the folder', async () => {
    const folders = [join(root, 'models'), root]
    const { host, memory, computing, drives, note } = await examine(wishes({ folders }))
    expect(measuring).toEqual(['memory', 'computing', `the drive of ${join(root, 'models')}`])
    expect(host.processor.cores).toBeGreaterThan(0)
    expect(memory.bytesPerSecond).toBeGreaterThan(1e8)
    // By the kernels that models are computed with: one token is bound by memory, many are not.
    expect(computing.threads).toBe(host.processor.cores)
    expect(computing.productsPerSecond).toBeGreaterThan(1e8)
    expect(computing.oneTokenBytesPerSecond).toBeGreaterThan(1e8)
    const hasBf16 = host.processor.instructionSet === 'avx512bf16'
    expect(computing.bf16ProductsPerSecond).toEqual(hasBf16 ? expect.any(Number) : null)
    expect(note).toBeNull()
    expect(drives).toHaveLength(1)
    const [{ reads, problem } = {}] = drives
    expect(problem).toBeNull()
    expect(reads?.rates.map(({ chunkBytes, depth }) => [chunkBytes, depth])).toEqual(
      [128 * 1024, MIB, 4 * MIB].flatMap((size) => [1, 4, 16].map((depth) => [size, depth])),
    )
    expect(Math.min(...(reads?.rates ?? []).map((one) => one.bytesPerSecond))).toBeGreaterThan(1e5)
    expect(reads?.bytesPerSecond).toBeGreaterThan(1e6)
    expect(reads?.beside?.bytesPerSecond).toBeGreaterThan(1e6)
    expect(reads?.beside?.computing).toBeGreaterThan(0)
    expect(fs.readdirSync(join(root, 'models'))).toEqual([])
  })

  it('is kept: the next one measures nothing, a fresh one all', async () => {
    const first = await examine(wishes())
    const again = await examine(wishes())
    expect(measuring).toHaveLength(3)
    expect(again.memory).toEqual(first.memory)
    expect(again.computing).toEqual(first.computing)
    expect(again.drives[0]?.reads).toEqual(first.drives[0]?.reads)
    await examine(wishes({ isFresh: true }))
    expect(measuring).toHaveLength(6)
    const record = readMachine({ XDG_CACHE_HOME: root }, machineKey(first.host))
    expect(record.drives).toHaveLength(1)
    // Kernels of another build compute at another rate.
    const { computing } = first
    writeMachine({ XDG_CACHE_HOME: root }, { ...record, computing: { ...computing, build: 'x' } })
    await examine(wishes())
    expect(measuring.slice(6)).toEqual(['computing'])
  })

  it('that cannot be kept is told all the same', async () => {
    const { note, drives } = await examine(wishes({ environment: { XDG_CACHE_HOME: '/dev/null' } }))
    expect(note).toMatch(/^what was measured is not kept: \/dev\/null\/ring-offload\/machine\.json/)
    expect(drives[0]?.reads).not.toBeNull()
  })

  it('of a folder where nothing can be written says why there is no figure', async () => {
    const { drives } = await examine(wishes({ folders: ['/proc/self'] }))
    expect(drives).toMatchObject([{ reads: null, problem: expect.stringMatching(/\/proc/) }])
  })

  it('that is ended keeps what it has, and leaves nothing in the folder', async () => {
    const controller = new AbortController()
    const onMeasuring = (what: string) => {
      if (what.startsWith('the drive')) controller.abort()
    }
    const ending = examine(wishes({ signal: controller.signal, onMeasuring }))
    await expect(ending).rejects.toMatchObject({ name: 'AbortError' })
    expect(fs.readdirSync(join(root, 'models'))).toEqual([])
    expect(
      JSON.parse(fs.readFileSync(machinePath({ XDG_CACHE_HOME: root }), 'utf8')),
    ).toMatchObject({
      memory: { bytesPerSecond: expect.any(Number) },
      computing: { productsPerSecond: expect.any(Number) },
      drives: [],
    })
  })
})

describe('the command', () => {
  it('tells what an earlier run has measured, for a person and for a program', async () => {
    const environment = { XDG_CACHE_HOME: root }
    const earlier = await examine({
      ...{ folders: [root], isFresh: false, effort, computeSeconds, environment },
      onMeasuring: () => {},
      signal: new AbortController().signal,
    })
    const rate = earlier.drives[0]?.reads?.bytesPerSecond
    const end = await command(['doctor', root, '--json'], { environment })
    expect(end).toMatchObject({ status: 0, stderr: '' })
    expect(lastObject(end)).toMatchObject({
      processor: { cores: earlier.host.processor.cores },
      memory: { bytes_per_second: earlier.memory.bytesPerSecond },
      computing: { products_per_second: earlier.computing.productsPerSecond },
      drives: [{ folder: root, bytes_per_second: rate, problem: null, rates: { length: 9 } }],
      findings: expect.any(Array),
      record: machinePath(environment),
    })
    const { stdout } = await command(['doctor', root], { environment })
    expect(stdout).toMatch(
      /^processor .*\ncomputes by .*\n.* products a second by .*\nmemory .*\n.* read at .*\/s \(measured 20/,
    )
    expect(stdout).toMatch(/\n {12}4 MiB( +[\d.]+ [kMG]B\/s){3}\n/)
    expect(stdout).toMatch(/\n(What costs speed, and what helps:\n1\. |Nothing was found)/)
  })

  it('is ended by Ctrl-C while it measures, and leaves nothing in the folder', async () => {
    const folder = join(root, 'models')
    fs.mkdirSync(folder)
    const child = started(['doctor', folder], { XDG_CACHE_HOME: root })
    child.stderr.on('data', (text: string) => {
      if (text.includes('the drive of')) child.kill('SIGINT')
    })
    const { status, stdout, stderr } = await ended(child)
    expect(stderr).toMatch(/stopped; what was measured until then is kept\n$/)
    expect([status, stdout]).toEqual([130, ''])
    expect(fs.readdirSync(folder)).toEqual([])
  })
})
