// The first view: how fast, what bounds it, and where time and memory go.
import {
  type EngineFigures,
  type JobFigures,
  type LinkFigures,
  type LinkRates,
  type Rates,
  total,
} from '../src/engine/telemetry.js'
import { type Line, line, padded, rightly, type Span, type Style, span } from './cells.js'
import {
  absent,
  bytesText,
  countText,
  curve,
  gauge,
  rateText,
  secondsText,
  shareText,
} from './figures.js'
import type { Scene } from './scene.js'

const labelColumns = 11
const numberColumns = 8

export function overview({ snapshot, history }: Scene, columns: number, rows: number): Line[] {
  const engine = snapshot?.engine
  if (engine === undefined || snapshot === null) return [line(span(' no engine yet', 'dim'))]
  const { now, points } = history
  const room = Math.max(10, columns - labelColumns - numberColumns - 14)
  const over = (of: (rates: Rates) => number | undefined, style: Style, most?: number) =>
    curve(points.map(of), room, style, most)
  const { running, waiting, ended, failed } = snapshot.requests
  const byLayer = hitRates(engine, room)
  const below = now?.hitRateBelow
  const own = now?.hitRate === undefined ? undefined : now.hitRate - (below ?? 0)
  const lines = [
    row(
      'tokens/s',
      'decode',
      rateText(now?.drawnPerSecond),
      over((one) => one.drawnPerSecond, 'good'),
    ),
    row(
      '',
      'prefill',
      rateText(now?.readPerSecond),
      over((one) => one.readPerSecond, 'cool'),
    ),
    line(),
    ...linkLines(
      'drive',
      engine.links.drive,
      now?.drive,
      room,
      over((one) => one.drive?.shareOfBound, 'good', 1),
    ),
    ...linkLines(
      'PCIe',
      engine.links.pcie,
      now?.pcie,
      room,
      over((one) => one.pcie?.shareOfBound, 'good', 1),
    ),
    line(),
    ...(engine.experts.isOnGpu ? [] : [row('hit rate', 'VRAM', absent)]),
    row(
      engine.experts.isOnGpu ? 'hit rate' : '',
      engine.experts.isOnGpu ? 'VRAM' : engine.loadMode === 'direct' ? 'RAM' : 'in memory',
      shareText(own),
      ...gauge(own, 16, 'good'),
      span(' '),
      curve(
        points.map((one) => one.hitRate),
        room - 17,
        'good',
        1,
      ),
    ),
    ...(engine.experts.slotsBelow === undefined
      ? []
      : [row('', 'RAM', shareText(below), ...gauge(below, 16, 'good'))]),
    row('', 'by layer', '', curve(byLayer, byLayer.length, 'good', 1)),
    line(),
    ...timeLines(now, room),
    line(),
    ...memoryLines(engine),
    line(),
    row('experts', 'in memory', countText(engine.experts.resident), span(ofAll(engine), 'dim')),
    row(
      'requests',
      'running',
      countText(running),
      span(`waiting ${waiting}   done ${ended}   failed ${failed}`),
    ),
    ...(snapshot.job === undefined ? [] : jobLines(snapshot.job)),
  ]
  // A small screen has no room for gaps.
  return lines.length > rows ? lines.filter((one) => one.length > 0) : lines
}

function row(label: string, name: string, figure: string, ...rest: readonly Span[]): Line {
  return line(
    span(` ${padded(label, labelColumns - 1)}`, 'title'),
    padded(name, 10),
    span(rightly(figure, numberColumns), 'strong'),
    '  ',
    ...rest,
  )
}

function linkLines(
  name: string,
  link: LinkFigures | undefined,
  rates: LinkRates | undefined,
  room: number,
  bound: Span,
): Line[] {
  if (link === undefined) return [row(name, 'bytes/s', absent)]
  const ceiling = link.ceilingBytesPerSecond
  const of = ceiling === undefined ? 'ceiling not known' : `of ${bytesText(ceiling)}/s`
  const depth = rates?.depth === undefined ? absent : rates.depth.toFixed(1)
  const share = rates?.shareOfBound
  return [
    row(
      name,
      'bytes/s',
      bytesText(rates?.bytesPerSecond),
      span(padded(of, 20), 'dim'),
      span(`busy ${shareText(rates?.busy)}   queue ${depth}`),
    ),
    row('', 'of bound', shareText(share), ...gauge(share, Math.min(16, room), 'good'), span(' '), {
      ...bound,
      text: bound.text.slice(Math.min(17, bound.text.length)),
    }),
  ]
}

function timeLines(now: Rates | null, room: number): Line[] {
  const parts = [
    ['nvme', now?.stall?.nvme, 'poor'],
    ['copy', now?.stall?.copy, 'fair'],
    ['compute', now?.stall?.compute, 'good'],
    ['policy', now?.stall?.policy, 'cool'],
  ] as const
  return parts.map(([name, share, style], at) =>
    row(at === 0 ? 'time' : '', name, shareText(share), ...gauge(share, Math.min(40, room), style)),
  )
}

function memoryLines({ memory }: EngineFigures): Line[] {
  return memory.map(({ name, usedBytes, budgetBytes }, at) =>
    row(
      at === 0 ? 'memory' : '',
      name,
      bytesText(usedBytes),
      span(padded(`of ${bytesText(budgetBytes)}`, 12), 'dim'),
      ...gauge(usedBytes === undefined ? undefined : usedBytes / budgetBytes, 16, 'cool'),
    ),
  )
}

function jobLines({ lines, linesDone, linesAnswered, secondsLeft }: JobFigures): Line[] {
  const refused = linesDone - linesAnswered
  const done = row(
    'job',
    'lines done',
    countText(linesDone),
    span(padded(`of ${countText(lines)}`, 12), 'dim'),
    ...gauge(lines > 0 ? linesDone / lines : undefined, 16, 'good'),
    span(` ${secondsText(secondsLeft)} left`),
  )
  return refused === 0 ? [done] : [done, row('', 'refused', countText(refused))]
}

/** Since open, for each layer, or for a few together where there are more layers than columns. */
function hitRates({ layers }: EngineFigures, columns: number): (number | undefined)[] {
  const { requests, hits } = layers
  const each = Math.ceil(requests.length / columns)
  return Array.from({ length: Math.ceil(requests.length / each) }, (_, at) => {
    const of = (counts: readonly number[]) => total(counts.slice(at * each, (at + 1) * each))
    return of(requests) > 0 ? of(hits) / of(requests) : undefined
  })
}

function ofAll({ experts }: EngineFigures): string {
  const slots = experts.slots === undefined ? '' : `, ${countText(experts.slots)} slots`
  return `of ${countText(experts.moeLayers * experts.perLayer)}${slots}`
}
