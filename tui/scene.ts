// All that a screen shows, at one moment: the last snapshot, what came before, and where the person is.
// Views are functions of it; keys (keys.ts) change the part that is the person's.
import type { Snapshot } from '../src/engine/telemetry.js'
import type { History } from './history.js'

export const views = ['overview', 'experts', 'prefetch', 'requests', 'text', 'log'] as const
export type View = (typeof views)[number]

/** A piece of what a model said. */
export interface Said {
  readonly kind: 'prompt' | 'reasoning' | 'text'
  readonly text: string
}

/** Where the person is. */
export interface Place {
  view: View
  isHelp: boolean
  /** Of the expert map. */
  layer: number
  expert: number
  isWhole: boolean
  /** Index among the rows of requests. */
  row: number
  /** Lines back from the end, in text and log. */
  back: number
  /** What is being typed; null where nothing can be said. */
  draft: string | null
  isTyping: boolean
}

export interface Scene {
  readonly place: Readonly<Place>
  readonly snapshot: Snapshot | null
  readonly history: History
  /** What the chosen request said; null: nobody tells. */
  readonly said: readonly Said[] | null
  readonly log: readonly string[]
  /** What the person should know now, such as a server that is away; empty: nothing. */
  readonly notice: string
}

export function newPlace(canTalk = false, view: View = 'overview'): Place {
  return {
    view,
    isHelp: false,
    layer: 0,
    expert: 0,
    isWhole: false,
    row: 0,
    back: 0,
    draft: canTalk ? '' : null,
    isTyping: canTalk && view === 'text',
  }
}
