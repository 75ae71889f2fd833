// What of a machine costs speed, and what helps. Pure: what was found and measured in, sentences out, the
// dearest first. What is as it should be is not mentioned.
import type { Disk, Drive } from './drives.js'
import type { Gpu } from './gpu.js'
import type { Host } from './host.js'
import type { DriveMeasure } from './machine.js'

export interface Finding {
  /** What it is about: a mount point, memory, processor, kernel, or the name of a GPU. */
  readonly about: string
  /** What costs speed. */
  readonly found: string
  readonly remedy: string
  /** For a shell; null where the remedy is none that can be typed. */
  readonly command: string | null
}

const GB = 1e9
/** Below this a drive is slower than the slowest NVMe drives that are sold. */
const slowDrive = 2 * GB
/** Degrees at which drives begin to slow down where they do not say it themselves, and how near is near. */
const hotCelsius = 75
const nearCelsius = 5
/** What 32 reads of 4 MiB need to be registered. */
const leastLockable = 128 * 2 ** 20

export interface ExaminedDrive {
  readonly drive: Drive
  /** Null where it could not be measured. */
  readonly reads: DriveMeasure | null
  /** Why not. */
  readonly problem: string | null
}

export function findingsOf(
  host: Host,
  drives: readonly ExaminedDrive[],
  gpus: readonly Gpu[],
): Finding[] {
  return [
    ...drives.flatMap(ofFileSystem),
    ...drives.flatMap(ofDisks),
    ...ofReader(host, drives),
    ...ofMemory(host),
    ...ofProcessor(host),
    ...gpus.flatMap(ofGpu),
  ]
}

const remote = /^(?:nfs4?|cifs|smb3|9p|virtiofs|ceph|glusterfs|lustre|fuse\.(?:sshfs|s3fs|rclone))$/

function ofFileSystem({ drive, reads }: ExaminedDrive): Finding[] {
  const { mountPoint: about, fileSystem, options, layers } = drive
  const findings: Finding[] = []
  const add = (found: string, remedy: string, command: string | null = null) =>
    findings.push({ about, found, remedy, command })
  if (remote.test(fileSystem)) {
    add(`${fileSystem} is a file system of another machine`, 'hold models on a drive of this one')
  }
  if (/^(?:tmpfs|ramfs)$/.test(fileSystem)) {
    add(`what lies in ${fileSystem} takes memory that experts could have`, 'hold models on a drive')
  } else if (reads?.reader.includes('page cache')) {
    add(
      `${fileSystem} lets nothing be read past the page cache`,
      'hold models on ext4, xfs or btrfs, which do',
    )
  }
  const compression = options.find((option) => /^compress(?:-force)?=/.test(option))
  if (compression !== undefined) {
    add(
      `${compression} makes the kernel unpack what is read`,
      'switch it off for the folder of models before they are fetched',
      `btrfs property set ${quoted(drive.folder)} compression none`,
    )
  }
  if (layers.includes('crypt')) {
    add(
      'the drive is encrypted, and its reads wait in queues of the kernel',
      'let reads pass the queues, or hold models on a drive that is not encrypted: they are no secret',
      `sudo cryptsetup refresh --perf-no_read_workqueue --persistent ${quoted(drive.source.replace('/dev/mapper/', ''))}`,
    )
  }
  return findings
}

function ofDisks({ drive, reads }: ExaminedDrive): Finding[] {
  const findings = drive.disks.flatMap((disk) => ofDisk(drive.mountPoint, disk))
  const rate = reads === null ? Number.POSITIVE_INFINITY : reads.bytesPerSecond
  if (rate >= slowDrive) return findings
  const hasHeads = drive.disks.some((disk) => disk.hasHeads)
  const slow = {
    about: drive.mountPoint,
    found: `gives ${gigabytes(rate)}/s${hasHeads ? ' from a disk with moving heads' : ''}; NVMe drives give 3 to 14 GB/s`,
    remedy:
      'hold models on a faster drive, or copies of them on several, read at once: --mirror DIR, or pull --dir A --dir B',
    command: null,
  }
  return [slow, ...findings]
}

function ofDisk(about: string, disk: Disk): Finding[] {
  const { name, scheduler, celsius, celsiusMost, link } = disk
  const findings: Finding[] = []
  const add = (found: string, remedy: string, command: string | null = null) =>
    findings.push({ about, found, remedy, command })
  if (link !== null && link.lanes < link.lanesMost) {
    add(
      `${name} has ${link.lanes} of the ${link.lanesMost} PCIe lanes it could use`,
      'put it into another slot: the manual of the board says which have all lanes',
    )
  }
  if (link !== null && link.speed < link.speedMost) {
    add(
      `${name} runs at ${link.speed} of the ${link.speedMost} GT/s it could`,
      'put it into a faster slot, or look in the firmware of the board for a limit on its speed',
    )
  }
  const hot = (celsiusMost ?? hotCelsius) - nearCelsius
  if (celsius !== null && celsius >= hot) {
    add(
      `${name} has ${celsius} °C and slows down to cool`,
      'give it a heat sink or a fan; long runs keep it reading all the time',
    )
  }
  if (/^nvme/.test(name) && scheduler !== null && scheduler !== 'none') {
    add(
      `${name} has its reads put into order by ${scheduler}, which such a drive does better itself`,
      'hand them on as they come',
      `echo none | sudo tee /sys/block/${name}/queue/scheduler`,
    )
  }
  return findings
}

