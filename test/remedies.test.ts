// What `doctor` finds dear, and the remedy it gives: one finding for each thing that is wrong.
import { describe, expect, it } from 'vitest'
import type { Disk, Drive } from '../src/engine/drives.js'
import { gpusIn } from '../src/engine/gpu.js'
import type { Host } from '../src/engine/host.js'
import type { DriveMeasure } from '../src/engine/machine.js'
import { findingsOf } from '../src/engine/remedies.js'
import { fastDisk, fastDrive, fastHost, fastReads } from './fastmachine.js'

const MIB = 2 ** 20
const GIB = 2 ** 30

interface Changes {
  readonly drive?: Partial<Drive>
  readonly disk?: Partial<Disk>
  readonly reads?: Partial<DriveMeasure>
  readonly host?: Partial<Host>
  readonly memory?: Partial<Host['memory']>
  readonly processor?: Partial<Host['processor']>
}

/** The findings of a machine without fault, but for the changes. */
function found({ drive, disk, reads, host, memory, processor }: Changes = {}) {
  const changedHost: Host = {
    ...fastHost,
    ...host,
    memory: { ...fastHost.memory, ...memory },
    processor: { ...fastHost.processor, ...processor },
  }
  const changedDrive = { ...fastDrive, disks: [{ ...fastDisk, ...disk }], ...drive }
  const changedReads = { ...fastReads, ...reads }
  return findingsOf(changedHost, [{ drive: changedDrive, reads: changedReads, problem: null }], [])
}

