// Checkpoints that our own writer has written, for tests of what is in them.
import { mkdirSync } from 'node:fs'
import { type NewCheckpoint, planShards, writeCheckpoint } from '../src/model/writer.js'

/** Writes a checkpoint without companions into a new folder and gives the folder back. */
export async function written(
  folder: string,
  { config, tensors }: NewCheckpoint,
  shardBytes = 2 ** 31,
): Promise<string> {
  mkdirSync(folder)
  const onlooker = { signal: new AbortController().signal, onWritten: () => {} }
  await writeCheckpoint(folder, config, planShards(tensors, shardBytes), [], onlooker)
  return folder
}
