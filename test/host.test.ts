// What the program reads of a machine, its drives and its GPUs, from made-up trees of /proc and /sys.
import fs from 'node:fs'
import os from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { Machine } from '../native/index.js'
import { driveOf } from '../src/engine/drives.js'
import { findGpus, gpusIn } from '../src/engine/gpu.js'
import { hostOf } from '../src/engine/host.js'

const MIB = 2 ** 20
const GIB = 2 ** 30

let root: string
beforeEach(() => {
  root = fs.mkdtempSync(join(os.tmpdir(), 'ring-host-'))
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

function link(path: string, target: string): void {
  fs.mkdirSync(dirname(join(root, path)), { recursive: true })
  fs.symlinkSync(join(root, target), join(root, path))
}

const machine: Machine = { cores: 8, memoryBytes: 64 * GIB, instructionSet: 'avx512' }

describe('the machine', () => {
  it('is told by the files of the kernel', () => {
    write({
      'etc/machine-id': 'abc\n',
      'proc/sys/kernel/osrelease': '6.8.0-1\n',
      'proc/cpuinfo': [0, 1, 2, 3]
        .map(
          (n) =>
            `processor\t: ${n}\nmodel name\t: A Processor\nphysical id\t: 0\ncore id\t: ${n >> 1}\nflags\t\t: fpu avx2 fma avx512f\n`,
        )
        .join('\n'),
      'proc/self/limits':
        'Max locked memory         8388608              9388608              bytes\n',
      'proc/self/status': 'CapEff:\t0000000000000000\n',
      'proc/meminfo': 'MemAvailable: 1048576 kB\n',
      'sys/kernel/mm/transparent_hugepage/enabled': 'always madvise [never]\n',
      'sys/devices/system/cpu/cpu0/cpufreq/scaling_driver': 'acpi-cpufreq\n',
      'sys/devices/system/cpu/cpu0/cpufreq/scaling_governor': 'powersave\n',
      'sys/devices/system/node/node0/cpulist': '0-3\n',
      'sys/devices/system/node/node0/meminfo': 'Node 0 MemTotal:  4 kB\n',
    })
    expect(hostOf(machine, root)).toEqual({
      identity: 'abc',
      kernel: '6.8.0-1',
      processor: {
        model: 'A Processor',
        online: 4,
        cores: 8,
        machineCores: 2,
        instructionSet: 'avx512',
        features: ['avx2', 'fma', 'avx512f'],
        clock: { driver: 'acpi-cpufreq', governor: 'powersave' },
        nodes: [{ node: 0, processors: '0-3', bytes: 4096 }],
      },
      memory: {
        bytes: 64 * GIB,
        availableBytes: GIB,
        groupBytes: null,
        lockableBytes: 8388608,
        hugePages: 'never',
      },
      allowsUring: true,
    })
  })

  it.each<[string, Record<string, string>, number | null]>([
    ['unlimited', { 'proc/self/limits': 'Max locked memory  unlimited  unlimited  bytes' }, null],
    ['whoever may lock', { 'proc/self/uid_map': '         0          0 4294967295' }, null],
    ['root of a container', { 'proc/self/uid_map': '         0     100000      65536' }, 65536],
  ])('locks what it may: %s', (_, files, expected) => {
    write({
      'proc/self/limits': 'Max locked memory         65536         65536         bytes',
      'proc/self/status': 'CapEff:\t000001ffffffffff\n',
      ...files,
    })
    expect(hostOf(machine, root).memory.lockableBytes).toBe(expected)
  })

  it('knows a limit of its control group from the number that says there is none', () => {
    const limit = 'sys/fs/cgroup/memory/memory.limit_in_bytes'
    write({
      'proc/self/cgroup': '4:memory:/\n',
      [limit]: '9223372036854771712\n',
      'sys/fs/cgroup/memory/memory.usage_in_bytes': '1000\n',
    })
    expect(hostOf(machine, root).memory.groupBytes).toBeNull()
    write({ [limit]: '5000\n' })
    expect(hostOf(machine, root).memory.groupBytes).toBe(4000)
  })

  it.each([
    ['0', true],
    ['1', false],
    ['2', false],
  ])('io_uring_disabled %s', (text, expected) => {
    write({ 'proc/sys/kernel/io_uring_disabled': `${text}\n` })
    expect(hostOf(machine, root).allowsUring).toBe(expected)
  })

  it('io_uring_disabled 1 does not bind who runs the machine', () => {
    write({
      'proc/sys/kernel/io_uring_disabled': '1\n',
      'proc/self/status': 'CapEff:\t000001ffffffffff\n',
      'proc/self/uid_map': '         0          0 4294967295',
    })
    expect(hostOf(machine, root).allowsUring).toBe(true)
    write({ 'proc/sys/kernel/io_uring_disabled': '2\n' })
    expect(hostOf(machine, root).allowsUring).toBe(false)
  })
})

describe('the drive under a folder', () => {
  /** A folder, and the mount table that it lies in. */
  function mounted(...lines: string[]): string {
    const folder = join(root, 'my models/deep')
    fs.mkdirSync(folder, { recursive: true })
    write({ 'proc/self/mountinfo': `${lines.join('\n')}\n` })
    return folder
  }

  const above = '20 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro'
  const mount = (source: string, fileSystem = 'xfs') =>
    `30 20 259:3 / ${join(root, 'my models').replaceAll(' ', '\\040')} rw,noatime shared:2 - ${fileSystem} ${source} rw,noatime,attr2`

  it('is that of the deepest mount, and of the last that was mounted there', () => {
    const folder = mounted(above, mount('/dev/old'), mount('server:/share', 'nfs4'), above)
    expect(driveOf(folder, root)).toMatchObject({
      mountPoint: join(root, 'my models'),
      source: 'server:/share',
      fileSystem: 'nfs4',
      options: ['rw', 'noatime', 'attr2'],
      layers: [],
      disks: [],
    })
    expect(driveOf(root, root)).toMatchObject({ mountPoint: '/', source: '/dev/sda1' })
  })

  it('is followed through volume and encryption to an NVMe drive on its slot', () => {
    const card = 'sys/devices/pci0/0000:01:00.0'
    const disk = `${card}/nvme/nvme0/nvme0n1`
    link('dev/mapper/models', 'dev/dm-1')
    write({
      'dev/dm-1': '',
      'sys/devices/virtual/block/dm-1/dm/uuid': 'LVM-abc\n',
      'sys/devices/virtual/block/dm-0/dm/uuid': 'CRYPT-LUKS2-abc-x\n',
      [`${disk}/nvme0n1p3/partition`]: '3\n',
      [`${disk}/queue/rotational`]: '0\n',
      [`${disk}/queue/scheduler`]: '[none] mq-deadline kyber\n',
      [`${card}/nvme/nvme0/model`]: 'FAST DRIVE 4TB   \n',
      [`${card}/nvme/nvme0/serial`]: 'S1234\n',
      [`${card}/nvme/nvme0/hwmon2/temp1_input`]: '71850\n',
      [`${card}/nvme/nvme0/hwmon2/temp1_max`]: '81850\n',
      [`${card}/current_link_width`]: '2\n',
      [`${card}/max_link_width`]: '4\n',
      [`${card}/current_link_speed`]: '8.0 GT/s PCIe\n',
      [`${card}/max_link_speed`]: '16.0 GT/s PCIe\n',
    })
    link(`${disk}/device`, `${card}/nvme/nvme0`)
    link(`${card}/nvme/nvme0/device`, card)
    link('sys/class/block/dm-1', 'sys/devices/virtual/block/dm-1')
    link('sys/class/block/dm-0', 'sys/devices/virtual/block/dm-0')
    link('sys/class/block/nvme0n1p3', `${disk}/nvme0n1p3`)
    link('sys/devices/virtual/block/dm-1/slaves/dm-0', 'sys/devices/virtual/block/dm-0')
    link('sys/devices/virtual/block/dm-0/slaves/nvme0n1p3', `${disk}/nvme0n1p3`)
    const { layers, disks, key } = driveOf(mounted(above, mount('/dev/mapper/models')), root)
    expect(layers).toEqual(['lvm', 'crypt'])
    expect(disks).toEqual([
      {
        name: 'nvme0n1',
        model: 'FAST DRIVE 4TB',
        serial: 'S1234',
        hasHeads: false,
        scheduler: 'none',
        celsius: 71.85,
        celsiusMost: 81.85,
        link: { lanes: 2, lanesMost: 4, speed: 8, speedMost: 16 },
      },
    ])
    expect(key).toContain('S1234')
  })

  it('is an array of disks, of which each is told', () => {
    write({ 'dev/md0': '', 'sys/class/block/md0/md/level': 'raid0\n' })
    for (const name of ['sda', 'sdb']) {
      write({ [`sys/class/block/${name}/queue/rotational`]: '1\n' })
      link(`sys/class/block/md0/slaves/${name}`, `sys/class/block/${name}`)
    }
    const { layers, disks } = driveOf(mounted(above, mount('/dev/md0')), root)
    expect(layers).toEqual(['raid0'])
    expect(disks.map(({ name, hasHeads }) => [name, hasHeads])).toEqual([
      ['sda', true],
      ['sdb', true],
    ])
  })

  it('of this machine has room and a file system', () => {
    const { bytes, freeBytes, fileSystem } = driveOf(root)
    expect(bytes).toBeGreaterThan(freeBytes)
    expect(fileSystem).not.toBe('unknown')
  })
})

describe('graphics processors', () => {
  it('are what nvidia-smi lists', () => {
    const text = 'NVIDIA H200, 143771, 143000, 8, 16, 1, 5\nOther, 24564, 24000, [N/A], 16, 4, 4\n'
    const [one, other] = gpusIn(text)
    expect(one).toEqual({
      name: 'NVIDIA H200',
      bytes: 143771 * MIB,
      freeBytes: 143000 * MIB,
      link: { lanes: 8, lanesMost: 16, generation: 1, generationMost: 5 },
    })
    expect(other).toMatchObject({ name: 'Other', link: { lanes: Number.NaN, lanesMost: 16 } })
  })

  it('are none where there is no such program, and a problem where it fails', async () => {
    expect(await findGpus(join(root, 'nowhere'))).toEqual({ gpus: [], problem: null })
    const program = join(root, 'smi')
    fs.writeFileSync(program, '#!/bin/sh\necho "Failed to initialize NVML"\nexit 9\n', {
      mode: 0o755,
    })
    expect(await findGpus(program)).toEqual({ gpus: [], problem: 'Failed to initialize NVML' })
  })
})
