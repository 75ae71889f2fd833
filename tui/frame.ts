// A whole screen as lines of styled cells: a line of state, a view, a line of keys. A pure function of a
// scene and a size, so that a test sees what a person sees.
import { ahead } from './ahead.js'
import {
  fitted,
  framed,
  type Line,
  line,
  padded,
  type Style,
  span,
  textOf,
  widthOf,
} from './cells.js'
import { experts } from './experts.js'
import { rateText, shareText } from './figures.js'
import { overview } from './overview.js'
import { log, requests, text } from './requests.js'
import { type Scene, views } from './scene.js'

/** Exactly `rows` lines of exactly `columns` cells. */
export function frame(scene: Scene, columns: number, rows: number): Line[] {
  if (columns < 20 || rows < 4) return framed([line('too small')], columns, rows)
  const room = rows - 2
  const body = scene.place.isHelp ? help() : viewOf(scene, columns, room)
  return [
    ...framed([stateLine(scene, columns)], columns, 1),
    ...framed(body, columns, room),
    ...framed([keyLine(scene)], columns, 1),
  ]
}

function viewOf(scene: Scene, columns: number, rows: number): Line[] {
  switch (scene.place.view) {
    case 'overview':
      return overview(scene, columns, rows)
    case 'experts':
      return experts(scene, columns, rows)
    case 'prefetch':
      return ahead(scene)
    case 'requests':
      return requests(scene, rows)
    case 'text':
      return text(scene, columns, rows)
    case 'log':
      return log(scene, columns, rows)
  }
}

/** The model, how fast it is, and what is wrong, if anything is. */
function stateLine({ snapshot, history, notice }: Scene, columns: number): Line {
  const state = snapshot?.state ?? 'waiting'
  const style: Style = notice !== '' ? 'poor' : state === 'ready' ? 'good' : 'fair'
  const { now } = history
  const rates =
    now === null ? '' : ` ${rateText(now.drawnPerSecond)} tokens/s, hits ${shareText(now.hitRate)} `
  const before = line(
    span(' ring-offload ', 'strong'),
    span(`${snapshot?.model ?? ''} `),
    span(notice === '' ? `${state} ` : `${notice} `, style),
  )
  const room = columns - widthOf(textOf(before)) - widthOf(rates)
  if (room < 0) return before
  const device = fitted(line(span(partsWithin(snapshot?.engine?.device ?? '', room), 'dim')), room)
  return line(...before, ...device, span(rates, 'strong'))
}

/** As many parts of a list as have room, whole ones. */
function partsWithin(list: string, columns: number): string {
  if (widthOf(list) <= columns) return list
  const end = list.lastIndexOf(', ')
  return end < 0 ? '' : partsWithin(list.slice(0, end), columns)
}

function keyLine({ place }: Scene): Line {
  if (place.isTyping) {
    return line(span(' Enter', 'strong'), ' say it  ', span('Esc', 'strong'), ' stop typing')
  }
  const names = views.flatMap((view, at) => [
    span(`${at + 1} `, 'strong'),
    span(view, view === place.view ? 'chosen' : 'plain'),
    span(' '),
  ])
  return line(
    ' ',
    ...names,
    span(' ?', 'strong'),
    ' help',
    span(' s', 'strong'),
    ' save',
    span(' q', 'strong'),
    ' quit',
  )
}

const keys: readonly (readonly [key: string, what: string])[] = [
  ['1 to 6, Tab', 'the views'],
  ['arrows, h j k l', 'move: the expert, the request, back in text and log'],
  ['PgUp PgDn, Home End', 'move far'],
  ['z', 'experts: the whole model in one screen, or each expert'],
  ['c', 'requests: cancel the chosen one'],
  ['Enter', 'requests: its text; text of a chat: type'],
  ['s', 'save this screen, as text and as a page'],
  ['?', 'this help'],
  ['q, Ctrl-C', 'leave; the terminal is as it was'],
]

function help(): Line[] {
  return [
    line(),
    ...keys.map(([key, what]) => line(span(`   ${padded(key, 22)}`, 'strong'), what)),
    line(),
    line(span('   A dash is what this machine lacks, or what is not known; it is no zero.', 'dim')),
    line(span('   of bound: bytes that had to be read / what the link could have read.', 'dim')),
    line(span('   time: of steps, by what they did or waited for, over the last second.', 'dim')),
  ]
}
