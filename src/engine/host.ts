// This machine as its system tells it: processor, memory, limits, what the kernel allows. Read anew each
// time it is asked and cheap; what takes time is measured elsewhere. Of drives it knows nothing.
import os from 'node:os'
import { join } from 'node:path'
import type { Machine } from '../../native/index.js'
import { availableBytes, groupHeadroomBytes } from './memory.js'
import { namesIn, told, toldNumber } from './systemfile.js'

export interface Host {
  /** What tells two machines of one kind apart. */
  readonly identity: string
  readonly kernel: string
  readonly processor: Processor
  readonly memory: Memory
  /** Whether the kernel lets this process use io_uring, as far as its settings say. */
  readonly allowsUring: boolean
}

export interface Processor {
  readonly model: string
  /** Processors of the machine that are switched on. */
  readonly online: number
  /** Cores that this process may use, after affinity and control groups. */
  readonly cores: number
  /** Of cores, on the whole machine. */
  readonly machineCores: number
  /** The one that products are computed with. */
  readonly instructionSet: string
  /** Of those that matter here, what the processor has. */
  readonly features: readonly string[]
  /** Who sets its clock, and how: driver and governor; null where nobody says. */
  readonly clock: { readonly driver: string; readonly governor: string } | null
  readonly nodes: readonly MemoryNode[]
}

export interface MemoryNode {
  readonly node: number
  readonly processors: string
  readonly bytes: number
}

export interface Memory {
  readonly bytes: number
  readonly availableBytes: number
  /** What control groups leave this process; null: they set no limit. */
  readonly groupBytes: number | null
  /** What may be kept from being swapped out; null: any amount. */
  readonly lockableBytes: number | null
  /** Huge pages without asking for each: always, madvise (where asked) or never; null: not told. */
  readonly hugePages: string | null
}

/** Instruction sets that products are written for, by the kernel's names. */
const features = ['avx2', 'fma', 'avx512f', 'avx512bw', 'avx512_vnni', 'avx512vbmi', 'avx512_bf16']
/** Rights of a process, by the kernel's numbers. */
const [lockRight, adminRight] = [14n, 21n]

/** `machine`: what the addon sees of it. `root`: where /proc and /sys are found. */
export function hostOf(machine: Machine, root = '/'): Host {
  const at = (path: string) => told(join(root, path))
  const identity = at('etc/machine-id')
  return {
    identity: identity === '' ? os.hostname() : identity,
    kernel: at('proc/sys/kernel/osrelease') || os.release(),
    processor: processorOf(machine, root),
    memory: memoryOf(machine, root),
    allowsUring: allowsUring(root),
  }
}

function processorOf(machine: Machine, root: string): Processor {
  const facts = told(join(root, 'proc/cpuinfo'))
  const model = /^model name\s*:\s*(.+)$/m.exec(facts)?.[1]
  const flags = new Set(/^flags\s*:\s*(.+)$/m.exec(facts)?.[1]?.split(' '))
  const online = facts.match(/^processor\s*:/gm)?.length ?? os.cpus().length
  const clock = join(root, 'sys/devices/system/cpu/cpu0/cpufreq')
  const [driver, governor] = [
    told(join(clock, 'scaling_driver')),
    told(join(clock, 'scaling_governor')),
  ]
  return {
    model: model ?? os.machine(),
    online,
    cores: machine.cores,
    machineCores: coresIn(facts) || online,
    instructionSet: machine.instructionSet,
    features: features.filter((name) => flags.has(name)),
    clock: governor === '' ? null : { driver, governor },
    nodes: nodesOf(root),
  }
}

/** Cores without their second threads: pairs of socket and core; 0 where they are not told. */
function coresIn(facts: string): number {
  const cores = new Set<string>()
  for (const one of facts.split('\n\n')) {
    const socket = /^physical id\s*:\s*(\d+)$/m.exec(one)?.[1]
    const core = /^core id\s*:\s*(\d+)$/m.exec(one)?.[1]
    if (core !== undefined) cores.add(`${socket ?? 0}/${core}`)
  }
  return cores.size
}

function nodesOf(root: string): MemoryNode[] {
  const folder = join(root, 'sys/devices/system/node')
  return namesIn(folder, 'node')
    .filter((name) => /^node\d+$/.test(name))
    .map((name) => {
      const total = /MemTotal:\s+(\d+) kB/.exec(told(join(folder, name, 'meminfo')))?.[1] ?? 0
      const processors = told(join(folder, name, 'cpulist'))
      return { node: Number(name.slice(4)), processors, bytes: Number(total) * 1024 }
    })
    .sort((a, b) => a.node - b.node)
}

function memoryOf(machine: Machine, root: string): Memory {
  const group = groupHeadroomBytes(root)
  const pages = told(join(root, 'sys/kernel/mm/transparent_hugepage/enabled'))
  return {
    bytes: machine.memoryBytes,
    availableBytes: availableBytes(root),
    // Version 1 says no limit by a number that no machine has.
    groupBytes: group < machine.memoryBytes ? group : null,
    lockableBytes: lockableBytes(root),
    hugePages: /\[(\w+)\]/.exec(pages)?.[1] ?? null,
  }
}

/** The limit does not bind whoever has the right to lock. */
function lockableBytes(root: string): number | null {
  if (hasRight(root, lockRight)) return null
  const limits = told(join(root, 'proc/self/limits'))
  const limit = /^Max locked memory\s+(\S+)/m.exec(limits)?.[1] ?? 'unlimited'
  return limit === 'unlimited' ? null : Number(limit)
}

/** Switched off for all where the setting is 2, where it is 1 for all but those who run the machine. */
function allowsUring(root: string): boolean {
  const setting = toldNumber(join(root, 'proc/sys/kernel/io_uring_disabled')) ?? 0
  return setting === 0 || (setting === 1 && hasRight(root, adminRight))
}

/** Rights that are a container's own do not count. */
function hasRight(root: string, right: bigint): boolean {
  const rights = /^CapEff:\s+([0-9a-f]+)$/m.exec(told(join(root, 'proc/self/status')))?.[1] ?? '0'
  const isOutermost = /^0 +0 +4294967295$/.test(told(join(root, 'proc/self/uid_map')))
  return isOutermost && ((BigInt(`0x${rights}`) >> right) & 1n) === 1n
}
