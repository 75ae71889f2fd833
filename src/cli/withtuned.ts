// Flags as given, and settings that `tune` found in the place of those that were not. What reads settings
// is loaded only where there may be some, since nearly every command asks.
import { isAnythingTuned } from '../engine/tunedfolder.js'
import type { SharedFlags } from './flags.js'
import type { Log } from './log.js'
import type { ModelSource } from './source.js'

export async function withTuned<Flags extends SharedFlags & { readonly maxBatch?: unknown }>(
  source: ModelSource,
  flags: Flags,
  log: Log,
  isBatch = false,
): Promise<Flags> {
  if (!flags.tuned || !isAnythingTuned(process.env)) return flags
  const { tunedFlags } = await import('./tuned.js')
  return tunedFlags(source, flags, log, isBatch)
}
