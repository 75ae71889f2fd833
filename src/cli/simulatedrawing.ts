// The drawings of the page, as SVG. A heat map may have twenty thousand cells, so all cells of one shade
// are a single path.
import { boundNames } from '../simulate/contender.js'
import { fixed, lineChart } from './linechart.js'
import { nameOf, type Result, type Simulated } from './simulation.js'

export interface Series {
  readonly name: string
  /** Its colour, and dashes where it is a bound. */
  readonly className: string
  readonly results: readonly Result[]
}

const colours = 8

/** Policies in the order in which they were asked for. */
export function seriesOf({ results }: Simulated): Series[] {
  const names = [...new Set(results.map(nameOf))]
  return names.map((name, at) => ({
    name,
    className: `s${(at % colours) + 1}${boundNames.some((bound) => bound === name) ? ' bound' : ''}`,
    results: results
      .filter((result) => nameOf(result) === name)
      .sort((a, b) => a.slots_per_layer - b.slots_per_layer),
  }))
}

export function hitChart(trace: Simulated): string {
  const shares = [...new Set(trace.results.map(({ share }) => share))].sort((a, b) => a - b)
  return lineChart('hit rate against slots', {
    lines: seriesOf(trace).map(({ name, className, results }) => ({
      className,
      points: results.map(({ share, hit_rate, slots_per_layer }) => ({
        x: share,
        y: hit_rate ?? 0,
        title: `${name}, ${slots_per_layer} slots (${shareText(share)}): ${(100 * (hit_rate ?? 0)).toFixed(1)} %`,
      })),
    })),
    across: { least: 0, ticks: shares.map((share) => ({ at: share, text: shareText(share) })) },
    upward: [0, 0.2, 0.4, 0.6, 0.8, 1].map((rate) => ({
      at: rate,
      text: `${Math.round(100 * rate)} %`,
    })),
  })
}

const map = { width: 900, left: 52, top: 18, legend: 34 }
/** Uses relative to the layer's mean, from which the next shade begins; the first is for none. */
const shades = [0, 0.25, 0.5, 1, 1.5, 2, 4]

/** Layers from top to bottom, experts from left to right. */
export function heatMap({ routing, usage }: Simulated): string {
  const { layers, experts } = routing
  const cellWidth = (map.width - map.left) / experts
  const cellHeight = Math.min(18, Math.max(5, 420 / layers.length))
  const height = map.top + cellHeight * layers.length
  const paths = shadesOf(usage.counts, layers.length, experts).map((cells, shade) => {
    const squares = cells.map((cell) => {
      const left = map.left + (cell % experts) * cellWidth
      const top = map.top + Math.floor(cell / experts) * cellHeight
      return `M${fixed(left)} ${fixed(top)}h${fixed(cellWidth)}v${fixed(cellHeight)}h-${fixed(cellWidth)}z`
    })
    return squares.length === 0 ? '' : `<path class="h${shade}" d="${squares.join('')}"/>`
  })
  const names = layers.map((layer, at) => ({ layer, y: map.top + (at + 0.5) * cellHeight }))
  const every = Math.ceil(14 / cellHeight)
  const labels = names
    .filter((_, at) => at % every === 0)
    .map(
      ({ layer, y }) =>
        `<text x="${map.left - 8}" y="${fixed(y)}" dy="4" text-anchor="end">${layer}</text>`,
    )
  return `<svg viewBox="0 0 ${map.width} ${fixed(height + map.legend)}" role="img" aria-label="use of experts by layer" shape-rendering="crispEdges"><text x="0" y="11">layer</text><text x="${map.left}" y="11">expert 0 to ${experts - 1}</text>${labels.join('')}${paths.join('')}${shadeKey(height + 14)}</svg>`
}

/** [shade] the cells that have it */
function shadesOf(counts: Float64Array, layers: number, experts: number): number[][] {
  const cells: number[][] = Array.from({ length: shades.length + 1 }, () => [])
  for (let layer = 0; layer < layers; layer += 1) {
    const own = counts.subarray(layer * experts, (layer + 1) * experts)
    const mean = own.reduce((sum, count) => sum + count, 0) / experts
    for (const [index, count] of own.entries()) {
      const shade = count === 0 ? 0 : shades.filter((from) => count >= from * mean).length
      cells[shade]?.push(layer * experts + index)
    }
  }
  return cells
}

function shadeKey(top: number): string {
  const entries = ['never', ...shades.map((from, at) => keyText(from, shades[at + 1]))]
  const step = (map.width - map.left) / entries.length
  return entries
    .map((text, shade) => {
      const left = map.left + shade * step
      return `<rect class="h${shade}" x="${fixed(left)}" y="${fixed(top)}" width="14" height="14"/><text x="${fixed(left + 20)}" y="${fixed(top + 11)}">${text}</text>`
    })
    .join('')
}

function keyText(from: number, to: number | undefined): string {
  if (to === undefined) return `${from}× and more`
  return from === 0 ? `under ${to}×` : `${from}–${to}×`
}

function shareText(share: number): string {
  return `${(100 * share).toFixed(1).replace(/\.0$/, '')} %`
}
