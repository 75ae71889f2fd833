// A machine, a drive and its reads in which nothing costs speed; tests change what they are about.
import type { Disk, Drive } from '../src/engine/drives.js'
import type { Host } from '../src/engine/host.js'
import type { DriveMeasure } from '../src/engine/machine.js'

const MIB = 2 ** 20
const GIB = 2 ** 30

export const fastDisk: Disk = {
  name: 'nvme0n1',
  model: 'FAST',
  serial: 'S1',
  hasHeads: false,
  scheduler: 'none',
  celsius: 40,
  celsiusMost: 80,
  link: { lanes: 4, lanesMost: 4, speed: 16, speedMost: 16 },
}

export const fastDrive: Drive = {
  folder: '/models',
  key: 'a drive',
  mountPoint: '/models',
  source: '/dev/nvme0n1',
  fileSystem: 'ext4',
  options: ['rw'],
  bytes: 1e12,
  freeBytes: 1e11,
  layers: [],
  disks: [fastDisk],
}

export const fastReads: DriveMeasure = {
  drive: 'a drive',
  reader: 'io_uring, O_DIRECT, depth 32, registered buffers',
  measured: '2026-11-28T05:00:00.000Z',
  bytesPerSecond: 7e9,
  beside: { bytesPerSecond: 6e9, computing: 0.9 },
  rates: [{ chunkBytes: MIB, depth: 16, bytesPerSecond: 8e9 }],
}

export const fastHost: Host = {
  identity: 'abc',
  kernel: '6.8.0',
  processor: {
    model: 'A Processor',
    online: 16,
    cores: 8,
    machineCores: 8,
    instructionSet: 'avx512',
    features: ['avx2', 'fma', 'avx512f', 'avx512bw'],
    clock: { driver: 'amd-pstate-epp', governor: 'powersave' },
    nodes: [{ node: 0, processors: '0-15', bytes: 64 * GIB }],
  },
  memory: {
    bytes: 64 * GIB,
    availableBytes: 60 * GIB,
    groupBytes: null,
    lockableBytes: null,
    hugePages: 'madvise',
  },
  allowsUring: true,
}
