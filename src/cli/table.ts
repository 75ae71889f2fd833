// The figures of `inspect` for a person: one line each, names left, figures beside them. Knows the
// words only; what is counted and how is decided where the figures come from.
import type { Inspection } from './inspect.js'

/** Lines of text, the last one ended. */
export function inspectionTable(inspection: Inspection): string {
  const rows = [...modelRows(inspection), ...byteRows(inspection), ...machineRows(inspection)]
  const width = Math.max(...rows.map(([name]) => name.length))
  return rows.map(([name, value]) => `${name.padEnd(width)}  ${value}\n`).join('')
}

type Row = readonly [name: string, value: string]

function modelRows(inspection: Inspection): Row[] {
  const { parameters, layers, experts, context, tensors, shards } = inspection
  const announced =
    inspection.source === 'config' ? ' (config.json alone; there are no weights)' : ''
  const others = [
    tensors.skipped > 0 ? `${count(tensors.skipped)} of prediction layers skipped` : '',
    tensors.unknown > 0 ? `${count(tensors.unknown)} unknown` : '',
  ].filter((text) => text !== '')
  return [
    ['model', `${inspection.model}, ${inspection.architecture}${announced}`],
    [
      'parameters',
      `${parametersText(parameters.total)}, ${parametersText(parameters.active)} active for a token`,
    ],
    ['layers', `${layers.total}, ${layers.moe} of them with experts`],
    [
      'experts',
      `${count(experts.total)}: ${experts.per_layer} in a layer, ${experts.per_token_and_layer} chosen, ${experts.shared} shared`,
    ],
    [
      'context',
      context.yarn_factor === null
        ? `${count(context.positions)} positions`
        : `${count(context.positions)} positions, by YaRN with factor ${context.yarn_factor} from ${count(context.trained)}`,
    ],
    ['vocabulary', count(inspection.vocabulary)],
    ['quantisation', quantisationText(inspection)],
    [
      'tensors',
      [`${count(tensors.bound)} and ${count(tensors.scales)} scales`, ...others].join('; '),
    ],
    ...(shards === null
      ? []
      : [['shards', `${shards.count}, ${bytesText(shards.bytes)}`] satisfies Row]),
  ]
}

function byteRows({ bytes, kv_type }: Inspection): Row[] {
  return [
    ['dense weights', bytesText(bytes.dense)],
    ['one expert', bytesText(bytes.one_expert)],
    ['all experts', bytesText(bytes.all_experts)],
    ['experts of a token', bytesText(bytes.token_cycle)],
    ['KV of a token', `${bytesText(bytes.kv_per_token)} in ${kv_type}`],
  ]
}

function machineRows(inspection: Inspection): Row[] {
  const { machine } = inspection
  return [
    [
      'this machine',
      `${machine.cores} cores, ${bytesText(machine.free_bytes)} of ${bytesText(machine.memory_bytes)} memory free`,
    ],
    ['GPU', gpuText(machine)],
    ...(inspection.gpu_fit === null
      ? []
      : [['fits on the GPU', gpuFitText(inspection.gpu_fit, inspection)] as const]),
    ['fits in memory', fitText(inspection)],
  ]
}

function gpuText({ cuda }: Inspection['machine']): string {
  if (cuda.problem !== null) return `not used: ${cuda.problem}`
  return `${cuda.name}, ${bytesText(cuda.bytes_free)} of ${bytesText(cuda.bytes)} free`
}

function gpuFitText(fit: NonNullable<Inspection['gpu_fit']>, { experts }: Inspection): string {
  if (fit.problem !== null) return fit.problem
  const mlps = fit.mlps_in_ram === 0 ? '' : ` and the MLPs of ${fit.mlps_in_ram} layers`
  const inRam = fit.head_in_ram ? `; the head${mlps} stay in memory, for the processor` : ''
  return `${count(fit.experts)} of ${count(experts.total)} experts, KV for ${count(fit.context)} positions${inRam}`
}

function fitText({ fit, experts, bytes, machine }: Inspection): string {
  const kv = `${bytesText(fit.kv_bytes)} of KV for ${count(fit.context)} positions`
  if (bytes.dense > machine.free_bytes) return 'not even the dense weights'
  if (!fit.dense_and_kv) return `dense weights, but not ${kv} (--ctx-size)`
  const share = fit.share === null ? '' : ` (${percent(fit.share)})`
  return `dense weights, ${kv}, and ${count(fit.experts)} of ${count(experts.total)} experts${share}`
}

function quantisationText({ quantisation }: Inspection): string {
  return quantisation.layouts
    .map(({ layout, tensors, bytes }) => `${layout} ${bytesText(bytes)} in ${count(tensors)}`)
    .join(', ')
}

function count(value: number): string {
  return value.toLocaleString('en-US')
}

function percent(share: number): string {
  // Rounded down: nearly all is not all.
  return `${Math.floor(share * 1000) / 10} %`
}

function parametersText(value: number): string {
  return scaled(value, ['', ' thousand', ' million', ' billion', ' trillion'])
}

/** Decimal units, as drives and published sizes have them. */
function bytesText(value: number): string {
  return scaled(value, [' B', ' kB', ' MB', ' GB', ' TB'])
}

/** Four digits at most, with the largest unit that keeps the number at least 1. */
function scaled(value: number, units: readonly string[]): string {
  let rest = value
  let unit = 0
  while (rest >= 999.95 && unit < units.length - 1) {
    rest /= 1000
    unit += 1
  }
  return `${unit === 0 ? rest : rest.toFixed(rest < 10 ? 2 : 1)}${units[unit]}`
}
