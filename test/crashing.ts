// Jobs that are ended at any instant and begun again with the same command, for the tests of `batch` and
// the figures of the same. At most two processes run at a time, as many as a small machine has cores.
import { existsSync, readFileSync, statSync, truncateSync, watch } from 'node:fs'
import type { prepared } from './batching.js'
import { command, type Ended, ended, started } from './command.js'
import { Dice } from './dice.js'

type Job = ReturnType<typeof prepared>

export const flags = ['-q', '--max-batch', '8', '--journal-every', '3']
export const environment = { RING_THREADS: '1' }

const most = 2
let running = 0
const queue: (() => void)[] = []

/** Waits until fewer than two processes run, and then for this one. */
export async function inTurn<Result>(work: () => Promise<Result>): Promise<Result> {
  if (running >= most) await new Promise<void>((resolve) => queue.push(resolve))
  else running += 1
  try {
    return await work()
  } finally {
    const next = queue.shift()
    if (next === undefined) running -= 1
    else next()
  }
}

/** Runs a job to its end. */
export function finished(words: readonly string[]): Promise<Ended> {
  return inTurn(() => command(words, { environment }))
}

/** One run that is killed once files of the folder have changed so often. */
export function killedAtChange(
  words: readonly string[],
  folder: string,
  changes: number,
): Promise<Ended> {
  return inTurn(() => {
    const child = started(words, environment)
    const end = ended(child)
    atChange(folder, changes, () => child.kill('SIGKILL'))
    return end
  })
}

/** One run that kills itself within its how manyth write of the journal. */
function killedWithinWrite(words: readonly string[], write: number): Promise<Ended> {
  const dies = { RING_BATCH_DIES_AT_WRITE: String(write) }
  return inTurn(() => ended(started(words, { ...environment, ...dies })))
}

export interface Killing {
  /** Kills at which lines were unfinished, and those of them within a write of the journal. */
  readonly kills: number
  readonly withinWrites: number
}

/** Kills a job so often, a third of the times within a write of its journal. Throws where one was not killed. */
export async function killOften(
  job: Job,
  folder: string,
  lines: number,
  kills: number,
  seed: number,
): Promise<Killing> {
  const dice = new Dice(seed)
  const words = [...job.words, ...flags]
  let withinWrites = 0
  for (let kill = 0; kill < kills; kill += 1) {
    const isWithin = kill % 3 === 2
    const { signal, stderr } = isWithin
      ? await killedWithinWrite(words, 2 + dice.below(6))
      : await killedAtChange(words, folder, 1 + dice.below(12))
    if (signal !== 'SIGKILL') throw new Error(`it ended before kill ${kill + 1}: ${stderr}`)
    if (linesOf(job.output) >= lines) throw new Error(`no line was left at kill ${kill + 1}`)
    if (isWithin) withinWrites += 1
  }
  return { kills, withinWrites }
}

/** Calls when files of the folder have changed so often. */
export function atChange(folder: string, changes: number, then: () => void): void {
  let seen = 0
  const watcher = watch(folder, () => {
    seen += 1
    if (seen < changes) return
    watcher.close()
    then()
  })
}

/** Cuts a file off at random, or puts zeros where its end was, as some file systems do. */
function lose(path: string, least: number, dice: Dice, hasZeros: boolean): void {
  if (!existsSync(path)) return
  const { size } = statSync(path)
  const kept = least + dice.below(size - least + 1)
  truncateSync(path, kept)
  if (hasZeros) truncateSync(path, size)
}

/** Loses what was written last of the journal, of the output, or of both. */
export function loseEnds({ journal, output }: Job, dice: Dice, kill: number): void {
  // More than a power cut could take: anything but the head, which is safe before the rest begins.
  const head = readFileSync(journal).indexOf('\n') + 1
  if (kill % 3 !== 0) lose(journal, head, dice, kill % 4 === 1)
  if (kill % 3 !== 1) lose(output, 0, dice, kill % 4 === 2)
}

export function linesOf(path: string): number {
  return existsSync(path) ? readFileSync(path, 'utf8').split('\n').length - 1 : 0
}

export function sorted(path: string): string[] {
  return readFileSync(path, 'utf8').split('\n').sort()
}
