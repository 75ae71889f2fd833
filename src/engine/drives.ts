// What lies under a folder: the mount it is in, its file system, the disks below it and what the system
// tells of them. Nothing is measured. Partitions, encryption, volumes and arrays are followed down to the
// disks. Tests give another root than / for /proc and /sys.
import fs from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { namesIn, told, toldNumber } from './systemfile.js'

export interface Drive {
  /** The folder it was found under, links followed. */
  readonly folder: string
  /** Tells it apart from the other drives of the machine, from one run to the next. */
  readonly key: string
  readonly mountPoint: string
  /** What is mounted: a device, a share of another machine, or a word. */
  readonly source: string
  readonly fileSystem: string
  readonly options: readonly string[]
  readonly bytes: number
  readonly freeBytes: number
  /** What lies between file system and disks, from the top: crypt, lvm, raid0 and their like. */
  readonly layers: readonly string[]
  readonly disks: readonly Disk[]
}

export interface Disk {
  readonly name: string
  /** Null where it is not told, here and below. */
  readonly model: string | null
  readonly serial: string | null
  readonly hasHeads: boolean
  /** The order in which the kernel hands requests on. */
  readonly scheduler: string | null
  readonly celsius: number | null
  /** From there on it slows itself down. */
  readonly celsiusMost: number | null
  readonly link: Link | null
}

/** How a card hangs on the bus now, and how it could. */
export interface Link {
  readonly lanes: number
  readonly lanesMost: number
  /** Gigatransfers per second of a lane. */
  readonly speed: number
  readonly speedMost: number
}

const virtual = /^(?:vd|xvd|loop|zram)/

/** Throws the system's error where there is no such folder. */
export function driveOf(folder: string, root = '/'): Drive {
  const real = fs.realpathSync(folder)
  const mount = mountOf(real, told(join(root, 'proc/self/mountinfo')))
  const { bsize, blocks, bavail } = fs.statfsSync(real)
  const { layers, disks } = below(deviceName(mount.source, root), root)
  const serials = disks.map(({ name, serial }) => serial ?? name)
  return {
    folder: real,
    key: [mount.source, mount.mountPoint, mount.fileSystem, ...serials].join(' '),
    ...mount,
    bytes: blocks * bsize,
    freeBytes: bavail * bsize,
    layers,
    disks,
  }
}

interface Mount {
  readonly mountPoint: string
  readonly source: string
  readonly fileSystem: string
  readonly options: readonly string[]
}

/** The mount that a path is in: the deepest, and of several in one place the last. */
function mountOf(path: string, table: string): Mount {
  let found: Mount = { mountPoint: '/', source: 'unknown', fileSystem: 'unknown', options: [] }
  for (const line of table.split('\n')) {
    // Before the dash: where it is mounted, and how; behind it: what is.
    const [before = '', behind = ''] = line.split(' - ')
    const mountPoint = unescaped(before.split(' ')[4] ?? '')
    const isAbove = mountPoint === '/' || path === mountPoint || path.startsWith(`${mountPoint}/`)
    if (mountPoint === '' || !isAbove || mountPoint.length < found.mountPoint.length) continue
    const [fileSystem = '', source = '', more = ''] = behind.split(' ')
    const options = [...(before.split(' ')[5] ?? '').split(','), ...more.split(',')]
    found = {
      mountPoint,
      source: unescaped(source),
      fileSystem,
      options: [...new Set(options.filter((option) => option !== ''))],
    }
  }
  return found
}

/** Blanks stand as \040. */
function unescaped(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, digits) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  )
}

/** The kernel's name of a block device: nvme0n1p2 of /dev/nvme0n1p2, dm-0 of /dev/mapper/home. */
function deviceName(source: string, root: string): string | null {
  if (!source.startsWith('/dev/')) return null
  try {
    return basename(fs.realpathSync(join(root, source)))
  } catch {
    return basename(source)
  }
}

function below(name: string | null, root: string): Pick<Drive, 'layers' | 'disks'> {
  const folder = name === null ? null : blockFolder(name, root)
  if (name === null || folder === null) return { layers: [], disks: [] }
  const parts = namesIn(join(folder, 'slaves'))
  if (parts.length === 0) return { layers: [], disks: [diskIn(folder)] }
  const under = parts.map((part) => below(part, root))
  return {
    layers: [layerName(folder), ...(under[0]?.layers ?? [])],
    disks: under.flatMap(({ disks }) => disks),
  }
}

/** Where the system tells about a device, of a partition the disk that it is on. */
function blockFolder(name: string, root: string): string | null {
  try {
    const folder = fs.realpathSync(join(root, 'sys/class/block', name))
    return fs.existsSync(join(folder, 'partition')) ? dirname(folder) : folder
  } catch {
    return null
  }
}

/** crypt of CRYPT-LUKS2-..., raid1 of an array, else the device's own name. */
function layerName(folder: string): string {
  const level = told(join(folder, 'md/level'))
  const kind = told(join(folder, 'dm/uuid')).split('-')[0]?.toLowerCase() ?? ''
  return level || kind || basename(folder)
}

function diskIn(folder: string): Disk {
  const card = firstThere(
    ['device/device', 'device'].map((name) => join(folder, name)),
    ['current_link_width'],
  )
  return {
    name: basename(folder),
    model: told(join(folder, 'device/model')) || null,
    serial: told(join(folder, 'device/serial')) || told(join(folder, 'wwid')) || null,
    // Of a virtual disk this is what nobody has set.
    hasHeads: !virtual.test(basename(folder)) && told(join(folder, 'queue/rotational')) === '1',
    scheduler: /\[([\w-]+)\]/.exec(told(join(folder, 'queue/scheduler')))?.[1] ?? null,
    ...temperatureIn(folder),
    link: card === null ? null : linkOf(card),
  }
}

/** The first of the folders that has one of the files. */
function firstThere(folders: readonly string[], files: readonly string[]): string | null {
  const found = folders.find((folder) => files.some((file) => told(join(folder, file)) !== ''))
  return found ?? null
}

/** Sensors hang on the drive or on its card, in a folder of their own in older kernels. */
function temperatureIn(folder: string): Pick<Disk, 'celsius' | 'celsiusMost'> {
  const places = ['device', 'device/hwmon', 'device/device', 'device/device/hwmon'].flatMap(
    (place) => namesIn(join(folder, place), 'hwmon').map((name) => join(folder, place, name)),
  )
  const sensor = firstThere(places, ['temp1_input'])
  if (sensor === null) return { celsius: null, celsiusMost: null }
  const degrees = (name: string) => {
    const thousandths = toldNumber(join(sensor, name))
    return thousandths === null ? null : thousandths / 1000
  }
  return { celsius: degrees('temp1_input'), celsiusMost: degrees('temp1_max') }
}

/** Of a card on the PCI bus; "16.0 GT/s PCIe" is a speed. */
function linkOf(card: string): Link | null {
  const [lanes, lanesMost] = ['current_link_width', 'max_link_width'].map((name) =>
    toldNumber(join(card, name)),
  )
  const [speed = 0, speedMost = 0] = ['current_link_speed', 'max_link_speed'].map((name) =>
    Number.parseFloat(told(join(card, name))),
  )
  if (!lanes || !lanesMost || !(speed > 0) || !(speedMost > 0)) return null
  return { lanes, lanesMost, speed, speedMost }
}