describe('what costs speed', () => {
  it('is nothing where nothing is wrong, or a drive could not be read', () => {
    expect(found()).toEqual([])
    expect(findingsOf(fastHost, [{ drive: fastDrive, reads: null, problem: 'x' }], [])).toEqual([])
  })

  it.each<[string, Changes, string, RegExp, RegExp, RegExp | null]>([
    [
      'a share',
      { drive: { fileSystem: 'nfs4' } },
      '/models',
      /another machine/,
      /of this one/,
      null,
    ],
    ['memory', { drive: { fileSystem: 'tmpfs' } }, '/models', /takes memory/, /on a drive/, null],
    [
      'the page cache',
      { reads: { reader: '16 threads, through the page cache (no O_DIRECT on this file system)' } },
      '/models',
      /past the page cache/,
      /ext4, xfs/,
      null,
    ],
    [
      'compression',
      { drive: { options: ['rw', 'compress=zstd:3'], folder: "/models/it's" } },
      '/models',
      /compress=zstd:3/,
      /switch it off/,
      /^btrfs property set '\/models\/it'\\''s' compression none$/,
    ],
    [
      'encryption',
      { drive: { layers: ['lvm', 'crypt'], source: '/dev/mapper/models' } },
      '/models',
      /encrypted/,
      /pass the queues/,
      /cryptsetup refresh .* 'models'$/,
    ],
    [
      'a slow drive',
      { reads: { bytesPerSecond: 5e8 } },
      '/models',
      /0\.500 GB\/s;/,
      /--mirror/,
      null,
    ],
    [
      'a disk with heads',
      { reads: { bytesPerSecond: 2e8 }, disk: { hasHeads: true } },
      '/models',
      /0\.200 GB\/s from a disk with moving heads/,
      /faster drive/,
      null,
    ],
    [
      'half of the lanes',
      { disk: { link: { lanes: 2, lanesMost: 4, speed: 16, speedMost: 16 } } },
      '/models',
      /2 of the 4 PCIe lanes/,
      /slot/,
      null,
    ],
    [
      'half of the speed',
      { disk: { link: { lanes: 4, lanesMost: 4, speed: 8, speedMost: 16 } } },
      '/models',
      /8 of the 16 GT\/s/,
      /slot/,
      null,
    ],
    ['heat', { disk: { celsius: 76 } }, '/models', /76 °C/, /heat sink/, null],
    [
      'a scheduler',
      { disk: { scheduler: 'bfq' } },
      '/models',
      /bfq/,
      /as they come/,
      /^echo none \| sudo tee \/sys\/block\/nvme0n1\/queue\/scheduler$/,
    ],
    [
      'io_uring switched off',
      { host: { allowsUring: false }, reads: { reader: '16 threads, O_DIRECT (no io_uring: x)' } },
      'kernel',
      /switched off/,
      /allow it/,
      /^sudo sysctl -w kernel\.io_uring_disabled=0$/,
    ],
    [
      'io_uring forbidden',
      { reads: { reader: '16 threads, O_DIRECT (no io_uring: Operation not permitted)' } },
      'kernel',
      /threads/,
      /container/,
      /seccomp/,
    ],
    [
      'no liburing',
      { reads: { reader: '16 threads, O_DIRECT (built without liburing)' } },
      'kernel',
      /threads/,
      /build again/,
      /liburing-dev/,
    ],
    [
      'a low limit of locking',
      { memory: { lockableBytes: 8 * MIB } },
      'memory',
      /no more than 8 MiB/,
      /raise the limit/,
      /memlock unlimited/,
    ],
    [
      'buffers that are not registered',
      { reads: { reader: 'io_uring, O_DIRECT, depth 32, buffers not registered (x)' } },
      'memory',
      /locked/,
      /raise the limit/,
      /memlock/,
    ],
    [
      'a control group',
      { memory: { groupBytes: 8e9 } },
      'memory',
      /leaves 8\.00 GB of the 68\.7 GB/,
      /raise its limit/,
      null,
    ],
    [
      'no huge pages',
      { memory: { hugePages: 'never' } },
      'memory',
      /huge pages/,
      /ask for them/,
      /^echo madvise/,
    ],
    [
      'several nodes',
      { processor: { nodes: [0, 1].map((node) => ({ node, processors: '0', bytes: GIB })) } },
      'memory',
      /2 nodes/,
      /spread/,
      /^numactl --interleave=all/,
    ],
    ['few cores', { processor: { cores: 2 } }, 'processor', /2 of 8 cores/, /affinity/, null],
    [
      'slow clocks',
      { processor: { clock: { driver: 'acpi-cpufreq', governor: 'powersave' } } },
      'processor',
      /powersave/,
      /rise/,
      /performance$/,
    ],
    [
      'an old build',
      { processor: { instructionSet: 'avx2' } },
      'processor',
      /more than avx2/,
      /build again/,
      /npm start/,
    ],
  ])('%s', (_, changes, about, said, remedy, shell) => {
    const findings = found(changes)
    expect(findings).toHaveLength(1)
    expect(findings[0]).toMatchObject({
      about,
      found: expect.stringMatching(said),
      remedy: expect.stringMatching(remedy),
      command: shell === null ? null : expect.stringMatching(shell),
    })
  })

  it('comes drives first, then the kernel, memory and the processor', () => {
    const findings = found({
      drive: { fileSystem: 'nfs' },
      reads: { bytesPerSecond: 1e8 },
      memory: { hugePages: 'never', lockableBytes: 0 },
      processor: { cores: 1 },
    })
    const abouts = findings.map(({ about }) => about)
    expect(abouts).toEqual(['/models', '/models', 'memory', 'memory', 'processor'])
  })

  it('is no setting of the kernel that did not keep io_uring from being used', () => {
    expect(found({ host: { allowsUring: false } })).toEqual([])
  })

  it('a GPU in a narrow slot', () => {
    const [gpu] = gpusIn('A Card, 24564, 24000, 4, 16, 4, 4\n')
    const findings = findingsOf(fastHost, [], gpu === undefined ? [] : [gpu])
    expect(findings).toMatchObject([
      { about: 'A Card', found: 'has 4 of the 16 PCIe lanes it could use' },
    ])
  })
})
