// `serve`: the model behind HTTP. What a person may have got wrong is said before the model is loaded;
// the server listens at once and says that it loads. The first SIGTERM or Ctrl-C lets what is in work
// end within --grace, a second one ends the program at once.
import { readFileSync } from 'node:fs'
import { setFlagsFromString } from 'node:v8'
import type { Dashboard } from '../../tui/dashboard.js'
import { type Source, saidOf } from '../../tui/source.js'
import { Engine } from '../engine/engine.js'
import { systemReason } from '../model/error.js'
import { isLoopback, Keys } from '../serve/keys.js'
import { newService } from '../serve/newservice.js'
import { serverSnapshot } from '../serve/routes/telemetry.js'
import { Server } from '../serve/server.js'
import type { Service } from '../serve/service.js'
import { openText } from './conversation.js'
import { Failure, Status, tell } from './failure.js'
import { refuseUnavailable, type ServeFlags, wishesOf } from './flags.js'
import { Interrupts } from './interrupt.js'
import { logFor } from './log.js'
import { neededTags } from './request.js'
import { findModel, packageVersion } from './source.js'
import { ceilingOf, mayWatch } from './watch.js'
import { withTuned } from './withtuned.js'

const KEEP_ALIVE_MS = 10_000
/**
 * Of the heaps of threads, where what is new begins. By itself a thread that allocates little begins with 1 MiB and
 * less: what belongs to a request that lasts a second then counts as old, and piles up for minutes.
 */
const YOUNG_MIB = 8
const KEY_CHARS_LEAST = 8
/** Kept for the dashboard. */
const LOG_LINES_MAX = 2000

/** Returns the exit status, once the server was told to end. */
export async function serve(model: string | undefined, flags: ServeFlags): Promise<number> {
  refuseUnavailable(flags)
  // While the dashboard is open the log is one of its views.
  const screen: { lines: string[] | null } = { lines: mayWatch(flags) ? [] : null }
  const log = logFor(flags, (line) =>
    screen.lines === null ? tell(line) : keep(screen.lines, line),
  )
  if (flags.json) log.line('--json has no effect on serve')
  const keys = new Keys(readKeys(flags.apiKeyFile, process.env.RING_API_KEY))
  if (keys.areNone && !isLoopback(flags.host) && !flags.insecure) {
    throw new Failure(
      `--host ${flags.host} is reached from other machines, so it needs a key (--api-key-file, RING_API_KEY), or --insecure`,
      Status.usage,
    )
  }
  const source = findModel(model)
  const tokenizer = await openText(source.folder)
  if (flags.reasoningBudget !== undefined) neededTags(tokenizer)
  const wishes = {
    ...wishesOf(await withTuned(source, flags, log), tokenizer.size),
    sequences: flags.parallel,
    drawShare: flags.streamShare,
  }
  // For all threads that begin from here on.
  setFlagsFromString(`--min-semi-space-size=${YOUNG_MIB}`)
  const service = newService({
    model: flags.alias ?? source.name,
    folder: source.folder,
    tokenizer,
    version: packageVersion(),
    parallel: flags.parallel,
    queue: flags.queue,
    deadlineMs: flags.timeout * 1000,
    keepAliveMs: KEEP_ALIVE_MS,
    reasoningBudget: flags.reasoningBudget ?? null,
    ceiling: ceilingOf(flags),
    showsText: flags.showText,
    open: (grammars) =>
      Engine.open(source.folder, { ...wishes, grammars }, (line) => log.line(line)),
    log: (line) => log.line(line),
  })
  const interrupts = new Interrupts()
  const server = await listen(service, flags, keys)
  log.line(`listening on ${server.url}`)
  const dashboard = screen.lines === null ? null : await dashboardOf(service, screen.lines)
  const left = dashboard?.run().finally(() => {
    screen.lines = null
  })
  try {
    log.opened(source.name, await service.keeper.load(), flags.ctxSize)
    log.line(
      `ready: ${flags.parallel} at once, ${flags.queue} may wait; streams keep ${Math.round(flags.streamShare * 100)} % of the time while prompts are read`,
    )
    await asked(interrupts, left, async () => {
      dashboard?.end()
      await left
      log.line(`${interrupts.received ?? 'left'}: what is in work may end, within ${flags.grace} s`)
      await server.close(flags.grace * 1000)
    })
    return Status.done
  } catch (error) {
    dashboard?.end()
    await left
    await server.close(0)
    throw error
  }
}

async function dashboardOf(service: Service, log: readonly string[]): Promise<Dashboard> {
  const { Dashboard } = await import('../../tui/dashboard.js')
  return new Dashboard(sourceOf(service, log))
}

/** The server of this process as the dashboard sees it. */
function sourceOf(service: Service, log: readonly string[]): Source {
  return {
    name: 'the server',
    log,
    take: async (hasMap) => serverSnapshot(service, hasMap),
    cancel: async ({ slot, number }) => {
      service.keeper.cancel(slot, number)
    },
    said: (row) => saidOf(row === null ? undefined : service.streams?.textOf(row.number)),
  }
}

function keep(lines: string[], line: string): void {
  lines.push(line)
  if (lines.length > LOG_LINES_MAX) lines.shift()
}

/**
 * Waits for a signal, or for the person who watches to leave, then does the work of ending; a second
 * signal meanwhile ends the program.
 */
async function asked(
  interrupts: Interrupts,
  left: Promise<void> | undefined,
  end: () => Promise<void>,
): Promise<void> {
  let wake = () => {}
  const signal = new Promise<void>((resolve) => {
    wake = resolve
  })
  void left?.then(wake, wake)
  await interrupts.during(wake, async () => {
    await signal
    await end()
  })
}

async function listen(service: Service, flags: ServeFlags, keys: Keys): Promise<Server> {
  const { host, port } = flags
  try {
    return await Server.listen(service, { host, port, keys })
  } catch (error) {
    await service.prompts.close()
    throw new Failure(`cannot listen on ${host}, port ${port}: ${systemReason(error)}`)
  }
}

/** One key a line, and the one of the environment. */
function readKeys(file: string | undefined, single: string | undefined): string[] {
  const keys = file === undefined ? [] : linesOf(file)
  if (file !== undefined && keys.length === 0) {
    throw new Failure(`${file}: holds no key: expected one a line`)
  }
  if (single !== undefined && single !== '') keys.push(single)
  const isPoor = (key: string) => key.length < KEY_CHARS_LEAST || /\s/.test(key)
  if (keys.some(isPoor)) {
    throw new Failure(
      `an API key must have ${KEY_CHARS_LEAST} characters or more, none of them blank`,
    )
  }
  return keys
}

function linesOf(file: string): string[] {
  try {
    const lines = readFileSync(file, 'utf8').split('\n')
    return lines.map((line) => line.trim()).filter((line) => line !== '')
  } catch (error) {
    throw new Failure(`${file}: cannot be read: ${systemReason(error)}`)
  }
}
