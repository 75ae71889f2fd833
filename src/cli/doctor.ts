// `doctor`: what this machine is to a model larger than memory, measured, and what would make it faster.
// Without folders it looks at the Hugging Face cache and at the folder it is started in.
import { existsSync } from 'node:fs'
import { dirname } from 'node:path'
import type { GpuBackend } from '../engine/backend.js'
import { type Examination, examine } from '../engine/doctor.js'
import { machinePath } from '../engine/machine.js'
import type { ExaminedDrive } from '../engine/remedies.js'
import { cacheFolder } from '../model/locate.js'
import type { DoctorFlags } from './doctorflags.js'
import { examinationText } from './doctortext.js'
import { Status } from './failure.js'
import { Interrupts, statusOfSignal } from './interrupt.js'
import { Log } from './log.js'

/** Returns the exit status; throws for everything that a person is to be told. */
export async function doctor(folders: readonly string[], flags: DoctorFlags): Promise<number> {
  const log = new Log(flags.quiet ?? false)
  const interrupts = new Interrupts()
  const controller = new AbortController()
  const wishes = {
    folders: folders.length > 0 ? folders : [existing(cacheFolder(process.env)), process.cwd()],
    isFresh: flags.fresh ?? false,
    signal: controller.signal,
    onMeasuring: (what: string) => log.line(`measuring ${what}`),
  }
  try {
    const found = await interrupts.during(
      () => controller.abort(),
      () => examine(wishes),
    )
    if (found.note !== null) log.line(found.note)
    const report = () => `${JSON.stringify(reportOf(found))}\n`
    process.stdout.write(flags.json ? report() : examinationText(found))
    return Status.done
  } catch (error) {
    if (interrupts.received === null || !controller.signal.aborted) throw error
    log.line('stopped; what was measured until then is kept')
    return statusOfSignal(interrupts.received)
  }
}

/** The cache need not be there yet; what it will lie in is. */
export function existing(folder: string): string {
  let there = folder
  while (!existsSync(there)) there = dirname(there)
  return there
}

/** Sizes in bytes, rates in bytes or multiply-adds per second. Keys as `doctor --json` prints them. */
function reportOf({ host, memory, computing, drives, graphics, cuda, findings }: Examination) {
  const { processor, kernel, allowsUring } = host
  return {
    kernel,
    io_uring_allowed: allowsUring,
    processor: {
      model: processor.model,
      processors_online: processor.online,
      cores: processor.cores,
      cores_of_machine: processor.machineCores,
      instruction_set: processor.instructionSet,
      features: processor.features,
      clock: processor.clock,
      nodes: processor.nodes,
    },
    memory: {
      bytes: host.memory.bytes,
      bytes_available: host.memory.availableBytes,
      bytes_left_by_group: host.memory.groupBytes,
      bytes_lockable: host.memory.lockableBytes,
      huge_pages: host.memory.hugePages,
      bytes_per_second: memory.bytesPerSecond,
      measured: memory.measured,
    },
    computing: {
      threads: computing.threads,
      products_per_second: computing.productsPerSecond,
      bf16_products_per_second: computing.bf16ProductsPerSecond,
      one_token_bytes_per_second: computing.oneTokenBytesPerSecond,
      measured: computing.measured,
    },
    drives: drives.map(driveReport),
    gpus: graphics.gpus.map(({ name, bytes, freeBytes, link }) => ({
      name,
      bytes,
      bytes_free: freeBytes,
      pcie_lanes: link.lanes,
      pcie_lanes_most: link.lanesMost,
      pcie_generation: link.generation,
      pcie_generation_most: link.generationMost,
    })),
    gpu_problem: graphics.problem,
    cuda: cudaReport(cuda),
    findings,
    record: machinePath(process.env),
  }
}

/** For `inspect` too: `problem` null where a GPU can be computed on. */
export function cudaReport(cuda: GpuBackend | string) {
  if (typeof cuda === 'string') return { problem: cuda }
  const { name, memoryBytes, freeBytes, computeMajor, computeMinor, driver } = cuda.probe
  return {
    problem: null,
    name,
    bytes: memoryBytes,
    bytes_free: freeBytes,
    compute_capability: `${computeMajor}.${computeMinor}`,
    driver,
  }
}

function driveReport({ drive, reads, problem }: ExaminedDrive) {
  return {
    folder: drive.folder,
    mount_point: drive.mountPoint,
    source: drive.source,
    file_system: drive.fileSystem,
    options: drive.options,
    bytes: drive.bytes,
    bytes_free: drive.freeBytes,
    layers: drive.layers,
    disks: drive.disks.map((disk) => ({
      name: disk.name,
      model: disk.model,
      has_heads: disk.hasHeads,
      scheduler: disk.scheduler,
      celsius: disk.celsius,
      celsius_most: disk.celsiusMost,
      link: disk.link,
    })),
    reader: reads?.reader ?? null,
    bytes_per_second: reads?.bytesPerSecond ?? null,
    measured: reads?.measured ?? null,
    beside: reads?.beside
      ? { bytes_per_second: reads.beside.bytesPerSecond, computing: reads.beside.computing }
      : null,
    rates: (reads?.rates ?? []).map(({ chunkBytes, depth, bytesPerSecond }) => ({
      chunk_bytes: chunkBytes,
      depth,
      bytes_per_second: bytesPerSecond,
    })),
    problem,
  }
}
