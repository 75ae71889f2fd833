// How a trace uses its experts, whatever lies where.
import { isCounted, type Phase } from './contest.js'
import { type Routing, walk } from './routing.js'

export interface Usage {
  /** [MoE layer][expert] visits that want it */
  readonly counts: Float64Array
  /** [MoE layer] experts that are wanted at all */
  readonly distinct: readonly number[]
}

export function usageOf(routing: Routing, phase: Phase): Usage {
  const { layers, experts } = routing
  const counts = new Float64Array(layers.length * experts)
  walk(routing, (visit) => {
    if (!isCounted(visit, phase)) return
    for (const expert of visit.wanted.subarray(0, visit.count)) {
      counts[expert] = (counts[expert] ?? 0) + 1
    }
  })
  const distinct = Array.from(layers, (_, layer) =>
    counts
      .subarray(layer * experts, (layer + 1) * experts)
      .reduce((sum, count) => sum + (count > 0 ? 1 : 0), 0),
  )
  return { counts, distinct }
}
