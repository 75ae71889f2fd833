// The bound `static`: of all sets of experts that never change, the one that the counted phase uses
// most. It knows that phase, and has its set before anything is read.
import type { Expert } from '../cache/place.js'
import type { CacheShape } from '../cache/policy.js'
import type { Contender } from './contender.js'
import type { Phase } from './contest.js'
import type { Routing } from './routing.js'
import { usageOf } from './usage.js'

export class FixedSet implements Contender {
  readonly name = 'static'
  readonly preloaded: readonly Expert[]

  constructor({ moeLayers, experts, slots }: CacheShape, routing: Routing, phase: Phase) {
    const { counts } = usageOf(routing, phase)
    const each = Math.floor(slots / moeLayers)
    this.preloaded = Array.from({ length: moeLayers }, (_, layer) => {
      const own = Array.from({ length: experts }, (_, index) => layer * experts + index)
      return own.sort((a, b) => (counts[b] ?? 0) - (counts[a] ?? 0)).slice(0, each) as Expert[]
    }).flat()
  }

  used(): void {}

  entered(): void {}

  left(): void {}

  victim(): number {
    return -1
  }
}
