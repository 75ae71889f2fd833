// What every step of a run wants of every layer, heard by listening at the cache: what an oracle for a
// second run of the same steps goes by.
import { UseField } from '../src/cache/records.js'
import type { OpenModel } from '../src/engine/open.js'
import type { Truth } from '../src/simulate/foretold.js'

/** From now on; ask it once the run is over. */
export function listen(model: OpenModel): Truth {
  const { experts, layers, firstMoeLayer } = model.checkpoint.config
  const used: Set<number>[][] = []
  const { cache } = model.stage
  const hear = cache.used.bind(cache)
  let last = layers
  cache.used = (records) => {
    for (let at = 0; at < records.length; at += UseField.count) {
      const expert = records[at + UseField.expert] ?? 0
      const layer = Math.floor(expert / experts)
      // Layers come in their order, so a step begins where they begin anew.
      if (layer < last) used.push(Array.from({ length: layers - firstMoeLayer }, () => new Set()))
      used.at(-1)?.[layer]?.add(expert % experts)
      last = layer
    }
    hear(records)
  }
  return (step, layer) => [...(used[step]?.[layer] ?? [])]
}
