// The counters of the engine, kept by the engine's thread: one record, cheap to update at every step,
// read by everything that shows or prints figures. Times are wall-clock seconds.

/** Of one request. */
export interface RequestStats {
  promptTokens: number
  completionTokens: number
  /** From arrival at the engine to the first drawn token. */
  firstTokenSeconds: number
  /** From the first drawn token to the last. */
  decodeSeconds: number
  /** Distinct experts wanted per layer and step, over the steps in which this request drew. */
  expertRequests: number
}

export function newRequestStats(promptTokens: number): RequestStats {
  return {
    promptTokens,
    completionTokens: 0,
    firstTokenSeconds: 0,
    decodeSeconds: 0,
    expertRequests: 0,
  }
}

/**
 * Distinct experts of a step, summed over its MoE layers. experts: [MoE layer][token][topK] of this
 * step; seen: [experts per layer] scratch, all zero before and after.
 */
export function countExpertRequests(
  experts: Uint16Array,
  moeLayers: number,
  perLayer: number,
  seen: Uint8Array,
): number {
  let distinct = 0
  for (let layer = 0; layer < moeLayers; layer += 1) {
    const wanted = experts.subarray(layer * perLayer, (layer + 1) * perLayer)
    for (const expert of wanted) {
      if (seen[expert] === 0) distinct += 1
      seen[expert] = 1
    }
    for (const expert of wanted) seen[expert] = 0
  }
  return distinct
}
