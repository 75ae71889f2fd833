// Figures of what a job survives, at the length that they are asked for: 200 lines, 30 kills, a full disk,
// writes that are lost. About 3 minutes.
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { beforeAll, it } from 'vitest'
import { mixedLines, prepared } from './batching.js'
import { ended, program, withFolder } from './command.js'
import { finished, flags, killedAtChange, killOften, loseEnds } from './crashing.js'
import { Dice } from './dice.js'
import { note } from './figure.js'

const lines = mixedLines(200, 60, 11)
const kills = Number(process.env.RING_PROOF_KILLS ?? 30)
const losses = 5

/** The output of a job that nobody disturbs. */
let undisturbed: Buffer

beforeAll(async () => {
  await withFolder(async (folder) => {
    const { words, output } = prepared(folder, lines)
    await finished([...words, '-q'])
    undisturbed = readFileSync(output)
  })
})

/** Runs the job to its end; whether its output is that of the undisturbed one. */
async function isSame({ words, output }: ReturnType<typeof prepared>): Promise<boolean> {
  const { status } = await finished([...words, ...flags])
  return status === 0 && readFileSync(output).equals(undisturbed)
}

it('kills', async () => {
  await withFolder(async (folder) => {
    const job = prepared(folder, lines)
    const killed = await killOften(job, folder, lines.length, kills, 3)
    const same = await isSame(job)
    note(
      'batch of 200 lines, killed with SIGKILL and resumed each time: its output',
      `${same ? 'the same bytes' : 'OTHER BYTES'} after ${killed.kills} kills with lines unfinished, ${killed.withinWrites} of them within a write of the journal`,
      'the same bytes after 30 kills, 10 within a write',
      same && killed.kills >= 30 && killed.withinWrites >= 10,
    )
  })
})

it('lost writes', async () => {
  await withFolder(async (folder) => {
    const job = prepared(folder, lines)
    const dice = new Dice(4)
    for (let kill = 0; kill < losses; kill += 1) {
      await killedAtChange([...job.words, ...flags], folder, 20 + dice.below(20))
      loseEnds(job, dice, kill)
    }
    const same = await isSame(job)
    note(
      'the same job, unsynced writes of output and journal dropped at every kill',
      `${same ? 'the same bytes' : 'OTHER BYTES'} after ${losses} kills`,
      'the same bytes',
      same,
    )
  })
})

it('full disk', async () => {
  await withFolder(async (folder) => {
    const job = prepared(folder, lines)
    const blocks = Math.floor(undisturbed.length / 2048)
    const limit = `trap '' XFSZ; ulimit -f ${blocks}; exec "$0" "$@"`
    const shell = ['-c', limit, process.execPath, program, ...job.words, ...flags]
    const { status } = await ended(spawn('bash', shell))
    const same = await isSame(job)
    note(
      'the same job, the disk full half-way, then with room',
      `status ${status}, then ${same ? 'the same bytes' : 'OTHER BYTES'}`,
      'status 1, then the same bytes',
      status === 1 && same,
    )
  })
})
