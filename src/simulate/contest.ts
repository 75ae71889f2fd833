// What one simulation judges, and which visits of a trace it counts.
import type { LookAheadName } from './rehearsal.js'
import type { Visit } from './routing.js'

/** Slots belong to the layers in equal shares, or to all of them together. */
export type Scope = 'layer' | 'global'
export type Phase = 'all' | 'decode'

export interface Contest {
  readonly policy: string
  readonly scope: Scope
  readonly phase: Phase
  readonly slotsPerLayer: number
  /** Who reads ahead in the engine's own cache; absent: slots and nothing else. */
  readonly lookAhead?: LookAheadName | undefined
}

export function isCounted({ isPrompt }: Visit, phase: Phase): boolean {
  return phase === 'all' || !isPrompt
}
