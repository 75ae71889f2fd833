/**
 * Changes to hollow copies of real checkpoints, for tests of how they open and how they are refused.
 */
import { type Checkpoint, openCheckpoint } from '../src/model/checkpoint.js'
import { ModelError } from '../src/model/error.js'
import {
  type Hollow,
  type HollowTensor,
  hollowOf,
  inTemporaryFolder,
  writeHollow,
} from './hollow.js'

/** Opens a hollow copy of a checkpoint after `change`; `change` may write to the folder as well. */
export function openChanged(
  source: string,
  change: (hollow: Hollow) => void,
  after: (folder: string) => void = () => {},
): Checkpoint {
  return inTemporaryFolder((folder) => {
    const hollow = hollowOf(source)
    change(hollow)
    writeHollow(hollow, folder)
    after(folder)
    return openCheckpoint(folder)
  })
}

/** The message with which a changed copy is refused. */
export function refusal(
  source: string,
  change: (hollow: Hollow) => void,
  after?: (folder: string) => void,
): string {
  try {
    openChanged(source, change, after)
  } catch (error) {
    if (error instanceof ModelError) return error.message
    throw error
  }
  throw new Error('expected a ModelError, found an open checkpoint')
}

/** The entry of a tensor in whichever shard holds it. */
export function tensor(hollow: Hollow, name: string): HollowTensor {
  for (const shard of hollow.shards.values()) {
    const entry = shard.tensors.get(name)
    if (entry !== undefined) return entry
  }
  throw new Error(`no tensor ${name}`)
}

/** Gives a tensor another name, in its shard and in the index. */
export function rename(hollow: Hollow, from: string, to: string): void {
  const entry = tensor(hollow, from)
  for (const [file, shard] of hollow.shards) {
    if (!shard.tensors.delete(from)) continue
    shard.tensors.set(to, entry)
    hollow.index?.delete(from)
    hollow.index?.set(to, file)
  }
}

/** Takes a tensor out of its shard and out of the index. */
export function remove(hollow: Hollow, name: string): void {
  for (const shard of hollow.shards.values()) shard.tensors.delete(name)
  hollow.index?.delete(name)
}
