// Settings that `tune` found, put in the place of those that a person has not given, and named in one line.
// They never stop a command: what is damaged, or of another build, is passed over with its reason.
import { resolve } from 'node:path'
import { modelName } from '../batch/identity.js'
import { chooseBackend } from '../engine/backend.js'
import type { ExpertBudget } from '../engine/budget.js'
import { reasonOf } from '../engine/manifest.js'
import { type SettingName, type Settings, settingNames, settingsText } from '../engine/settings.js'
import {
  buildKey,
  readTuned,
  type TunedEntry,
  type TunedPlace,
  tunedPlace,
} from '../engine/tuned.js'
import type { SharedFlags } from './flags.js'
import type { Log } from './log.js'
import { type ModelSource, packageVersion } from './source.js'

/** The flags as given, and for those left out what was found to be faster under the others. */
export function tunedFlags<Flags extends SharedFlags & { readonly maxBatch?: unknown }>(
  source: ModelSource,
  flags: Flags,
  log: Log,
  isBatch: boolean,
): Flags {
  try {
    const entry = entryFor(placeOf(source), flags, log)
    if (entry === null) return flags
    const given = (name: SettingName) =>
      flags[name] !== undefined || (name === 'maxBatch' && !isBatch)
    const names = settingNames.filter((name) => !given(name))
    const used: Settings = Object.fromEntries(
      names.flatMap((name) => {
        const value = entry.settings[name]
        return value === undefined ? [] : [[name, value]]
      }),
    )
    if (Object.keys(used).length === 0) return flags
    log.line(
      `settings of tune, ${entry.tuned.slice(0, 10)}: ${settingsText(used)}; --no-tuned to ignore`,
    )
    return { ...flags, ...used }
  } catch (error) {
    log.line(`settings of tune are not used: ${reasonOf(error)}`)
    return flags
  }
}

/** What settings of a model are found for, here. */
export function placeOf({ folder }: ModelSource): TunedPlace {
  return tunedPlace(folder, modelName(folder))
}

/** This build, by which settings of another one are known. */
export function buildHere(): string {
  return buildKey(packageVersion())
}

/** The flags on which it depends which settings are fast, as a person gives them; empty: none was given. */
export function circumstancesOf({
  backend,
  expertRam,
  expertVram,
  loadMode = 'auto',
  math,
  mirror = [],
  paced,
}: SharedFlags): string {
  const parts = mirror.map((folder) => `--mirror ${resolve(folder)}`).sort()
  if (chooseBackend(backend).gpu !== null) parts.push('--backend cuda')
  if (expertRam !== undefined) parts.push(`--expert-ram ${budgetText(expertRam)}`)
  if (expertVram !== undefined) parts.push(`--expert-vram ${budgetText(expertVram)}`)
  if (loadMode !== 'auto') parts.push(`--load-mode ${loadMode}`)
  if (math !== 'f32') parts.push(`--math ${math}`)
  if (paced !== undefined) {
    const { bytesPerSecond, latencySeconds } = paced
    parts.push(`--paced ${shortly(bytesPerSecond / 1e9)}GB/s,${shortly(latencySeconds * 1e6)}us`)
  }
  const rung = process.env.RING_IO ?? ''
  if (rung !== '') parts.push(`RING_IO=${rung}`)
  return parts.join(' ')
}

function budgetText(budget: ExpertBudget): string {
  return 'share' in budget ? `${shortly(100 * budget.share)}%` : String(budget.bytes)
}

/** Without what arithmetic leaves behind the sixth digit. */
function shortly(value: number): number {
  return Number(value.toPrecision(6))
}

function entryFor(place: TunedPlace, flags: SharedFlags, log: Log): TunedEntry | null {
  const entries = readTuned(process.env, place)
  const asked = circumstancesOf(flags)
  const entry = entries.find((one) => one.flags === asked)
  if (entry === undefined) {
    const others = entries.map((one) => (one.flags === '' ? 'no flags' : one.flags))
    if (others.length > 0)
      log.line(`settings of tune stand for other flags (${others.join('; ')}) and are not used`)
    return null
  }
  if (entry.build === buildHere()) return entry
  log.line('settings of tune are of another build and are not used; tune finds them anew')
  return null
}
