// A job that is ended at any instant, in any way, goes on with the same command, and its output has the
// bytes of a job that was never disturbed. The tests run beside each other, two processes at a time;
// npm run proof -- batch-crash shows the same for a longer job and more kills.
import { spawn } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { beforeAll, describe, expect, it } from 'vitest'
import { mixedLines, prepared } from './batching.js'
import { ended, program, started, withFolder } from './command.js'
import {
  atChange,
  environment,
  finished,
  flags,
  inTurn,
  killedAtChange,
  killOften,
  linesOf,
  loseEnds,
  sorted,
} from './crashing.js'
import { Dice } from './dice.js'

const lines = mixedLines(60, 60, 11)
const kills = 4
const patienceMs = 240_000

/** The output of a job that nobody disturbs. */
let undisturbed: Buffer

beforeAll(async () => {
  await withFolder(async (folder) => {
    const { words, output } = prepared(folder, lines)
    const { status, stderr } = await finished([...words, '-q'])
    expect(status, stderr).toBe(0)
    undisturbed = readFileSync(output)
  })
}, patienceMs)

describe.concurrent('a job that is killed', () => {
  it(
    'at random instants and within writes of its journal, ends with the same bytes',
    async () => {
      await withFolder(async (folder) => {
        const job = prepared(folder, lines)
        const killed = await killOften(job, folder, lines.length, kills, 3)
        expect(killed.withinWrites).toBeGreaterThan(0)
        expect(linesOf(job.output)).toBeGreaterThan(0)
        expect((await finished([...job.words, ...flags])).status).toBe(0)
        expect(readFileSync(job.output).equals(undisturbed)).toBe(true)
      })
    },
    patienceMs,
  )

  it(
    'and loses what was written last of either file goes on all the same',
    async () => {
      await withFolder(async (folder) => {
        const job = prepared(folder, lines)
        const words = [...job.words, ...flags]
        const dice = new Dice(4)
        for (let kill = 0; kill < 3; kill += 1) {
          const end = await killedAtChange(words, folder, 12 + dice.below(12))
          expect(end).toMatchObject({ signal: 'SIGKILL' })
          loseEnds(job, dice, kill)
        }
        expect((await finished(words)).status).toBe(0)
        expect(readFileSync(job.output).equals(undisturbed)).toBe(true)
      })
    },
    patienceMs,
  )

  it(
    'with answers in the order in which they are done, has the same lines',
    async () => {
      await withFolder(async (folder) => {
        const job = prepared(folder, lines)
        const words = [...job.words, ...flags, '--order', 'done']
        for (const changes of [9, 19]) {
          const end = await killedAtChange(words, folder, changes)
          expect(end).toMatchObject({ signal: 'SIGKILL' })
        }
        expect((await finished(words)).status).toBe(0)
        expect(sorted(job.output)).toEqual(undisturbed.toString().split('\n').sort())
      })
    },
    patienceMs,
  )
})

describe.concurrent('a job whose disk fills up', () => {
  it(
    'says so in one line, loses nothing and goes on when there is room',
    async () => {
      await withFolder(async (folder) => {
        const job = prepared(folder, lines)
        // The system takes no byte beyond this size of a file, as on a full disk.
        const blocks = Math.floor(undisturbed.length / 2048)
        const limit = `trap '' XFSZ; ulimit -f ${blocks}; exec "$0" "$@"`
        const shell = ['-c', limit, process.execPath, program, ...job.words, ...flags]
        for (let attempt = 0; attempt < 2; attempt += 1) {
          const { status, stdout, stderr } = await inTurn(() => ended(spawn('bash', shell)))
          expect([status, stdout]).toEqual([1, ''])
          const said = stderr.split('\n').filter((line) => !line.includes('in.jsonl:'))
          expect(said.join('\n')).toMatch(
            /^ring-offload: \S+out\.jsonl\S*: cannot be written: [^\n]+; \d+ of 60 lines are done, the same command goes on\n$/,
          )
        }
        expect((await finished([...job.words, ...flags])).status).toBe(0)
        expect(readFileSync(job.output).equals(undisturbed)).toBe(true)
      })
    },
    patienceMs,
  )
})

describe.concurrent('a job that is parked', () => {
  it(
    'by Ctrl-C, says how to go on, keeps what was drawn, and ends with the same bytes',
    async () => {
      await withFolder(async (folder) => {
        const job = prepared(folder, lines)
        // In order, so that results are written from the beginning on: that is what tells the time.
        const inOrder = ['--max-batch', '8', '--window', '1', '--journal-every', '9999s']
        const words = [...job.words, ...inOrder]
        const { status, stderr } = await inTurn(() => {
          const child = started(words, environment)
          atChange(folder, 12, () => child.kill('SIGINT'))
          return ended(child)
        })
        expect(stderr).toMatch(/parked: \d+ of 60 lines are done, the same command goes on\n$/)
        expect(status).toBe(130)
        expect(readFileSync(job.journal, 'utf8')).toContain('"tokens"')
        // What was in work is not computed again, and nothing of it stays in the end.
        expect(readdirSync(`${job.output}.kv`)).not.toEqual([])
        const end = await finished(words)
        expect(end.status).toBe(0)
        expect(end.stderr).toMatch(/[1-9]\d* tokens came back from the drive/)
        expect(existsSync(`${job.output}.kv`)).toBe(false)
        expect(readFileSync(job.output).equals(undisturbed)).toBe(true)
      })
    },
    patienceMs,
  )
})
