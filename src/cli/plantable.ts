// A plan for a person at a terminal: what the model is, then a row for each figure and a column for each machine,
// then which of it was measured and which assumed. Knows the words only.
import type { Bottleneck, DecodePlan } from '../plan/decode.js'
import type { Fit } from '../plan/fit.js'
import type { Range } from '../plan/fitted.js'
import type { Forecast } from '../plan/forecast.js'
import {
  type MachineName,
  machineNames,
  type PlannedMachine,
  type Source,
} from '../plan/machine.js'
import type { Column, Planned } from './plan.js'
import { sizeText } from './progress.js'

/** Lines of text, the last one ended. */
export function planTable(planned: Planned): string {
  const { columns } = planned
  const rows = [
    ['', ...columns.map(({ name }) => name)],
    ...machineRows(columns),
    [],
    ...figureRows(planned),
  ]
  const widths = columns.map((_, at) => Math.max(...rows.map((row) => row[at + 1]?.length ?? 0)))
  const text = rows.map((row) =>
    row
      .map((cell, at) => cell.padEnd(at === 0 ? titleWidth : (widths[at - 1] ?? 0)))
      .join('  ')
      .trimEnd(),
  )
  return [...headLines(planned), '', ...text, ...problemLines(columns), '', ...footLines(planned)]
    .map((line) => `${line}\n`)
    .join('')
}

const titleWidth = 24

function headLines({ model, subject }: Planned): string[] {
  const { geometry } = subject
  const { moeLayers, experts, topK, expert, sizes, layers, kvBytesPerLayer } = geometry
  return [
    `${model.name}, by ${model.facts}: ${count(sizes.experts)} experts of ${sizeText(expert.bytes)} in ${moeLayers} layers, ${topK} of ${experts} for a token in each`,
    `${sizeText(sizes.expertBytes)} of experts, ${sizeText(sizes.denseBytes)} that every token needs, ${sizeText(layers * kvBytesPerLayer)} of keys and values a token; a token wants ${sizeText(moeLayers * topK * expert.bytes)} of experts`,
  ]
}

function machineRows(columns: readonly Column[]): string[][] {
  const of = (title: string, text: (machine: PlannedMachine) => string) => [
    title,
    ...columns.map(({ machine }) => text(machine)),
  ]
  const hasGpu = columns.some(({ machine }) => machine.gpu.value > 0)
  return [
    of('memory free', ({ ram, memory }) => `${sizeText(ram.value)} at ${sizeText(memory.value)}/s`),
    of('cores', ({ cores }) => String(cores.value)),
    of('drives', ({ drive, drives }) => `${drives.value} of ${sizeText(drive.value)}/s`),
    ...(hasGpu
      ? [
          of('GPU', ({ gpu, vram, copy }) =>
            gpu.value === 0
              ? 'none'
              : `${sizeText(gpu.value)} at ${sizeText(vram.value)}/s, link ${sizeText(copy.value)}/s`,
          ),
        ]
      : []),
  ]
}

function figureRows({ columns, wishes, subject }: Planned): string[][] {
  const of = (title: string, text: (forecast: Forecast) => string) => [
    title,
    ...columns.map(({ forecast }) => ('problem' in forecast ? 'does not fit' : text(forecast))),
  ]
  const all = subject.geometry.sizes.experts
  const hasGpu = columns.some(({ machine }) => machine.gpu.value > 0)
  return [
    ...(hasGpu ? [of('in the GPU', ({ fit }) => gpuText(fit))] : []),
    of('in memory', ({ fit }) => ramText(fit, all)),
    of('on the drive only', ({ fit }) => `${count(fit.onDrive)} experts`),
    of('context', ({ fit }) => `${count(fit.memory.contextTokens)} positions`),
    of('ready to answer after', ({ startSeconds }) => secondsText(startSeconds)),
    [],
    of('experts found in memory', ({ decode }) => percents(decode.hitRate)),
    of('read for a token', ({ decode }) => sizeText(decode.readBytes)),
    ...(hasGpu ? [of('copied for a token', ({ decode }) => sizeText(decode.copiedBytes))] : []),
    of('tokens/s', ({ decode }) => spread(decode.tokensPerSecond, figure)),
    of('  bound by', ({ decode }) => boundText(decode)),
    of(`first token of ${count(wishes.promptTokens)}`, ({ prompt }) =>
      spread(prompt.seconds, secondsText),
    ),
    of('  bound by', ({ prompt }) => names[prompt.bottleneck]),
    ...wishes.batches.flatMap((sequences, at) => [
      of(`tokens/s, ${sequences} at once`, ({ batches }) => {
        const batch = batches[at]
        if (batch === undefined || 'problem' in batch) return 'do not fit'
        return spread(batch.tokensPerSecond, figure)
      }),
      of('  bound by', ({ batches }) => {
        const batch = batches[at]
        return batch === undefined || 'problem' in batch ? '-' : names[batch.bottleneck]
      }),
    ]),
  ]
}

