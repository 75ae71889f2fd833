// The checkout as a person finds it, in a folder of a test's own: everything is there by link, and what a
// command writes is gone with the folder. `npx` is a stand-in that starts the built program at once, where
// the real one would first link the package; a script in TypeScript loses its types and is run as a module
// of the package, so that it may import ring-offload by name.
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import ts from 'typescript'
import { program } from './command.js'
import { root } from './paths.js'

export interface Checkout {
  readonly folder: string
  readonly environment: Record<string, string>
}

/** Links a checkout into an empty folder. */
export function checkoutIn(folder: string): Checkout {
  const place = join(folder, 'ring-offload')
  const commands = join(folder, 'commands')
  for (const made of [place, commands]) mkdirSync(made)
  for (const name of readdirSync(root)) {
    if (!name.startsWith('.')) symlinkSync(join(root, name), join(place, name))
  }
  const npx = `#!/bin/sh\nshift\nexec '${process.execPath}' '${program}' "$@"\n`
  writeFileSync(join(commands, 'npx'), npx, { mode: 0o755 })
  const { PATH = '' } = process.env
  const environment = {
    PATH: [commands, PATH].join(delimiter),
    // Nothing of other runs, and nothing is left behind.
    HOME: folder,
    RING_PROFILE: 'none',
  }
  return { folder: place, environment }
}

/** A script of the checkout without its types; returns its new name. */
export function typeless(checkout: Checkout, path: string): string {
  const name = path.replace(/\.ts$/, '.typeless.js').replaceAll('/', '-')
  const text = readFileSync(join(checkout.folder, path), 'utf8')
  const { ESNext: module } = ts.ModuleKind
  const { outputText } = ts.transpileModule(text, {
    compilerOptions: { module, target: ts.ScriptTarget.ES2022, verbatimModuleSyntax: true },
  })
  writeFileSync(join(checkout.folder, name), outputText)
  return name
}

/** What a program wrote, and how it ended. */
export interface Ran {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

/** Words for a shell, run in the checkout with no input; `child` may be ended with all that it started. */
export function shell(
  { folder, environment }: Checkout,
  words: string,
  more: Record<string, string> = {},
): { readonly child: ChildProcess; readonly ran: Promise<Ran> } {
  const child = spawn('bash', ['-euo', 'pipefail', '-c', words], {
    cwd: folder,
    env: { ...environment, ...more },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  })
  const said = { stdout: '', stderr: '' }
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].setEncoding('utf8').on('data', (text: string) => {
      said[name] += text
    })
  }
  const ran = new Promise<Ran>((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (status) => resolve({ status, ...said }))
  })
  return { child, ran }
}

/** Ends a shell and all that it started. */
export function endAll({ pid }: ChildProcess): void {
  if (pid !== undefined) process.kill(-pid, 'SIGTERM')
}
