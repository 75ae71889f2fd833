// What `simulate` found, for a person at a terminal: for each trace what it is, then a row for each
// policy and a column for each number of slots.
import { decodeTokensOf, tokensOf } from '../simulate/routing.js'
import { nameOf, type Result, type Simulated } from './simulation.js'

/** Lines of text, the last one ended. */
export function simulationTable(simulated: readonly Simulated[]): string {
  return simulated.map(traceText).join('\n')
}

/** Columns of one trace's blocks begin at the same place. */
const titleWidth = 58

type Cell = (result: Result) => string

function traceText(trace: Simulated): string {
  const { results } = trace
  const first = results[0]
  const blocks = [
    block(trace, `hit rate of ${first?.phase}, ${scopeText(first)}`, rateText),
    ...(results.some(({ misses_against_lru: misses }) => misses !== null)
      ? [block(trace, 'misses against lru', missesText)]
      : []),
    ...(results.some(({ gap_closed: gap }) => gap !== null)
      ? [block(trace, 'of the way from lru to belady', gapText)]
      : []),
    ...(results.some(({ tokens_s: rate }) => rate !== null)
      ? [block(trace, 'tokens a second', speedText), block(trace, 'share of bound', boundText)]
      : []),
    ...(results.some(({ tiers }) => tiers !== null)
      ? [
          block(trace, 'found on the GPU / in RAM', tiersText),
          block(trace, 'GB a token from the drive / over the link', bytesText(trace)),
          block(trace, 'bound by', ({ tiers }) => tiers?.bottleneck ?? ''),
        ]
      : []),
  ]
  return `${[...headText(trace), ...blocks].join('\n')}\n`
}

function headText({ routing, usage }: Simulated): string[] {
  const { name, layers, experts, topK, sequences } = routing
  const mean = usage.distinct.reduce((sum, count) => sum + count, 0) / layers.length
  return [
    `${name}: ${layers.length} layers x ${experts} experts, top ${topK}`,
    `  ${tokensOf(routing)} tokens in ${sequences.length} ${sequences.length === 1 ? 'sequence' : 'sequences'}, ${decodeTokensOf(routing)} of them decode`,
    `  distinct experts in a layer: ${Math.min(...usage.distinct)} to ${Math.max(...usage.distinct)}, ${mean.toFixed(1)} on average`,
  ]
}

function block({ results }: Simulated, title: string, cell: Cell): string {
  const policies = [...new Set(results.map(nameOf))]
  const slots = [...new Set(results.map((result) => result.slots_per_layer))]
  const header = slots.map((count) => {
    const share = results.find((result) => result.slots_per_layer === count)?.share ?? 0
    return `${count} (${(100 * share).toFixed(1)}%)`
  })
  const rows = policies.map((policy) => [
    policy,
    ...slots.map((count) => {
      const found = results.find((one) => nameOf(one) === policy && one.slots_per_layer === count)
      return found === undefined ? '' : cell(found)
    }),
  ])
  const cells = [[title, ...header], ...rows]
  const widths = [title, ...header].map((_, column) =>
    Math.max(...cells.map((row) => row[column]?.length ?? 0)),
  )
  return cells
    .map((row) =>
      `  ${row.map((text, at) => (at === 0 ? text.padEnd(titleWidth) : text.padStart(widths[at] ?? 0))).join('  ')}`.trimEnd(),
    )
    .join('\n')
}

export function scopeText(result: Result | undefined): string {
  return result?.scope === 'global' ? 'one pool of so many slots x layers' : 'slots of each layer'
}

function rateText({ hit_rate: rate }: Result): string {
  return percent(rate)
}

function missesText({ misses_against_lru: misses }: Result): string {
  return misses !== null && misses > 0 ? `+${percent(misses)}` : percent(misses)
}

function gapText({ gap_closed: gap }: Result): string {
  return percent(gap)
}

function boundText({ share_of_bound: share }: Result): string {
  return percent(share)
}

function speedText({ tokens_s: rate }: Result): string {
  return rate === null ? '' : rate.toPrecision(3)
}

function tiersText({ tiers }: Result): string {
  if (tiers === null) return ''
  const { hits, misses } = tiers
  const all = hits.gpu + hits.ram + misses
  return `${percent(hits.gpu / all)} / ${percent(hits.ram / all)}`
}

function bytesText({ routing }: Simulated): Cell {
  const tokens = Math.max(1, decodeTokensOf(routing))
  const each = (bytes: number) => (bytes / tokens / 1e9).toPrecision(3)
  return ({ tiers }) =>
    tiers === null ? '' : `${each(tiers.bytes.drive)} / ${each(tiers.bytes.link)}`
}

function percent(value: number | null): string {
  return value === null ? '-' : `${(100 * value).toFixed(1)}%`
}
