// `pull` as a person starts it: what it says, how it ends when it is killed, interrupted or out of space, and
// two of them at once.
import { spawnSync } from 'node:child_process'
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { command, type Ended, ended, lastObject, started } from './command.js'
import { Dice } from './dice.js'
import { hubModel, wholeFiles } from './hubserver.js'
import {
  aHubForEachTest,
  environment,
  expectWhole,
  first,
  folder,
  hub,
  pulled,
  shard,
} from './pulling.js'

aHubForEachTest()

describe('two pulls at once', () => {
  it('the second waits and says so, then finds all there', async () => {
    let letGo = () => {}
    const until = new Promise<void>((resolve) => {
      letGo = resolve
    })
    const seconds: Promise<Ended>[] = []
    hub.fault = ({ file, host, method }) => {
      if (file !== shard || host !== 'storage' || method !== 'GET') return null
      // The first pull is in the middle of a file: now the second begins, and must come to wait.
      const second = started(['pull', hubModel, '--json'], environment())
      seconds.push(ended(second))
      second.stderr.on('data', (text: string) => {
        if (text.includes('is under way; waiting')) letGo()
      })
      return { kind: 'held', bytes: 1000, until }
    }
    const { readBytes, plan } = await pulled()
    expect(seconds).toHaveLength(1)
    const [end] = await Promise.all(seconds)
    expect(end?.status).toBe(0)
    expect(readBytes).toBe(plan.bytes)
    expect(end === undefined ? {} : lastObject(end)).toMatchObject({ bytes_read: 0 })
    expectWhole()
  })
})

describe('the command', () => {
  it('says what it fetched and what comes next, and that opens', async () => {
    hub.files = wholeFiles
    const { status, stdout } = await command(['pull', hubModel, '-q'], {
      environment: environment(),
    })
    expect(stdout).toMatch(/10 files, 19\.2 MB, checked.*\n.*\nnext: ring-offload inspect some-org/)
    expect(status).toBe(0)
    const opened = await command(['inspect', hubModel, '--json'], { environment: environment() })
    expect(lastObject(opened)).toMatchObject({ layers: { total: 6 } })
  })

  it('killed at random bytes again and again, it loses nothing', async () => {
    const dice = new Dice(5)
    let fetched = 0
    for (let kills = 0; kills < 6; kills += 1) {
      const child = started(['pull', hubModel, '--jobs', '2'], environment())
      const end = ended(child)
      hub.fault = ({ host, method }) => {
        if (host !== 'storage' || method !== 'GET') return null
        const kill = () => child.kill('SIGKILL')
        return { kind: 'stall', bytes: dice.below(80_000), reached: kill }
      }
      expect((await end).signal).toBe('SIGKILL')
      const { plan } = await pulled({ isDry: true })
      expect(plan.hasBytes).toBeGreaterThanOrEqual(fetched)
      fetched = plan.hasBytes
    }
    expect(fetched).toBeGreaterThan(0)
    hub.fault = () => null
    const end = await command(['pull', hubModel, '--json'], { environment: environment() })
    expect(end.status).toBe(0)
    expect(lastObject(end)).toMatchObject({ bytes_there_before: fetched })
    expectWhole()
  })

  it('ends within a second of Ctrl-C and says how to go on', async () => {
    const child = started(['pull', hubModel], environment())
    const end = ended(child)
    let killed = 0
    const reached = () => {
      killed = performance.now()
      child.kill('SIGINT')
    }
    first(shard, { kind: 'stall', bytes: 1000, reached })
    const { status, stderr } = await end
    expect(performance.now() - killed).toBeLessThan(1000)
    expect(status).toBe(130)
    expect(stderr).toMatch(/stopped; the same command goes on from here/)
  })

  it('a drive that fills up: one line, and what came is kept', async (context) => {
    const drive = join(folder, 'small')
    mkdirSync(drive)
    const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=8m', 'tmpfs', drive])
    if (mounted.status !== 0) return context.skip('no small drive can be mounted here')
    hub.files = wholeFiles
    try {
      hub.fault = ({ file, host, method }) => {
        if (file !== shard || host !== 'storage' || method !== 'GET') return null
        // Somebody else takes the space after it was looked at.
        writeFileSync(join(drive, 'other'), Buffer.alloc(5_000_000))
        return null
      }
      const words = ['pull', hubModel, '--include', shard, '--dir', drive, '-q']
      const full = await command(words, { environment: environment() })
      expect(full.status).toBe(1)
      expect(full.stderr).toMatch(/^ring-offload: model-00001[^\n]+ENOSPC[^\n]+\n$/)
      rmSync(join(drive, 'other'))
      hub.fault = () => null
      const end = await command([...words, '--json'], { environment: environment() })
      expect(end.status).toBe(0)
      expect(lastObject(end).bytes_there_before).toBeGreaterThan(0)
    } finally {
      spawnSync('umount', [drive])
    }
  })

  it('refuses what is no name of a model', async () => {
    const end = await command(['pull', '../../etc'], { environment: environment() })
    expect([end.status, end.stdout]).toEqual([1, ''])
    expect(end.stderr).toMatch(/^ring-offload: MODEL: expected ORG\/NAME[^\n]+\n$/)
  })
})
