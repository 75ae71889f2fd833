// `tune`: which settings make this model faster on this machine, found by runs in turn, and kept for the
// commands that answer. What was confirmed before an early end is kept too. How the search goes is
// tuning.ts; here it is begun, kept and told.
import { flagOf, type Settings, settingNames, settingsText } from '../engine/settings.js'
import {
  checkKeepable,
  dropTuned,
  forgetTuned,
  keepTuned,
  readTuned,
  type TunedEntry,
  tunedPath,
} from '../engine/tuned.js'
import { openText } from './conversation.js'
import { Status } from './failure.js'
import { refuseUnavailable } from './flags.js'
import { Interrupts, statusOfSignal } from './interrupt.js'
import { logFor } from './log.js'
import { findModel, type ModelSource } from './source.js'
import { buildHere, circumstancesOf, placeOf } from './tuned.js'
import type { TuneFlags } from './tuneflags.js'
import { type Found, speedOf, speedText, Tuning } from './tuning.js'

/** Returns the exit status; throws for everything that a person is to be told. */
export async function tune(model: string | undefined, flags: TuneFlags): Promise<number> {
  refuseUnavailable(flags)
  const log = logFor(flags)
  const source = findModel(model)
  if (flags.show) return show(source, flags)
  const place = placeOf(source)
  if (flags.forget) {
    const wasThere = forgetTuned(process.env, place)
    log.line(wasThere ? 'forgotten' : 'nothing was known')
    return Status.done
  }
  for (const name of idleOf(flags)) log.line(`--${name} has no effect on tune`)
  checkKeepable(process.env)
  const tokenizer = await openText(source.folder)
  const asked = circumstancesOf(flags)
  const build = buildHere()
  const keep = (settings: Settings, speed: number | null) => {
    const tuned = new Date().toISOString()
    keepTuned(process.env, place, { flags: asked, build, tuned, settings, speed })
  }
  const interrupts = new Interrupts()
  const tuning = new Tuning(source, tokenizer, flags, log, keep)
  const found = await interrupts.during(
    () => tuning.stop(),
    () => tuning.run(),
  )
  const isNothing = Object.keys(found.settings).length === 0
  // What an earlier search found was not found again.
  if (isNothing && found.isComplete && flags.try === undefined) dropTuned(process.env, place, asked)
  const path = tunedPath(process.env, place)
  process.stdout.write(
    flags.json
      ? `${JSON.stringify(reportOf(source.name, asked, found, path))}\n`
      : `${source.name}: ${text(found)}\n`,
  )
  if (interrupts.received === null) return Status.done
  log.line('stopped; what was confirmed until then is kept')
  return statusOfSignal(interrupts.received)
}

/** What runs of a search leave out. */
function idleOf({ trace, kvDir, profile = 'none', saveProfile }: TuneFlags): string[] {
  const names = { trace, 'kv-dir': kvDir, 'save-profile': saveProfile }
  const given = Object.entries(names).filter(([, value]) => value !== undefined)
  return [...given.map(([name]) => name), ...(profile === 'none' ? [] : ['profile'])]
}

function show(source: ModelSource, flags: TuneFlags): number {
  const place = placeOf(source)
  const entries = readTuned(process.env, place)
  const build = buildHere()
  const isStale = (entry: TunedEntry) => entry.build !== build
  if (flags.json) {
    const tuned = entries.map((entry) => ({
      flags: entry.flags,
      tuned: entry.tuned,
      is_used: !isStale(entry),
      settings: named(entry.settings),
      speed: entry.speed,
    }))
    process.stdout.write(
      `${JSON.stringify({ model: source.name, tuned, kept_in: tunedPath(process.env, place) })}\n`,
    )
    return Status.done
  }
  const lines = entries.map((entry) => {
    const speed = entry.speed === null ? '' : `, ${entry.speed.toFixed(3)} times as fast`
    const stale = isStale(entry) ? ' (of another build, not used)' : ''
    const under = entry.flags === '' ? '' : ` ${entry.flags}`
    return `${source.name}${under}: ${settingsText(entry.settings) || 'as they are'}${speed}, ${entry.tuned.slice(0, 10)}${stale}`
  })
  if (lines.length === 0) lines.push(`${source.name}: no settings were found on this machine`)
  process.stdout.write(`${lines.join('\n')}\n`)
  return Status.done
}

function text({ settings, trials, last }: Found): string {
  if (Object.keys(settings).length === 0) {
    return `nothing that was tried is faster than the settings as they are (${trials.length} ${trials.length === 1 ? 'contest' : 'contests'})`
  }
  const won = trials.filter(({ isWon }) => isWon)
  const [only] = won
  const shown = last ?? (won.length === 1 ? only : undefined)
  const speed = shown === undefined ? '' : `, ${speedText(shown)} as fast`
  return `${settingsText(settings)}${speed}; used from now on, --no-tuned to ignore`
}

/** Ratios are of seconds, above 1 where what was tried is faster. Keys are a promise to scripts. */
function reportOf(model: string, flags: string, found: Found, path: string) {
  const { last } = found
  return {
    model,
    flags,
    complete: found.isComplete,
    runs: found.runs,
    tokens_per_run: found.tokensPerRun,
    noise: found.noise,
    trials: found.trials.map(({ name, from, to, isWon, speed, forward, reverse, refusal }) => ({
      setting: flagOf(name),
      ...{ from, to, kept: isWon, refusal, forward, reverse },
      speed: Number.isFinite(speed) ? speed : null,
    })),
    settings: named(found.settings),
    speed: last === null ? null : speedOf(last),
    kept_in: path,
  }
}

/** By the names of flags. */
function named(settings: Settings): Record<string, unknown> {
  return Object.fromEntries(
    settingNames
      .filter((name) => settings[name] !== undefined)
      .map((name) => [flagOf(name), settings[name]]),
  )
}
