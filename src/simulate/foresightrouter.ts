// What a trace does not tell of the routers that it was recorded from: the bias they choose by, and the
// groups of experts. Reads a few kilobytes of a checkpoint.
import { basename } from 'node:path'
import { bundledModel } from '../model/bundled.js'
import { openCheckpoint } from '../model/checkpoint.js'
import { ModelError } from '../model/error.js'
import { windowOf, withFile } from '../model/window.js'
import type { Routing } from './routing.js'

export interface Routers {
  readonly groups: number
  readonly groupsKept: number
  /** [MoE layer][expert], or null where none of them has any. */
  readonly bias: Float32Array | null
}

/** Routers of which nothing is known. */
export const plainRouters: Routers = { groups: 1, groupsKept: 1, bias: null }

/** Throws ModelError when the checkpoint cannot be read, or the trace is not of such a model. */
export function readRouters(folder: string, { name, layers, experts, topK }: Routing): Routers {
  const { config, files, layers: weights } = openCheckpoint(folder)
  const found = weights.flatMap(({ router }, layer) => (router === null ? [] : [layer]))
  const isSame = String(found) === String(layers)
  if (!isSame || config.experts !== experts || config.topK !== topK) {
    throw new ModelError(`${name}: was not recorded from a model like ${folder}`)
  }
  const { groups, groupsKept } = config
  const matrices = found.map((layer) => weights[layer]?.routerBias ?? null)
  if (matrices.every((matrix) => matrix === null)) return { groups, groupsKept, bias: null }
  const bias = new Float32Array(found.length * experts)
  for (const [moeLayer, matrix] of matrices.entries()) {
    if (matrix === null) continue
    const { file, offset, dtype } = matrix
    const width = dtype === 'F32' ? 4 : 2
    const bytes = withFile(files[file]?.path ?? '', (open) =>
      windowOf(open, offset, width * experts),
    )
    for (let index = 0; index < experts; index += 1) {
      bias[moeLayer * experts + index] =
        dtype === 'F32' ? bytes.readFloatLE(4 * index) : bfloat16(bytes.readUInt16LE(2 * index))
    }
  }
  return { groups, groupsKept, bias }
}

/** Those of a trace that was recorded from the bundled model; of any other nothing is known. */
export function knownRouters(routing: Routing): Routers {
  const folder = bundledModel()
  return routing.model === basename(folder) ? readRouters(folder, routing) : plainRouters
}

function bfloat16(bits: number): number {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt16LE(bits, 2)
  return bytes.readFloatLE()
}
