// A greedy continuation, step by step as the engine's loop does it, with the raw logits of every draw:
// nothing is rounded or left out, so two runs that agree here agree in all their bits.
import { createHash } from 'node:crypto'
import { expect } from 'vitest'
import { Reason } from '../native/index.js'
import type { OpenModel } from '../src/engine/open.js'
import { step } from '../src/engine/step.js'
import { batchOf, outcomeOf } from './models.js'

export interface Continuation {
  readonly tokens: readonly number[]
  /** Of each draw, its logits' bytes as a digest. */
  readonly logits: readonly string[]
}

/** Draws `count` tokens after the prompt, which is read in steps of the model's own size. */
export function continuation(
  model: OpenModel,
  prompt: readonly number[],
  count: number,
  stage = model.stage,
): Continuation {
  const { vocabulary } = model.checkpoint.config
  const outcome = { ...outcomeOf(1), logits: new Float32Array(vocabulary), message: '' }
  const read = [...prompt]
  const tokens: number[] = []
  const logits: string[] = []
  for (let computed = 0; tokens.length < count; ) {
    const batch = batchOf(read.slice(computed, computed + model.plan.stepTokens), 0, computed)
    const reason = step(stage, batch, outcome)
    expect([reason, outcome.message]).toEqual([Reason.done, ''])
    computed += batch.tokens.length
    if (computed < read.length) continue
    const token = outcome.next[0] ?? -1
    expect(token).toBeGreaterThanOrEqual(0)
    for (const value of outcome.logits)
      if (!Number.isFinite(value)) throw new Error('a logit is NaN')
    read.push(token)
    tokens.push(token)
    logits.push(createHash('sha256').update(outcome.logits).digest('hex'))
  }
  return { tokens, logits }
}
