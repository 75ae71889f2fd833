// What `doctor` found, for a person: this machine, its drives with a small table of rates each, and what
// would make it faster. Knows the words only.
import type { GpuBackend } from '../engine/backend.js'
import type { Examination } from '../engine/doctor.js'
import type { Disk, Drive } from '../engine/drives.js'
import type { FoundGpus } from '../engine/gpu.js'
import type { Host } from '../engine/host.js'
import type { ComputingMeasure, DriveMeasure, MemoryMeasure } from '../engine/machine.js'
import type { ExaminedDrive, Finding } from '../engine/remedies.js'
import { oneLine } from './failure.js'
import { sizeText } from './progress.js'

type Row = readonly [name: string, value: string]

/** Lines of text, the last one ended. */
export function examinationText(found: Examination): string {
  const { host, memory, computing, drives, graphics, cuda, findings } = found
  const parts = [
    rowsText([
      ...machineRows(host, memory, computing),
      ...gpuRows(graphics),
      ['CUDA', cudaText(cuda)],
    ]),
    ...drives.map((one) => `${rowsText(driveRows(one))}${one.reads ? ratesText(one.reads) : ''}`),
    findingsText(findings),
  ]
  return parts.join('\n')
}

function rowsText(rows: readonly Row[]): string {
  return rows.map(([name, value]) => `${name.padEnd(NAME_WIDTH)}${oneLine(value)}\n`).join('')
}

const NAME_WIDTH = 12

function machineRows(host: Host, measured: MemoryMeasure, computing: ComputingMeasure): Row[] {
  const { processor, memory, kernel, allowsUring } = host
  const { model, cores, machineCores, online, instructionSet, nodes } = processor
  const all = cores === machineCores ? `${cores} cores` : `${cores} of ${machineCores} cores`
  const clock = processor.clock === null ? '' : `, governor ${processor.clock.governor}`
  const group =
    memory.groupBytes === null ? '' : `; a control group leaves ${sizeText(memory.groupBytes)}`
  const lockable = memory.lockableBytes === null ? 'all' : sizeText(memory.lockableBytes)
  return [
    ['processor', `${model}, ${all}, ${online} processors${clock}`],
    ['computes by', `${instructionSet} (has ${processor.features.join(', ') || 'none of ours'})`],
    ['', computingText(computing, measured)],
    [
      'memory',
      `${sizeText(memory.availableBytes)} of ${sizeText(memory.bytes)} free${group}; ` +
        `${nodes.length > 1 ? `${nodes.length} nodes; ` : ''}lockable: ${lockable}; huge pages: ${memory.hugePages ?? 'not told'}`,
    ],
    ['', `read at ${sizeText(measured.bytesPerSecond)}/s (${dateText(measured.measured)})`],
    ['kernel', `${kernel}, io_uring ${allowsUring ? 'allowed' : 'switched off'}`],
  ]
}

/** Of a step of one token what counts is how much of reading memory its products are; of many, how many there are. */
function computingText(
  {
    productsPerSecond,
    bf16ProductsPerSecond,
    oneTokenBytesPerSecond,
    threads,
    measured,
  }: ComputingMeasure,
  memory: MemoryMeasure,
): string {
  const billions = (rate: number) => `${(rate / 1e9).toPrecision(3)} billion`
  const bf16 =
    bf16ProductsPerSecond === null ? '' : `, ${billions(bf16ProductsPerSecond)} with --math bf16`
  const share = Math.round((100 * oneTokenBytesPerSecond) / memory.bytesPerSecond)
  const by = threads === 1 ? '1 thread' : `${threads} threads`
  return (
    `${billions(productsPerSecond)} products a second by ${by} for many tokens${bf16}; ` +
    `for one, weights at ${sizeText(oneTokenBytesPerSecond)}/s, ${share} % of reading memory (${dateText(measured)})`
  )
}

