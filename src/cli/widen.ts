// `widen`: a larger model with the routing of a smaller one. Everything that can be refused is refused
// before the first byte is written.
import { openCheckpoint } from '../model/checkpoint.js'
import { widen as widened } from '../model/widen.js'
import { companionsIn, refuseUsedFolder, writeModel } from './newmodel.js'
import type { WidenFlags } from './newmodelflags.js'
import { findModel } from './source.js'

/** Returns the exit status; throws for everything that a person is to be told. */
export async function widen(model: string, out: string, flags: WidenFlags): Promise<number> {
  refuseUsedFolder(out)
  const { folder } = findModel(model)
  const checkpoint = widened(openCheckpoint(folder), flags)
  return await writeModel(out, checkpoint, companionsIn(folder), flags)
}
