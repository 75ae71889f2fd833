// The built program, started as a person starts it, in a clean environment: what it wrote and how it
// ended. A terminal comes from `script`, where that is installed.
import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from 'node:child_process'
import { cpSync, mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { ringTiny, root } from './paths.js'

/** The file that `ring-offload` stands for. */
export const program = join(root, 'dist/src/cli/main.js')

export interface Ended {
  /** Null when a signal ended it. */
  readonly status: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

export interface Circumstances {
  /** All of standard input; left out: empty. */
  readonly input?: string
  readonly environment?: Readonly<Record<string, string>>
}

/** A program that runs; its standard input is open. */
export function started(
  words: readonly string[],
  environment: Circumstances['environment'] = {},
): ChildProcessWithoutNullStreams {
  return spawn(process.execPath, [program, ...words], { env: clean(environment) })
}

export function ended(child: ChildProcessWithoutNullStreams): Promise<Ended> {
  const said = { stdout: '', stderr: '' }
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].setEncoding('utf8').on('data', (text: string) => {
      said[name] += text
    })
  }
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (status, signal) => resolve({ status, signal, ...said }))
  })
}

/** Runs the program to its end. */
export function command(words: readonly string[], circumstances: Circumstances = {}) {
  const child = started(words, circumstances.environment)
  // A program that refuses its flags does not wait for its input.
  child.stdin.on('error', () => {})
  child.stdin.end(circumstances.input ?? '')
  return ended(child)
}

/** The object on the last line of stdout. */
export function lastObject({ stdout }: Ended): Record<string, unknown> {
  const object: Record<string, unknown> = JSON.parse(stdout.trimEnd().split('\n').at(-1) ?? '')
  return object
}

/** The program on a terminal of its own, whose keys are this child's standard input; null without `script`. */
export function onTerminal(
  words: readonly string[],
  environment: Circumstances['environment'] = {},
): ChildProcessWithoutNullStreams | null {
  if (spawnSync('script', ['--version']).status !== 0) return null
  const line = [process.execPath, program, ...words].map((word) => `'${word}'`).join(' ')
  return spawn('script', ['-qefc', line, os.devNull], {
    env: clean({ TERM: 'xterm', ...environment }),
  })
}

/** A folder for one test's files, removed after `use`. */
export async function withFolder<Result>(
  use: (folder: string) => Promise<Result>,
): Promise<Result> {
  const folder = mkdtempSync(join(os.tmpdir(), 'ring-'))
  try {
    return await use(folder)
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** A copy of the bundled model that a test may damage. */
export function copyOfTiny(folder: string): string {
  const copy = join(folder, 'copy')
  cpSync(ringTiny, copy, { recursive: true })
  return copy
}

/** No variable of whoever runs the tests, npm's included, reaches the program, and nothing of other runs. */
function clean(environment: Readonly<Record<string, string>>): Record<string, string> {
  const { PATH = '', HOME = '' } = process.env
  return {
    PATH,
    HOME,
    TMPDIR: os.tmpdir(),
    RING_PROFILE: 'none',
    RING_NO_TUNED: '1',
    ...environment,
  }
}
