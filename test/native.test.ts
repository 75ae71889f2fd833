/**
 * The C++ tests of the native floor (test/native), each case shown here under its own name. The
 * program runs once and prints a line for every case; a case without a line was not reached, because
 * one before it ended the program. A case for an instruction set that this processor lacks is skipped.
 */
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, it } from 'vitest'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const program = join(root, 'build/native/Release/ring_tests')

/** About twenty times what a run takes; the program ends a case that hangs by itself. */
const runMsMax = 120_000

interface Ending {
  status: number | null
  signal: string | null
  lines: string[]
  complaint: string
}

function run(...parameters: string[]): Ending {
  const { status, signal, stdout, stderr, error } = spawnSync(program, parameters, {
    encoding: 'utf8',
    timeout: runMsMax,
  })
  if (error !== undefined) throw error
  const lines = stdout.split('\n').filter((line) => line !== '')
  return { status, signal, lines, complaint: stderr.trim() }
}

/** The line that judges a case, or what became of the program when there is none. */
function verdictOf(name: string, ending: Ending): string {
  const verdict = /^(?:ok|not ok|skip) /
  const line = ending.lines.find((text) => {
    const rest = text.replace(verdict, '')
    return verdict.test(text) && (rest === name || rest.startsWith(`${name}: `))
  })
  if (line !== undefined) return line
  const reached = ending.lines.at(-1) ?? 'nothing'
  return `not reached: ${ending.signal ?? `status ${ending.status}`} after "${reached}"`
}

const names = existsSync(program) ? run('--list').lines : []

describe('the program of the C++ tests', () => {
  it('is built and has cases, each with a name of its own', () => {
    expect(existsSync(program), 'run node scripts/bootstrap.mjs first').toBe(true)
    expect(names.length).toBeGreaterThan(0)
    expect(new Set(names).size).toBe(names.length)
  })

  it('fails when a claim does not hold', () => {
    const { status, lines } = run('--canary')
    expect(lines).toEqual(['not ok canary: 1 + 1 is 2'])
    expect(status).toBe(1)
  })

  it('refuses a name that no case has', () => {
    const { status, lines, complaint } = run('no such case')
    expect(lines).toEqual([])
    expect(complaint).toBe('no case is named no such case')
    expect(status).toBe(2)
  })
})

describe('the native floor', () => {
  let ending: Ending = { status: null, signal: null, lines: [], complaint: '' }

  beforeAll(() => {
    if (names.length > 0) ending = run()
  }, runMsMax)

  for (const name of names) {
    it(name, (context) => {
      const verdict = verdictOf(name, ending)
      if (verdict.startsWith('skip ')) context.skip(verdict.slice(`skip ${name}: `.length))
      expect(verdict).toBe(`ok ${name}`)
    })
  }

  it('leaves by the status that its cases deserve', () => {
    const failed = ending.lines.filter((line) => line.startsWith('not ok '))
    expect(ending.status, ending.complaint).toBe(failed.length > 0 ? 1 : 0)
  })
})
