// The map of experts: a row for each layer, a column for each expert, and the story of the one under the
// cursor. What does not fit is moved past; `z` shows the whole model in cells of several experts.
import { ageMost, type EngineFigures, type Snapshot, usesOf } from '../src/engine/telemetry.js'
import { type Line, line, rightly, type Span, type Style, span } from './cells.js'
import { shareText } from './figures.js'
import type { Moment } from './history.js'
import type { Place, Scene } from './scene.js'

const labelColumns = 6
/** Steps in which an expert is still news. */
const news = 2

/** What one expert looks like; readable without colours too. */
interface Face {
  readonly text: string
  readonly style: Style
}

const onDisk: Face = { text: '·', style: 'dim' }
const left: Face = { text: '-', style: 'poor' }
const loaded: Face = { text: '+', style: 'fair' }
/** By steps since it was used. */
const resident: readonly (readonly [below: number, face: Face])[] = [
  [4, { text: '█', style: 'good' }],
  [16, { text: '▓', style: 'good' }],
  [64, { text: '▒', style: 'cool' }],
  [ageMost + 1, { text: '░', style: 'cool' }],
]

interface Maps {
  readonly resident: Uint8Array
  readonly used: Uint8Array
  readonly loaded: Uint8Array
  readonly left: Uint8Array
  readonly uses: Uint8Array
}

/** What is drawn, where the cursor is, and how large. */
interface Chart {
  readonly engine: EngineFigures
  readonly maps: Maps
  readonly place: Readonly<Place>
  readonly room: number
  readonly tall: number
}

export function experts(
  { snapshot, history, place }: Scene,
  columns: number,
  rows: number,
): Line[] {
  const engine = snapshot?.engine
  const maps = snapshot === null ? null : mapsOf(snapshot)
  if (engine === undefined || maps === null) return [line(span(' the map is on its way', 'dim'))]
  const chart = { engine, maps, place, room: columns - labelColumns - 8, tall: rows - 5 }
  const drawn = place.isWhole ? wholeLines(chart) : mapLines(chart)
  return [legend(), ...drawn, line(), ...storyLines(chart, history.moments, columns)]
}

function mapsOf({ map }: Snapshot): Maps | null {
  if (map === undefined) return null
  const bytes = (text: string) => Buffer.from(text, 'base64')
  return {
    resident: bytes(map.resident),
    used: bytes(map.used),
    loaded: bytes(map.loaded),
    left: bytes(map.left),
    uses: bytes(map.uses),
  }
}

function legend(): Line {
  const kinds = resident.map(([, face]) => span(face.text, face.style))
  return line(
    span(' layer ', 'title'),
    ...kinds,
    ' in memory, wanted now to long ago ',
    span(loaded.text, loaded.style),
    ' brought ',
    span(left.text, left.style),
    ' given up ',
    span(onDisk.text, onDisk.style),
    ' on disk',
  )
}

function faceOf(maps: Maps, expert: number): Face {
  if (maps.resident[expert] !== 1) return (maps.left[expert] ?? ageMost) <= news ? left : onDisk
  if ((maps.loaded[expert] ?? ageMost) <= news) return loaded
  const age = maps.used[expert] ?? ageMost
  return resident.find(([below]) => age < below)?.[1] ?? onDisk
}

/** The window over the map that holds the cursor. */
function mapLines({ engine, maps, place, room, tall }: Chart): Line[] {
  const { moeLayers, perLayer, firstMoeLayer } = engine.experts
  const [firstLayer, layers] = windowOf(place.layer, moeLayers, tall)
  const [firstExpert, width] = windowOf(place.expert, perLayer, room)
  return Array.from({ length: layers }, (_, row) => {
    const layer = firstLayer + row
    const cells = Array.from({ length: width }, (_, column) => {
      const expert = firstExpert + column
      const face = faceOf(maps, layer * perLayer + expert)
      const isHere = layer === place.layer && expert === place.expert
      return span(face.text, isHere ? 'chosen' : face.style)
    })
    return line(label(layer + firstMoeLayer), ...merged(cells), hitRate(engine, layer))
  })
}

