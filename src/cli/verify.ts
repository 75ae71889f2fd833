// `verify`: the checksums of a checkpoint, recorded by the first run and compared by those after it.
// What differs is the command's data; how far it is, and what it goes on with, are said beside it.
import type { Difference } from '../engine/difference.js'
import {
  type Verification,
  type VerifyPlan,
  verify as verifyFiles,
  type WrongFile,
} from '../engine/verify.js'
import { oneLine, Status } from './failure.js'
import { refuseUnavailable, type VerifyFlags, verifyProof } from './flags.js'
import { Interrupts, statusOfSignal } from './interrupt.js'
import { type Log, logFor } from './log.js'
import { Progress, sizeText, timeText } from './progress.js'
import { findModel } from './source.js'

/** Lines about what differs; a file that was written over would fill the screen. */
const LINES_MAX = 100

/** Returns the exit status; throws for everything that a person is to be told. */
export async function verify(model: string | undefined, flags: VerifyFlags): Promise<number> {
  refuseUnavailable(flags)
  const log = logFor(flags)
  const { name, folder } = findModel(model)
  const progress = new Progress(name, flags.quiet ?? false)
  const interrupts = new Interrupts()
  const controller = new AbortController()
  const wishes = {
    record: flags.record ?? false,
    signal: controller.signal,
    onPlan: (plan: VerifyPlan) => sayPlan(plan, log),
    onProgress: progress.show.bind(progress),
  }
  const found = await interrupts
    .during(
      () => controller.abort(),
      () => verifyFiles(folder, wishes),
    )
    .finally(() => progress.end())
  process.stdout.write(
    flags.json ? `${JSON.stringify(reportOf(name, found))}\n` : text(name, found),
  )
  if (found.recordedFiles > found.provenFiles) log.line(verifyProof)
  if (interrupts.received !== null && !found.isComplete) {
    log.line('stopped; the next verify goes on from here')
    return statusOfSignal(interrupts.received)
  }
  const isRight = found.differing.length === 0 && found.wrong.length === 0
  return isRight ? Status.done : Status.failed
}

function sayPlan({ bytes, resumedBytes, folder, changed }: VerifyPlan, log: Log): void {
  for (const { file, recorded } of changed) {
    log.line(`${file} has changed since ${dateText(recorded)}, and is recorded anew`)
  }
  if (resumedBytes > 0) {
    log.line(`an earlier run has read ${sizeText(resumedBytes)} of ${sizeText(bytes)}; going on`)
  }
  log.line(`checksums are kept in ${folder}`)
}

/** Sizes in bytes, times in seconds. Keys as `verify --json` prints them. */
function reportOf(model: string, found: Verification) {
  return {
    model,
    files: found.files,
    bytes: found.bytes,
    bytes_read: found.readBytes,
    seconds: found.seconds,
    complete: found.isComplete,
    recorded: found.recordedFiles,
    compared: found.comparedFiles,
    since: found.since?.toISOString() ?? null,
    proven: found.provenFiles,
    wrong: found.wrong,
    differing: found.differing.map(({ since, ...place }) => ({
      ...place,
      since: since.toISOString(),
    })),
  }
}

function text(name: string, found: Verification): string {
  const { differing, wrong } = found
  const lines = [...wrong.map(wrongText), ...differing.slice(0, LINES_MAX).map(differenceText)]
  if (differing.length > LINES_MAX) lines.push(`and ${differing.length - LINES_MAX} more places`)
  return [...lines, `${name}: ${summary(found)}`].map((line) => `${line}\n`).join('')
}

function wrongText({ file, path, sha256, expected }: WrongFile): string {
  return oneLine(
    `${file}: is not the hub's: sha256 ${sha256}, expected ${expected}; remove ${path} and pull it again`,
  )
}

function differenceText({ file, tensor, byte, bytes, since }: Difference): string {
  const reach = sizeText(bytes)
  return `${file}: ${tensor} differs at byte ${byte} (within ${reach}) since ${dateText(since)}`
}

function summary(found: Verification): string {
  const { files, bytes, readBytes, seconds, since, recordedFiles, comparedFiles } = found
  const read = `${sizeText(readBytes)} of ${sizeText(bytes)} read in ${seconds < 60 ? `${seconds.toFixed(1)} s` : timeText(seconds)}`
  const parts = [`${counted(files, 'file')}, ${read}`]
  if (recordedFiles > 0) parts.push(`${recordedFiles} recorded`)
  if (comparedFiles > 0 && since !== null) {
    parts.push(`${comparedFiles} compared with ${dateText(since)}: ${judgement(found)}`)
  }
  const { provenFiles, wrong } = found
  if (provenFiles > 0) parts.push(`${provenFiles} with the sha256 of the hub`)
  if (wrong.length > 0) parts.push(`${counted(wrong.length, 'file')} with another`)
  return parts.join('; ')
}

function judgement({ differing }: Verification): string {
  if (differing.length === 0) return 'nothing differs'
  const tensors = new Set(differing.map(({ file, tensor }) => `${file}/${tensor}`))
  return `${counted(tensors.size, 'tensor')} not as recorded`
}

function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`
}

/** To the minute. */
function dateText(date: Date): string {
  return `${date.toISOString().slice(0, 16).replace('T', ' ')} UTC`
}
