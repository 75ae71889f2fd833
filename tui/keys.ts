// What keys do to the place of a person, and what they ask of the program. Pure: no terminal is known.
import type { Snapshot } from '../src/engine/telemetry.js'
import { type Place, views } from './scene.js'

/** A key by its name, and the character it types, if any. */
export interface Key {
  readonly name: string
  readonly text: string
}

/** What the program is asked to do. */
export type Wish = 'none' | 'quit' | 'save' | 'cancel' | 'say'

const page = 10

export function press(place: Place, { name, text }: Key, snapshot: Snapshot | null): Wish {
  if (name === 'C-c') return 'quit'
  if (place.isTyping) return type(place, name, text)
  if (name === 'q') return 'quit'
  if (name === 's') return 'save'
  if (name === '?') {
    place.isHelp = !place.isHelp
    return 'none'
  }
  place.isHelp = false
  const view = views[Number(name) - 1]
  if (view !== undefined) return show(place, view)
  if (name === 'tab') return show(place, next(place, 1))
  if (name === 'S-tab') return show(place, next(place, views.length - 1))
  if (name === 'c' && place.view === 'requests') return 'cancel'
  if (name === 'enter' && place.view === 'requests') return show(place, 'text')
  if (name === 'enter' && place.view === 'text' && place.draft !== null) place.isTyping = true
  else if (name === 'z' && place.view === 'experts') place.isWhole = !place.isWhole
  else move(place, name, snapshot)
  return 'none'
}

function next(place: Place, by: number) {
  return views[(views.indexOf(place.view) + by) % views.length] ?? 'overview'
}

function show(place: Place, view: Place['view']): Wish {
  place.view = view
  place.back = 0
  return 'none'
}

function type(place: Place, name: string, text: string): Wish {
  const draft = place.draft ?? ''
  if (name === 'escape') place.isTyping = false
  else if (name === 'enter') return draft.trim() === '' ? 'none' : 'say'
  else if (name === 'backspace') place.draft = [...draft].slice(0, -1).join('')
  else if (name === 'C-u') place.draft = ''
  else if (/^[^\p{Cc}]+$/u.test(text)) place.draft = draft + text
  return 'none'
}

const steps: Readonly<Record<string, readonly [down: number, right: number]>> = {
  up: [-1, 0],
  k: [-1, 0],
  down: [1, 0],
  j: [1, 0],
  left: [0, -1],
  h: [0, -1],
  right: [0, 1],
  l: [0, 1],
  pageup: [-page, 0],
  pagedown: [page, 0],
  home: [Number.NEGATIVE_INFINITY, 0],
  end: [Number.POSITIVE_INFINITY, 0],
}

function move(place: Place, name: string, snapshot: Snapshot | null): void {
  const [down, right] = steps[name] ?? [0, 0]
  const { experts } = snapshot?.engine ?? {}
  if (place.view === 'experts' && experts !== undefined) {
    place.layer = within(place.layer + down, experts.moeLayers)
    place.expert = within(place.expert + right, experts.perLayer)
  } else if (place.view === 'requests') {
    place.row = within(place.row + down, snapshot?.requests.rows.length ?? 0)
  } else if (place.view === 'text' || place.view === 'log') {
    place.back = within(place.back - down, 100_000)
  }
}

function within(at: number, all: number): number {
  return Math.max(0, Math.min(Math.max(0, all - 1), at))
}
