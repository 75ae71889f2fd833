// `pull`: says what will be fetched and where to, how far it is, and what to do next. The fetching itself
// is src/hub's.
import { type Pulled, type PullPlan, pull as pullModel } from '../hub/pull.js'
import { hubName } from '../model/locate.js'
import { Failure, Status } from './failure.js'
import { Interrupts, statusOfSignal } from './interrupt.js'
import { Log } from './log.js'
import { Progress, sizeText, timeText } from './progress.js'
import type { PullFlags } from './pullflags.js'

/** Returns the exit status; throws for everything that a person is to be told. */
export async function pull(model: string, flags: PullFlags): Promise<number> {
  const named = hubName(model)
  if (named === null) {
    throw new Failure(`MODEL: expected ORG/NAME or ORG/NAME@REVISION, found ${model}`)
  }
  const log = new Log(flags.quiet ?? false)
  const progress = new Progress(model, flags.quiet ?? false)
  const interrupts = new Interrupts()
  const controller = new AbortController()
  const wishes = {
    ...named,
    include: flags.include ?? [],
    exclude: flags.exclude ?? [],
    drives: flags.dir ?? [],
    jobs: flags.jobs,
    isDry: flags.dryRun ?? false,
    patience: {
      signal: controller.signal,
      stallSeconds: flags.stall,
      pauseSeconds: 1,
      onWait: (reason: string, seconds: number) =>
        log.line(`${reason}; trying again in ${timeText(seconds)}`),
    },
    onPlan: (plan: PullPlan) => sayPlan(model, plan, log),
    onLocked: (owner: string) =>
      log.line(`another pull of ${model} (process ${owner.split(' ')[0]}) is under way; waiting`),
    onProgress: progress.show.bind(progress),
  }
  try {
    const pulled = await interrupts
      .during(
        () => controller.abort(),
        () => pullModel(wishes),
      )
      .finally(() => progress.end())
    const text = wishes.isDry ? dryText(model, pulled.plan) : summary(model, pulled)
    const report = () => `${JSON.stringify(reportOf(model, pulled, wishes.isDry))}\n`
    process.stdout.write(flags.json ? report() : text)
    return Status.done
  } catch (error) {
    if (interrupts.received === null || !controller.signal.aborted) throw error
    log.line('stopped; the same command goes on from here')
    return statusOfSignal(interrupts.received)
  }
}

function sayPlan(model: string, plan: PullPlan, log: Log): void {
  const { commit, places, otherFormats, bytes, hasBytes } = plan
  log.line(`${model} at ${commit.slice(0, 12)}: ${places.length} files, ${sizeText(bytes)}`)
  if (hasBytes > 0) log.line(`${sizeText(hasBytes)} of them are there already`)
  if (otherFormats.length > 0) {
    const skipped = otherFormats.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)
    log.line(
      `left out: ${otherFormats.length} files of other formats, ${sizeText(skipped)}; --include GLOB fetches them`,
    )
  }
  for (const { folder, neededBytes, freeBytes } of plan.rooms) {
    log.line(`${folder} takes ${sizeText(neededBytes)}; its drive has ${sizeText(freeBytes)} free`)
  }
}

function summary(model: string, { plan, readBytes, seconds }: Pulled): string {
  const fetched =
    readBytes === 0
      ? 'all there already'
      : `${sizeText(readBytes)} in ${timeText(seconds)}, ${sizeText(readBytes / seconds)}/s`
  return `${model}: ${plan.places.length} files, ${sizeText(plan.bytes)}, checked; ${fetched}\n${plan.folder}\nnext: ring-offload inspect ${model}\n`
}

function dryText(model: string, { places, rooms, bytes, hasBytes }: PullPlan): string {
  const lines = places.map(({ file, hasBytes: has, isWhole }) => {
    const state = isWhole ? 'there' : has > 0 ? `${sizeText(has)} there` : ''
    return `${sizeText(file.sizeBytes).padStart(8)}  ${file.path}${state === '' ? '' : `  (${state})`}`
  })
  const isShort = rooms.some(({ neededBytes, freeBytes }) => neededBytes > freeBytes)
  const room = isShort ? '; there is not enough space' : ''
  const total = `${model}: ${sizeText(bytes - hasBytes)} of ${sizeText(bytes)} would be fetched${room}`
  return [...lines, total].map((line) => `${line}\n`).join('')
}

/** Sizes in bytes, times in seconds. Keys as `pull --json` prints them. */
function reportOf(model: string, { plan, readBytes, seconds }: Pulled, isDry: boolean) {
  return {
    model,
    commit: plan.commit,
    folder: plan.folder,
    dry_run: isDry,
    bytes: plan.bytes,
    bytes_there_before: plan.hasBytes,
    bytes_read: readBytes,
    seconds,
    files: plan.places.map(({ file, blob, hasBytes }) => ({
      path: file.path,
      bytes: file.sizeBytes,
      bytes_there_before: hasBytes,
      [file.digest.kind === 'git' ? 'git_sha1' : 'sha256']: file.digest.hex,
      blob,
    })),
    left_out: plan.otherFormats.map(({ path }) => path),
    drives: plan.rooms.map(({ folder, neededBytes, freeBytes }) => ({
      folder,
      bytes_needed: neededBytes,
      bytes_free: freeBytes,
    })),
  }
}
