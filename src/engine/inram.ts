// Which weights that every token needs stay in RAM, where the processor multiplies with them, because the
// memory of a GPU has no room for all: the head first, then the MLPs (dense ones and shared experts) of the
// first layers, one after the other. Attention, its keys and values and the routers stay on the GPU. The
// embedding always stays in RAM: a step wants a few of its rows only. Pure; what fits is asked of the caller.
import type { Checkpoint } from '../model/checkpoint.js'
import { ModelError } from '../model/error.js'
import { matricesOf, weightBytes } from './budget.js'

/** What stays in RAM beside the embedding. */
export interface InRam {
  readonly head: boolean
  /** Of so many first layers. */
  readonly mlps: number
  readonly bytes: number
}

/** Weights that may stay there, as they are stored. */
export interface Movable {
  /** 0 where the head is the same tensor. */
  readonly embeddingBytes: number
  readonly headBytes: number
  /** [layer] of a dense MLP or a shared expert; 0: it has none. */
  readonly mlpBytes: readonly number[]
}

const nothingInRam: InRam = { head: false, mlps: 0, bytes: 0 }

export function movableOf({ embedding, head, layers }: Checkpoint): Movable {
  return {
    embeddingBytes: embedding === head ? 0 : weightBytes(embedding),
    headBytes: weightBytes(head),
    mlpBytes: layers.map(({ mlp }) =>
      mlp === null ? 0 : matricesOf(mlp).reduce((sum, matrix) => sum + weightBytes(matrix), 0),
    ),
  }
}

/** From nothing to all of it; each leaves the GPU more room than the one before. */
function* waysInRam({ headBytes, mlpBytes }: Movable): Generator<InRam> {
  yield nothingInRam
  let bytes = headBytes
  yield { head: true, mlps: 0, bytes }
  for (const [layer, each] of mlpBytes.entries()) {
    bytes += each
    if (each > 0) yield { head: true, mlps: layer + 1, bytes }
  }
}

/** The first way that fits, or the last one. `attempt` throws ModelError where it does not. */
export function firstFitting(movable: Movable, attempt: (way: InRam) => void): InRam {
  let last = nothingInRam
  for (const way of waysInRam(movable)) {
    last = way
    try {
      attempt(way)
      return way
    } catch (error) {
      if (!(error instanceof ModelError)) throw error
    }
  }
  return last
}
