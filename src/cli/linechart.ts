// Lines over a grid, as SVG: each point can be pointed at and says what it is. What the numbers mean is the
// caller's business.
import { escaped } from './page.js'

export interface Point {
  readonly x: number
  readonly y: number
  readonly title: string
  /** Between which `y` may lie; a band shows it. */
  readonly range?: { readonly low: number; readonly high: number }
}

export interface Line {
  readonly className: string
  readonly points: readonly Point[]
}

export interface Tick {
  readonly at: number
  readonly text: string
}

export interface Chart {
  readonly lines: readonly Line[]
  /** From `least` to the last tick, rising; ticks that come too close are left out. */
  readonly across: { readonly least: number; readonly ticks: readonly Tick[] }
  /** From the first tick to the last, rising. */
  readonly upward: readonly Tick[]
}

const plot = { width: 900, height: 360, left: 52, right: 24, top: 10, bottom: 30 }
/** Between texts below the drawing. */
const tickWidth = 42

export function lineChart(label: string, { lines, across, upward }: Chart): string {
  const most = across.ticks.at(-1)?.at ?? 1
  const [lowest, highest] = [upward[0]?.at ?? 0, upward.at(-1)?.at ?? 1]
  const width = plot.width - plot.left - plot.right
  const height = plot.height - plot.top - plot.bottom
  // A single place stands at the left.
  const span = most - across.least || 1
  const x = (value: number) => plot.left + ((value - across.least) / span) * width
  const y = (value: number) =>
    plot.height - plot.bottom - ((value - lowest) / (highest - lowest)) * height
  const grid = upward.map(({ at, text }) => {
    const level = fixed(y(at))
    return `<path class="grid" d="M${plot.left} ${level}H${plot.width - plot.right}"/><text x="${plot.left - 8}" y="${level}" dy="4" text-anchor="end">${escaped(text)}</text>`
  })
  const ticks = spacedOut(across.ticks, x).map(
    ({ at, text }) =>
      `<text x="${fixed(x(at))}" y="${plot.height - 8}" text-anchor="middle">${escaped(text)}</text>`,
  )
  const bands = lines.map((line) => bandOf(line, x, y))
  const drawn = lines.map((line) => lineOf(line, x, y))
  return `<svg viewBox="0 0 ${plot.width} ${plot.height}" role="img" aria-label="${escaped(label)}">${grid.join('')}${ticks.join('')}${bands.join('')}${drawn.join('')}</svg>`
}

/** Behind the lines: along the upper ends and back along the lower ones. */
function bandOf(
  { className, points }: Line,
  x: (value: number) => number,
  y: (value: number) => number,
): string {
  const ends = points.flatMap(({ x: at, range }) => (range === undefined ? [] : [{ at, ...range }]))
  if (ends.length < 2) return ''
  const upper = ends.map(({ at, high }) => `${fixed(x(at))} ${fixed(y(high))}`)
  const lower = ends.map(({ at, low }) => `${fixed(x(at))} ${fixed(y(low))}`)
  return `<g class="${className}"><path class="band" d="M${[...upper, ...lower.toReversed()].join('L')}Z"/></g>`
}

function lineOf(
  { className, points }: Line,
  x: (value: number) => number,
  y: (value: number) => number,
): string {
  const placed = points.map((point) => ({
    at: [fixed(x(point.x)), fixed(y(point.y))] as const,
    title: point.title,
  }))
  const path = placed.map(({ at }, index) => `${index === 0 ? 'M' : 'L'}${at[0]} ${at[1]}`).join('')
  // A larger circle that nobody sees makes each point easy to point at.
  const dots = placed.map(
    ({ at: [cx, cy], title }) =>
      `<g><title>${escaped(title)}</title><circle class="dot" cx="${cx}" cy="${cy}" r="4.5"/><circle class="hit" cx="${cx}" cy="${cy}" r="12"/></g>`,
  )
  return `<g class="${className}"><path class="line" d="${path}"/>${dots.join('')}</g>`
}

/** Those that leave room for their text, the last one first. */
function spacedOut(ticks: readonly Tick[], x: (value: number) => number): Tick[] {
  const kept: Tick[] = []
  for (const tick of ticks.toReversed()) {
    const last = kept.at(-1)
    if (last === undefined || x(last.at) - x(tick.at) >= tickWidth) kept.push(tick)
  }
  return kept
}

/** To the hundredth. */
export function fixed(value: number): string {
  return String(Math.round(100 * value) / 100)
}