const names: Readonly<Record<Bottleneck, string>> = {
  drive: 'the drive',
  memory: 'reading memory',
  processor: 'the processor',
  link: 'the link to the GPU',
  gpu: "the GPU's memory",
}

function boundText({ bottleneck, stallSeconds, computeSeconds }: DecodePlan): string {
  const share = stallSeconds / (stallSeconds + computeSeconds)
  const of = bottleneck === 'drive' || bottleneck === 'link' ? share : 1 - share
  return `${names[bottleneck]}, ${Math.round(100 * of)} % of the time`
}

function gpuText({ isOnGpu, slots, residentBytes }: Fit): string {
  if (!isOnGpu) return 'nothing: too small'
  return `${sizeText(residentBytes.gpu)} for every token, ${count(slots.gpu)} experts`
}

function ramText({ slots, slotBytes, residentBytes }: Fit, all: number): string {
  const share = ((100 * slots.ram) / all).toFixed(1)
  return `${sizeText(residentBytes.ram)} and ${count(slots.ram)} experts (${share} %), ${sizeText(slots.ram * slotBytes)}`
}

function problemLines(columns: readonly Column[]): string[] {
  return columns.flatMap(({ name, forecast }) =>
    'problem' in forecast ? [`${name}: ${forecast.problem}`] : [],
  )
}

/** What a person has to know of how sure this is. */
function footLines({ subject, columns }: Planned): string[] {
  const [first] = columns
  const { kind, routing } = subject.routing
  const listed = (source: Source) =>
    machineNames.filter(
      (name) => first?.machine[name].source === source && (name !== 'gpu' || hasGpu),
    )
  const hasGpu = columns.some(({ machine }) => machine.gpu.value > 0)
  const isOfGpu = (name: MachineName) => name === 'gpu' || name === 'vram' || name === 'copy'
  const line = (title: string, source: Source) => {
    const found = listed(source).filter((name) => hasGpu || !isOfGpu(name))
    return found.length === 0 ? [] : [`${title}: ${found.join(', ')}`]
  }
  return [
    ...line('Measured here', 'measured'),
    ...line('Told by the system', 'told'),
    ...line('Given', 'given'),
    ...line('Assumed', 'assumed'),
    kind === 'recorded'
      ? `Hits and waiting: rehearsed on the trace ${basename(routing.name)}, recorded from ${routing.model}`
      : 'Hits and waiting: rehearsed on made-up routing of such layers (assumed); --routing takes a recorded one',
    'In brackets: misses, drive and computing as bad and as good as was seen; see docs/expectations.md',
    ...(hasGpu ? ['A GPU: assumed; this program was not measured on one yet'] : []),
  ]
}

function basename(path: string): string {
  return path.split('/').at(-1) ?? path
}

function spread(range: Range, text: (value: number) => string): string {
  const [least, most] = [Math.min(range.low, range.high), Math.max(range.low, range.high)]
  return `${text(range.likely)} [${text(least)} to ${text(most)}]`
}

function percents({ low, likely, high }: Range): string {
  const of = (share: number) => `${Math.round(100 * share)}`
  return `${of(likely)} % [${of(low)} to ${of(high)}]`
}

/** Three digits, or all before the point. */
export function figure(value: number): string {
  return value >= 100 ? value.toFixed(0) : value.toPrecision(3)
}

function secondsText(seconds: number): string {
  return seconds < 60 ? `${figure(seconds)} s` : `${(seconds / 60).toPrecision(2)} min`
}

function count(value: number): string {
  return value.toLocaleString('en-US')
}