function gpuRows({ gpus, problem }: FoundGpus): Row[] {
  if (problem !== null) return [['GPU', `nvidia-smi failed: ${problem}`]]
  if (gpus.length === 0) return [['GPU', 'none found']]
  return gpus.map(({ name, bytes, freeBytes, link }) => [
    'GPU',
    `${name}, ${sizeText(freeBytes)} of ${sizeText(bytes)} free, ` +
      `PCIe ${link.generationMost} x${link.lanes} of x${link.lanesMost}`,
  ])
}

function cudaText(cuda: GpuBackend | string): string {
  if (typeof cuda === 'string') return `not used: ${cuda}`
  const { name, memoryBytes, freeBytes, computeMajor, computeMinor, driver } = cuda.probe
  return `computes on ${name}, ${sizeText(freeBytes)} of ${sizeText(memoryBytes)} free, compute capability ${computeMajor}.${computeMinor}, driver ${driver}`
}

function driveRows({ drive, reads, problem }: ExaminedDrive): Row[] {
  const { source, fileSystem, layers, options } = drive
  const over = layers.length === 0 ? '' : ` over ${layers.join(' over ')}`
  return [
    ['drive', `${drive.mountPoint} (${source}), ${fileSystem}${over}, ${roomText(drive)}`],
    ['', options.join(',')],
    ...drive.disks.map((disk): Row => ['disk', diskText(disk)]),
    reads === null
      ? ['reads', `not measured: ${problem}`]
      : [
          'reads',
          `${sizeText(reads.bytesPerSecond)}/s by ${reads.reader} (${dateText(reads.measured)})`,
        ],
    ...besideRows(reads),
  ]
}

function besideRows(reads: DriveMeasure | null): Row[] {
  if (!reads?.beside) return []
  const { bytesPerSecond, computing } = reads.beside
  const share = Math.round(100 * computing)
  return [
    [
      '',
      `${sizeText(bytesPerSecond)}/s while all cores compute, which then do ${share} % of what they do alone`,
    ],
  ]
}

function roomText({ bytes, freeBytes }: Drive): string {
  return `${sizeText(freeBytes)} of ${sizeText(bytes)} free`
}

function diskText(disk: Disk): string {
  const { name, model, hasHeads, scheduler, celsius, link } = disk
  const parts = [model === null ? name : `${name}, ${model}`]
  if (hasHeads) parts.push('moving heads')
  if (link !== null) parts.push(`PCIe x${link.lanes} at ${link.speed} GT/s`)
  if (scheduler !== null) parts.push(`scheduler ${scheduler}`)
  parts.push(celsius === null ? 'tells no temperature' : `${celsius} °C`)
  return parts.join(', ')
}

/** A line for each size, a column for each depth. */
function ratesText({ rates }: DriveMeasure): string {
  const depths = [...new Set(rates.map(({ depth }) => depth))]
  const sizes = [...new Set(rates.map(({ chunkBytes }) => chunkBytes))]
  const line = (name: string, cells: readonly string[]) =>
    `${''.padEnd(NAME_WIDTH)}${name.padEnd(10)}${cells.map((cell) => cell.padStart(11)).join('')}\n`
  const head = line(
    'burst of',
    depths.map((depth) => String(depth)),
  )
  const body = sizes.map((size) =>
    line(
      size >= 2 ** 20 ? `${size / 2 ** 20} MiB` : `${size / 1024} KiB`,
      depths.map((depth) => {
        const rate = rates.find((one) => one.chunkBytes === size && one.depth === depth)
        return rate === undefined ? '' : `${sizeText(rate.bytesPerSecond)}/s`
      }),
    ),
  )
  return [head, ...body].join('')
}

function findingsText(findings: readonly Finding[]): string {
  if (findings.length === 0) return 'Nothing was found that costs speed.\n'
  const lines = findings.flatMap(({ about, found, remedy, command }, index) => [
    oneLine(`${index + 1}. ${about}: ${found}`),
    `   ${oneLine(remedy)}`,
    ...(command === null ? [] : [`   $ ${oneLine(command)}`]),
  ])
  return ['What costs speed, and what helps:', ...lines].map((text) => `${text}\n`).join('')
}

/** To the day; older figures are measured anew by --fresh. */
function dateText(date: string): string {
  return `measured ${date.slice(0, 10)}`
}