function ofReader(host: Host, drives: readonly ExaminedDrive[]): Finding[] {
  const readers = drives.map(({ reads }) => reads?.reader ?? '')
  const without = readers.find((reader) => /no io_uring|without liburing/.test(reader))
  const isUsed = readers.some((reader) => reader.startsWith('io_uring'))
  // What was read is surer than what a setting says.
  if (isUsed || (without === undefined && host.allowsUring)) return ofLocking(host, readers)
  const about = 'kernel'
  const found = 'reads go through threads, at three times the processor time of io_uring'
  if (!host.allowsUring) {
    const command = 'sudo sysctl -w kernel.io_uring_disabled=0'
    return [{ about, found: `io_uring is switched off: ${found}`, remedy: 'allow it', command }]
  }
  const isNotBuilt = /liburing/.test(without ?? '')
  return [
    {
      about,
      found,
      remedy: isNotBuilt
        ? 'install liburing and build again'
        : 'a container usually forbids it: start it with a seccomp profile that allows io_uring',
      command: isNotBuilt
        ? 'sudo apt-get install -y liburing-dev && npm start'
        : 'docker run --security-opt seccomp=unconfined ...',
    },
  ]
}

/** Expert slots are locked, and registered with the kernel, as far as this user may lock. */
function ofLocking({ memory }: Host, readers: readonly string[]): Finding[] {
  const { lockableBytes: lockable } = memory
  const isRefused = readers.some((reader) => /not registered|buffers registered \(/.test(reader))
  const isLittle = lockable !== null && lockable < leastLockable
  if (!isRefused && !isLittle) return []
  return [
    {
      about: 'memory',
      found: `${lockable === null ? 'not all memory' : `no more than ${mebibytes(lockable)}`} may be locked: slots may be swapped out, and each read has its pages looked up`,
      remedy: 'raise the limit and log in anew (under systemd: LimitMEMLOCK=infinity)',
      command:
        'echo "$USER - memlock unlimited" | sudo tee /etc/security/limits.d/ring-offload.conf',
    },
  ]
}

function ofMemory({ memory, processor }: Host): Finding[] {
  const findings: Finding[] = []
  const add = (found: string, remedy: string, command: string | null = null) =>
    findings.push({ about: 'memory', found, remedy, command })
  if (memory.groupBytes !== null) {
    add(
      `a control group leaves ${gigabytes(memory.groupBytes)} of the ${gigabytes(memory.bytes)} of this machine`,
      'raise its limit: every GB more holds more experts (docker run --memory, systemd MemoryMax)',
    )
  }
  if (memory.hugePages === 'never') {
    add(
      'huge pages are switched off: weights are looked up in pages of 4 KiB',
      'let programs ask for them',
      'echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled',
    )
  }
  if (processor.nodes.length > 1) {
    add(
      `memory hangs on ${processor.nodes.length} nodes, and a core reads that of others more slowly`,
      'spread what is allocated over all of them',
      'numactl --interleave=all npx ring-offload ...',
    )
  }
  return findings
}

function ofProcessor({ processor }: Host): Finding[] {
  const { cores, machineCores, clock, instructionSet, features } = processor
  const findings: Finding[] = []
  const add = (found: string, remedy: string, command: string | null = null) =>
    findings.push({ about: 'processor', found, remedy, command })
  if (cores < machineCores) {
    add(
      `this process may use ${cores} of ${machineCores} cores`,
      'widen its affinity or its quota (taskset, docker run --cpus, systemd CPUQuota)',
    )
  }
  const isSlow = clock?.governor === 'powersave' && !/pstate/.test(clock.driver)
  if (isSlow || clock?.governor === 'conservative') {
    add(
      `the governor ${clock?.governor} keeps clocks low`,
      'let them rise',
      'sudo cpupower frequency-set -g performance',
    )
  }
  const hasAvx512 = features.includes('avx512f') && features.includes('avx512bw')
  if ((hasAvx512 && !instructionSet.startsWith('avx512')) || isPlain(processor)) {
    add(
      `the processor could do more than ${instructionSet}, for which this program was built`,
      'build again with a compiler that knows its instructions',
      'sudo apt-get install -y g++ && npm start',
    )
  }
  return findings
}

function isPlain({ features, instructionSet }: Host['processor']): boolean {
  return features.includes('avx2') && features.includes('fma') && instructionSet === 'portable'
}

function ofGpu({ name: about, link }: Gpu): Finding[] {
  if (!(link.lanes < link.lanesMost)) return []
  return [
    {
      about,
      found: `has ${link.lanes} of the ${link.lanesMost} PCIe lanes it could use`,
      remedy: 'put it into another slot: the manual of the board says which have all lanes',
      command: null,
    },
  ]
}

function gigabytes(bytes: number): string {
  return `${(bytes / GB).toPrecision(3)} GB`
}

function mebibytes(bytes: number): string {
  return `${Math.floor(bytes / 2 ** 20)} MiB`
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`
}
