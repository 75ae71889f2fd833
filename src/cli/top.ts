// `top`: the dashboard on a running server, which may go and come back meanwhile. Without a terminal it
// prints a line, or with --json an object, for each second.
import { readFileSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'
import { Dashboard } from '../../tui/dashboard.js'
import { History } from '../../tui/history.js'
import { secondLine, secondObject } from '../../tui/plain.js'
import { ServerSource } from '../../tui/source.js'
import { systemReason } from '../model/error.js'
import { Failure, Status, tell } from './failure.js'
import type { TopFlags } from './screenflags.js'

/** Returns the exit status, once a person has left or all seconds were told. */
export async function top(flags: TopFlags): Promise<number> {
  const source = new ServerSource(urlOf(flags.url), keyOf(flags.apiKeyFile))
  const isPlain = flags.json === true || flags.seconds !== undefined
  if (isPlain || !process.stdout.isTTY || !process.stdin.isTTY) {
    return tellSeconds(source, flags)
  }
  const dashboard = new Dashboard(source)
  process.once('SIGTERM', () => dashboard.end())
  await dashboard.run()
  return Status.done
}

async function tellSeconds(source: ServerSource, flags: TopFlags): Promise<number> {
  const history = new History()
  let trouble = ''
  for (let told = 0; told < (flags.seconds ?? Number.POSITIVE_INFINITY); ) {
    try {
      const snapshot = await source.take(false, null)
      if (trouble !== '') tell(`${source.name} answers again`)
      trouble = ''
      history.add(snapshot)
      const object = secondObject(snapshot, history)
      process.stdout.write(
        `${flags.json === true ? JSON.stringify(object) : secondLine(snapshot, history)}\n`,
      )
      told += 1
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error)
      if (message !== trouble) tell(`${message}; trying again`)
      trouble = message
    }
    if (told !== flags.seconds) await pause(1000)
  }
  return Status.done
}

function urlOf(text: string): URL {
  const whole = text.includes('://') ? text : `http://${text}`
  const url = URL.canParse(whole) ? new URL(whole) : null
  if (url !== null && /^https?:$/.test(url.protocol)) {
    // What a relative address is added to.
    if (!url.pathname.endsWith('/')) url.pathname += '/'
    return url
  }
  throw new Failure(
    `--url ${text}: expected an address such as http://127.0.0.1:8080`,
    Status.usage,
  )
}

/** The first key of the file, or that of the environment. */
function keyOf(file: string | undefined): string | undefined {
  if (file === undefined) return process.env.RING_API_KEY || undefined
  try {
    const [first] = readFileSync(file, 'utf8')
      .trim()
      .split(/\s*\n\s*/)
    return first
  } catch (error) {
    throw new Failure(`${file}: cannot be read: ${systemReason(error)}`)
  }
}
