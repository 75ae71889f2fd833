// A plan as a page: the figures of each machine, and tokens a second over memory, over drives and over
// sequences at once, a line for each machine.
import { type CurvePoint, overDrives, overMemory, overSequences } from '../plan/curves.js'
import { type Line, lineChart, type Tick } from './linechart.js'
import { escaped, legendOf, pageOf } from './page.js'
import type { Column, Planned } from './plan.js'
import { figure, planTable } from './plantable.js'

const colours = 8

export function planPage(planned: Planned): string {
  const { model, subject, columns, wishes } = planned
  const curves = (of: typeof overMemory) =>
    columns.map((column) => ({ column, points: of(subject, column.machine, wishes) }))
  const body = [
    `<section><h2>${escaped(model.name)}</h2><div class="wide"><pre>${escaped(planTable(planned))}</pre></div></section>`,
    section('Tokens a second, over the memory of a machine', curves(overMemory), memoryText),
    section('Tokens a second, over drives', curves(overDrives), String),
    section('Tokens a second of all together, over answers at once', curves(overSequences), String),
  ]
  return pageOf('What to expect', body.join('\n'))
}

interface Curve {
  readonly column: Column
  readonly points: readonly CurvePoint[]
}

function section(title: string, curves: readonly Curve[], text: (at: number) => string): string {
  const legend = curves.map(({ column }, at) => ({ name: column.name, className: classOf(at) }))
  return `<section><figure><figcaption>${escaped(title)}</figcaption>
${legendOf(legend)}
${chart(title, curves, text)}
</figure></section>`
}

/** As memory is sold. */
function memoryText(bytes: number): string {
  const gibibytes = bytes / 2 ** 30
  return gibibytes < 1024 ? `${gibibytes} GiB` : `${gibibytes / 1024} TiB`
}

function chart(title: string, curves: readonly Curve[], text: (at: number) => string): string {
  const all = curves.flatMap(({ points }) => points)
  if (all.length === 0) return '<p class="quiet">It fits nowhere.</p>'
  const ats = [...new Set(all.map(({ at }) => at))].sort((a, b) => a - b)
  const most = Math.max(...all.map(({ tokensPerSecond }) => tokensPerSecond.high))
  return lineChart(title, {
    lines: curves.map(({ column, points }, at) => lineOf(column, points, classOf(at), text)),
    across: {
      least: Math.log2(ats[0] ?? 1),
      ticks: ats.map((at) => ({ at: Math.log2(at), text: text(at) })),
    },
    upward: levelsUpTo(most),
  })
}

function lineOf(
  { name }: Column,
  points: readonly CurvePoint[],
  className: string,
  text: (at: number) => string,
): Line {
  return {
    className,
    points: points.map(({ at, tokensPerSecond: { low, likely, high } }) => ({
      // Twice as much is one step.
      x: Math.log2(at),
      y: likely,
      range: { low, high },
      title: `${name}, ${text(at)}: ${figure(likely)} [${figure(low)} to ${figure(high)}]`,
    })),
  }
}

function classOf(at: number): string {
  return `s${(at % colours) + 1}`
}

/** Round numbers from 0 to the first that is not below. */
function levelsUpTo(most: number): Tick[] {
  const power = 10 ** Math.floor(Math.log10(most))
  const step = [0.2, 0.5, 1, 2].map((of) => of * power).find((of) => most / of <= 6) ?? 2 * power
  const count = Math.ceil(most / step)
  return Array.from({ length: count + 1 }, (_, at) => ({
    at: at * step,
    text: String(Number((at * step).toPrecision(2))),
  }))
}