/** The whole model: a cell is a block of experts and layers, the fuller the more of them are in memory. */
function wholeLines({ engine, maps, place, room, tall }: Chart): Line[] {
  const { moeLayers, perLayer, firstMoeLayer } = engine.experts
  const layersEach = Math.ceil(moeLayers / tall)
  const expertsEach = Math.ceil(perLayer / room)
  const shades = '·░▒▓█'
  return Array.from({ length: Math.ceil(moeLayers / layersEach) }, (_, row) => {
    const cells = Array.from({ length: Math.ceil(perLayer / expertsEach) }, (_, column) => {
      const share = residentShare(
        engine,
        maps,
        row * layersEach,
        layersEach,
        column * expertsEach,
        expertsEach,
      )
      const isHere =
        Math.floor(place.layer / layersEach) === row &&
        Math.floor(place.expert / expertsEach) === column
      return span(
        shades[Math.ceil(share * 4)] ?? '·',
        isHere ? 'chosen' : share > 0 ? 'good' : 'dim',
      )
    })
    return line(label(row * layersEach + firstMoeLayer), ...merged(cells))
  })
}

function residentShare(
  { experts: { moeLayers, perLayer } }: EngineFigures,
  maps: Maps,
  firstLayer: number,
  layers: number,
  firstExpert: number,
  width: number,
): number {
  let count = 0
  let all = 0
  for (let layer = firstLayer; layer < Math.min(moeLayers, firstLayer + layers); layer += 1) {
    for (let at = firstExpert; at < Math.min(perLayer, firstExpert + width); at += 1) {
      all += 1
      count += maps.resident[layer * perLayer + at] ?? 0
    }
  }
  return all === 0 ? 0 : count / all
}

function storyLines(
  { engine, maps, place }: Chart,
  moments: readonly Moment[],
  columns: number,
): Line[] {
  const { perLayer, firstMoeLayer } = engine.experts
  const at = place.layer * perLayer + place.expert
  const age = (ages: Uint8Array, word: string) => {
    const steps = ages[at] ?? ageMost
    return steps === ageMost ? `${word} long ago or never` : `${word} ${steps} steps ago`
  }
  const where = maps.resident[at] === 1 ? 'in memory' : 'on disk'
  return [
    line(
      span(` layer ${place.layer + firstMoeLayer}, expert ${place.expert} `, 'strong'),
      `${where}; wanted about ${usesOf(maps.uses[at] ?? 0)} times, ${age(maps.used, 'last')}`,
    ),
    line(`   ${age(maps.loaded, 'brought')}, ${age(maps.left, 'given up')}`),
    line(span(' its last minute  ', 'dim'), ...story(moments, at, columns - 20)),
  ]
}

/** For each moment: wanted since the one before, only in memory, or on disk. */
function story(moments: readonly Moment[], expert: number, columns: number): readonly Span[] {
  const last = moments.slice(-columns)
  return merged(
    last.map((moment, at) => {
      const steps = moment.steps - (last[at - 1]?.steps ?? moment.steps)
      if ((moment.used[expert] ?? ageMost) < steps) return span('█', 'good')
      return moment.resident[expert] === 1 ? span('▄', 'cool') : span('·', 'dim')
    }),
  )
}

function hitRate({ layers }: EngineFigures, layer: number): Span {
  const requests = layers.requests[layer] ?? 0
  const share = requests > 0 ? (layers.hits[layer] ?? 0) / requests : undefined
  return span(rightly(shareText(share), 8), 'dim')
}

function label(layer: number): Span {
  return span(`${rightly(String(layer), labelColumns - 1)} `, 'dim')
}

/** First index and length of a window of at most `room` that has `at` inside, about the middle. */
function windowOf(at: number, all: number, room: number): readonly [first: number, length: number] {
  const length = Math.max(1, Math.min(all, room))
  return [Math.max(0, Math.min(all - length, at - Math.floor(length / 2))), length]
}

/** Neighbours of one style as one span. */
function merged(spans: readonly Span[]): Span[] {
  const out: Span[] = []
  for (const one of spans) {
    const last = out.at(-1)
    if (last?.style === one.style) out[out.length - 1] = span(last.text + one.text, one.style)
    else out.push(one)
  }
  return out
}
