// The JSON object that `run --json` ends with. Its keys are a promise to scripts: they may grow, never
// change. What the program does not measure is null, not a guess: everything is mapped today, so which
// experts were in memory, what the drive did and where time was lost are unknown.
import type { Answer } from './answer.js'
import { rateOf } from './log.js'

export interface RunFacts {
  readonly model: string
  readonly answer: Answer
  readonly seed: number | null
  /** Bytes of the largest routed expert; 0 where there is none. */
  readonly expertBytes: number
}

/** One line. Rates per second, times in seconds, sizes in bytes, shares from 0 to 1. */
export function runReport({ model, answer, seed, expertBytes }: RunFacts): string {
  const { stats, reason } = answer.ending
  const { promptTokens, completionTokens, firstTokenSeconds, decodeSeconds } = stats
  const hasDrawn = completionTokens > 0
  return JSON.stringify({
    model,
    backend: 'cpu',
    load_mode: 'mapped',
    exact: true,
    reproducible: true,
    finish_reason: reason,
    seed,
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    tokens: answer.tokens,
    text: answer.text,
    reasoning: answer.reasoning,
    ttft_s: hasDrawn ? firstTokenSeconds : null,
    prefill_tok_s: hasDrawn ? rateOf(promptTokens, firstTokenSeconds) : null,
    decode_tok_s: rateOf(completionTokens - 1, decodeSeconds),
    experts: {
      requests: stats.expertRequests,
      hits: { gpu: 0, ram: null },
      misses: null,
      slots: { gpu: 0, ram: 0 },
      bytes_each: expertBytes,
    },
    ...unmeasured,
  })
}

const recall = { '1x': null, '2x': null, '4x': null }

const unmeasured = {
  io: {
    bytes_read: null,
    bytes_needed: null,
    ceiling_bytes_s: null,
    busy: null,
    share_of_bound: null,
    attainable: null,
  },
  stall_s: { nvme: null, copy: null, compute: null, policy: null },
  prefetch: {
    issued: null,
    used: null,
    cancelled: null,
    wasted_bytes: null,
    recall: { d1: recall, d2: recall, d4: recall },
    verdict: null,
  },
}
