// A plan as `plan --json` prints it. Sizes in bytes, times in seconds, shares from 0 to 1; of three numbers the
// first is the smallest.

import type { Misfit } from '../plan/fit.js'
import type { Range } from '../plan/fitted.js'
import type { Forecast } from '../plan/forecast.js'
import type { BatchPlan } from '../plan/manytokens.js'
import type { Column, Planned } from './plan.js'

export function planReport({ model, subject, wishes, columns }: Planned) {
  const { geometry, routing } = subject
  return {
    model: model.name,
    facts: model.facts,
    bytes: {
      dense: geometry.sizes.denseBytes,
      one_expert: geometry.expert.bytes,
      all_experts: geometry.sizes.expertBytes,
      token_cycle: geometry.moeLayers * geometry.topK * geometry.expert.bytes,
      kv_per_token: geometry.layers * geometry.kvBytesPerLayer,
    },
    routing: { kind: routing.kind, name: routing.routing.name, model: routing.routing.model },
    prompt_tokens: wishes.promptTokens,
    answer_tokens: wishes.answerTokens,
    columns: columns.map(columnOf),
  }
}

function columnOf({ name, machine, forecast }: Column) {
  return {
    name,
    machine,
    ...('problem' in forecast ? forecast : { problem: null, ...figuresOf(forecast) }),
  }
}

function figuresOf({ fit, decode, prompt, batches, startSeconds }: Forecast) {
  return {
    fit: {
      context: fit.memory.contextTokens,
      kv_bytes: fit.memory.kvBytes,
      resident_bytes: fit.residentBytes,
      experts: { ...fit.slots, drive: fit.onDrive },
      expert_slot_bytes: fit.slotBytes,
      dense_on_gpu: fit.isOnGpu,
    },
    start_s: startSeconds,
    decode: {
      tokens_s: rising(decode.tokensPerSecond),
      hit_rate: rising(decode.hitRate),
      misses_per_token: decode.misses,
      bytes_per_token: decode.readBytes,
      copied_per_token: decode.copiedBytes,
      compute_s: decode.computeSeconds,
      stall_s: decode.stallSeconds,
      bottleneck: decode.bottleneck,
    },
    ttft_s: { ...rising(prompt.seconds), bottleneck: prompt.bottleneck },
    batch: batches.map(batchOf),
  }
}

function batchOf(batch: BatchPlan | (Misfit & { readonly sequences: number })) {
  const { sequences } = batch
  if ('problem' in batch) return { sequences, tokens_s: null, problem: batch.problem }
  const { tokensPerSecond, bottleneck } = batch
  return { sequences, tokens_s: rising(tokensPerSecond), bottleneck }
}

/** Of times the least favourable is the largest. */
function rising({ low, likely, high }: Range): Range {
  return { low: Math.min(low, high), likely, high: Math.max(low, high) }
}
