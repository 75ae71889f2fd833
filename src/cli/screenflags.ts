// Flags of the dashboard: `top`, and --tui of the commands that can be watched in place.
import type { Command } from 'commander'
import { filled, whole } from './argument.js'
import { addAll, option } from './flags.js'

export interface TopFlags {
  readonly url: string
  readonly apiKeyFile?: string
  readonly seconds?: number
  readonly json?: boolean
}

/** Whether the dashboard is opened in place. */
export interface ScreenFlags {
  readonly tui?: boolean
}

export function addTopFlags(command: Command): Command {
  return addAll(command, 'Dashboard:', [
    option('--url <url>', 'the server').default('http://127.0.0.1:8080'),
    option('--api-key-file <file>', 'holds the key; so does RING_API_KEY', filled('a file')),
    option('--seconds <n>', 'tell so many seconds, a line each, and end', whole(1, 2 ** 30)),
    option('--json', 'one JSON object for each second'),
  ])
}

export function addScreenFlags(command: Command): Command {
  return addAll(command, 'Dashboard:', [option('--tui', 'watch every tier at work meanwhile')])
}
