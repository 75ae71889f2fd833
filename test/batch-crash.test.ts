// A job that is ended at any instant, in any way, goes on with the same command, and its output has the
// bytes of a job that was never disturbed.

import { spawn } from 'node:child_process'
import { existsSync, readFileSync, statSync, truncateSync, watch } from 'node:fs'
import { beforeAll, describe, expect, it } from 'vitest'
import { mixedLines, prepared } from './batching.js'
import { command, ended, program, started, withFolder } from './command.js'
import { Dice } from './dice.js'

const lines = mixedLines(200, 60, 11)
const flags = ['-q', '--max-batch', '8', '--journal-every', '3']
const environment = { RING_THREADS: '1' }

/** The output of a job that nobody disturbs. */
let undisturbed: Buffer

beforeAll(async () => {
  await withFolder(async (folder) => {
    const { words, output } = prepared(folder, lines)
    const { status, stderr } = await command([...words, '-q'])
    expect(status, stderr).toBe(0)
    undisturbed = readFileSync(output)
  })
}, 120_000)

describe('a job that is killed', () => {
  it('30 times, 10 of them within a write of its journal, ends with the same bytes', async () => {
    await withFolder(async (folder) => {
      const job = prepared(folder, lines)
      const dice = new Dice(3)
      for (let kill = 0; kill < 30; kill += 1) {
        const within = kill % 3 === 2 ? 2 + dice.below(6) : 0
        const dies = within === 0 ? {} : { RING_BATCH_DIES_AT_WRITE: String(within) }
        const child = started([...job.words, ...flags], { ...environment, ...dies })
        const end = ended(child)
        if (within === 0) killAtChange(child, folder, 1 + dice.below(12))
        expect(await end).toMatchObject({ signal: 'SIGKILL' })
        expect(linesOf(job.output)).toBeLessThan(lines.length)
      }
      expect(linesOf(job.output)).toBeGreaterThan(0)
      expect((await command([...job.words, ...flags], { environment })).status).toBe(0)
      expect(readFileSync(job.output).equals(undisturbed)).toBe(true)
    })
  }, 240_000)

  it('and loses what was written last of either file goes on all the same', async () => {
    await withFolder(async (folder) => {
      const job = prepared(folder, lines)
      const dice = new Dice(4)
      for (let kill = 0; kill < 5; kill += 1) {
        const child = started([...job.words, ...flags], environment)
        const end = ended(child)
        killAtChange(child, folder, 20 + dice.below(20))
        expect(await end).toMatchObject({ signal: 'SIGKILL' })
        // More than a power cut could take: anything but the head, which is safe before the rest begins.
        const head = readFileSync(job.journal).indexOf('\n') + 1
        if (kill % 3 !== 0) lose(job.journal, head, dice, kill % 4 === 1)
        if (kill % 3 !== 1) lose(job.output, 0, dice, kill % 4 === 2)
      }
      expect((await command([...job.words, ...flags], { environment })).status).toBe(0)
      expect(readFileSync(job.output).equals(undisturbed)).toBe(true)
    })
  }, 240_000)

  it('with answers in the order in which they are done, has the same lines', async () => {
    await withFolder(async (folder) => {
      const job = prepared(folder, lines.slice(0, 60))
      const words = [...job.words, ...flags, '--order', 'done']
      for (const changes of [9, 19]) {
        const child = started(words, environment)
        const end = ended(child)
        killAtChange(child, folder, changes)
        expect(await end).toMatchObject({ signal: 'SIGKILL' })
      }
      expect((await command(words, { environment })).status).toBe(0)
      const other = prepared(folder, lines.slice(0, 60), 'other')
      expect((await command([...other.words, ...flags], { environment })).status).toBe(0)
      expect(sorted(job.output)).toEqual(sorted(other.output))
    })
  }, 240_000)
})

describe('a job whose disk fills up', () => {
  it('says so in one line, loses nothing and goes on when there is room', async () => {
    await withFolder(async (folder) => {
      const job = prepared(folder, lines)
      // The system takes no byte beyond this size of a file, as on a full disk.
      const blocks = Math.floor(undisturbed.length / 2048)
      const limit = `trap '' XFSZ; ulimit -f ${blocks}; exec "$0" "$@"`
      for (let attempt = 0; attempt < 2; attempt += 1) {
        const child = spawn('bash', [
          '-c',
          limit,
          process.execPath,
          program,
          ...job.words,
          ...flags,
        ])
        const { status, stdout, stderr } = await ended(child)
        expect([status, stdout]).toEqual([1, ''])
        const said = stderr.split('\n').filter((line) => !line.includes('in.jsonl:'))
        expect(said.join('\n')).toMatch(
          /^ring-offload: \S+out\.jsonl\S*: cannot be written: [^\n]+; \d+ of 200 lines are done, the same command goes on\n$/,
        )
      }
      expect((await command([...job.words, ...flags], { environment })).status).toBe(0)
      expect(readFileSync(job.output).equals(undisturbed)).toBe(true)
    })
  }, 240_000)
})

describe('a job that is parked', () => {
  it('by Ctrl-C, says how to go on, keeps what was drawn, and ends with the same bytes', async () => {
    await withFolder(async (folder) => {
      const job = prepared(folder, lines)
      const words = [...job.words, '--max-batch', '8', '--journal-every', '9999s']
      const child = started(words, environment)
      const end = ended(child)
      atChange(folder, 12, () => child.kill('SIGINT'))
      const { status, stderr } = await end
      expect(stderr).toMatch(/parked: \d+ of 200 lines are done, the same command goes on\n$/)
      expect(status).toBe(130)
      expect(readFileSync(job.journal, 'utf8')).toContain('"tokens"')
      expect((await command(words, { environment })).status).toBe(0)
      expect(readFileSync(job.output).equals(undisturbed)).toBe(true)
    })
  }, 240_000)
})

/** Calls when files of the folder have changed so often. */
function atChange(folder: string, changes: number, then: () => void): void {
  let seen = 0
  const watcher = watch(folder, () => {
    seen += 1
    if (seen < changes) return
    watcher.close()
    then()
  })
}

function killAtChange(child: ReturnType<typeof started>, folder: string, changes: number): void {
  atChange(folder, changes, () => child.kill('SIGKILL'))
}

/** Cuts a file off at random, or puts zeros where its end was, as some file systems do. */
function lose(path: string, least: number, dice: Dice, hasZeros: boolean): void {
  if (!existsSync(path)) return
  const { size } = statSync(path)
  const kept = least + dice.below(size - least + 1)
  truncateSync(path, kept)
  if (hasZeros) truncateSync(path, size)
}

function linesOf(path: string): number {
  return existsSync(path) ? readFileSync(path, 'utf8').split('\n').length - 1 : 0
}

function sorted(path: string): string[] {
  return readFileSync(path, 'utf8').split('\n').sort()
}
