// Programs as graders: what they say of answers, and the limits that the system keeps for them. Where this
// system keeps none, that it is refused is all there is to see.
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import os from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { type Limits, runProgram } from '../src/batch/confined.js'
import { gradeOf } from '../src/batch/grade.js'
import { Graders } from '../src/batch/graders.js'
import { chatLine, linesIn, prepared, question, textLine } from './batching.js'
import { command, ended, started, withFolder } from './command.js'
import { until } from './serving.js'

const limits: Limits = { seconds: 2, memoryBytes: 2 ** 27, fileBytes: 2 ** 20 }
const never = new AbortController().signal

async function run(script: string, isConfined = true, wanted: Partial<Limits> = {}) {
  const words = ['bash', '-c', script]
  return (await runProgram(words, 'the answer', { ...limits, ...wanted }, isConfined, never)).ended
}

const keepsLimits = await Graders.open(new Map([['sh', 1]]), true).then(
  () => true,
  (error: Error) => !error.message.includes('--grade-unconfined'),
)
if (!keepsLimits) console.warn('no namespaces here: confined graders are not tried')
const confined = describe.skipIf(!keepsLimits)

/** Where the folders of graders are. */
const left = () => readdirSync(os.tmpdir()).filter((name) => name.startsWith('ring-grade-'))

describe.each([
  ['confined', true],
  ['unconfined', false],
])('a program, %s,', (_title, isConfined) => {
  const itRuns = it.skipIf(isConfined && !keepsLimits)

  itRuns('has the answer on its standard input, as a pipe', async () => {
    expect(await run('[ "$(cat)" = "the answer" ]', isConfined)).toBe('status 0')
    expect(await run('[ "$(cat /dev/stdin)" = "the answer" ]', isConfined)).toBe('status 0')
    expect(await run('exit 0', isConfined)).toBe('status 0')
  })

  itRuns('ends with a status or by a signal, which is told', async () => {
    expect(await run('exit 7', isConfined)).toBe('status 7')
    expect(await run('kill -SEGV $$', isConfined)).toBe('signal SIGSEGV')
    expect(await run('no-such-program', isConfined)).toBe('refused')
  })

  itRuns('that never ends is ended, and so is what it began', async () => {
    const mark = `61.${process.pid}${isConfined ? 1 : 2}`
    expect(await run(`sleep ${mark} & sleep ${mark}`, isConfined, { seconds: 0.3 })).toBe('time')
    expect(await run(`sleep ${mark} > /dev/null & exit 0`, isConfined)).toBe('status 0')
    await until(async () => !isRunning(mark))
  })

  itRuns('that takes the processor is ended by the system', async () => {
    expect(await run('while :; do :; done', isConfined, { seconds: 1 })).toBe('time')
  })

  itRuns('gets no more memory than it may have', async () => {
    const takes = (bytes: number) => `head -c ${bytes} /dev/zero | tail -c ${bytes} > /dev/null`
    expect(await run(takes(2 ** 20), isConfined)).toBe('status 0')
    expect(await run(takes(2 ** 28), isConfined)).not.toBe('status 0')
  })

  itRuns('writes no larger file than it may', async () => {
    expect(await run('head -c 500000 /dev/zero > a', isConfined)).toBe('status 0')
    expect(await run('head -c 5000000 /dev/zero > a', isConfined)).not.toBe('status 0')
  })

  itRuns('leaves no folder behind', async () => {
    const before = left().length
    expect(await run('echo x > a && [ "$PWD" = "$HOME" ] && ls a', isConfined)).toBe('status 0')
    expect(left().length).toBe(before)
  })

  itRuns('ends when it is wanted no longer', async () => {
    const parking = new AbortController()
    const running = runProgram(['sleep', '60'], '', limits, isConfined, parking.signal)
    setImmediate(() => parking.abort())
    expect((await running).ended).toBe('stopped')
  })
})

confined('a confined program', () => {
  it('reaches no network', async () => {
    let met = 0
    const server = net.createServer((socket) => {
      met += 1
      socket.destroy()
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const { port } = server.address() as net.AddressInfo
    const connects = `exec 3<>/dev/tcp/127.0.0.1/${port}`
    expect(await run(connects)).toBe('status 1')
    expect(met).toBe(0)
    expect(await run(connects, false)).toBe('status 0')
    await until(async () => met === 1)
    server.close()
  })

  it('writes nowhere but in its folder', async () => {
    const places = [os.tmpdir(), '/dev/shm', '/var/tmp', os.homedir()].filter(existsSync)
    for (const place of places) {
      const file = join(place, `ring-grade-test-${process.pid}`)
      expect(await run(`echo x > ${file}`), place).not.toBe('status 0')
      expect(existsSync(file)).toBe(false)
    }
    expect(await run('echo x > /dev/null')).toBe('status 0')
    expect(await run('mount -o remount,bind,rw / || unshare --user --map-root-user true')).not.toBe(
      'status 0',
    )
  })

  it('has files of its own up to their limit, all together', async () => {
    const files = 'for n in 1 2 3; do head -c 500000 /dev/zero > $n || exit 3; done'
    expect(await run(files)).toBe('status 3')
    expect(await run(files, false)).toBe('status 0')
  })

  it('begins no more processes than it may', async () => {
    const forks = (count: number) =>
      `for n in $(seq ${count}); do sleep 60 & done; [ $n = ${count} ]`
    expect(await run(forks(20))).toBe('status 0')
    expect(await run(forks(200))).not.toBe('status 0')
  })

  it('sees no other process', async () => {
    expect(await run(`[ ! -e /proc/${process.pid} ] || [ ${process.pid} -lt 20 ]`)).toBe('status 0')
  })
})

describe('a grade that is a command', () => {
  it('has limits of its own, or the usual ones', () => {
    expect(gradeOf({ command: ['true'] })).toEqual({
      command: ['true'],
      ...{ seconds: 10, memoryBytes: 2 ** 30, fileBytes: 2 ** 26 },
    })
    expect(gradeOf({ command: ['a', 'b'], seconds: 0.5, memory: 2 ** 25, files: 4096 })).toEqual({
      command: ['a', 'b'],
      ...{ seconds: 0.5, memoryBytes: 2 ** 25, fileBytes: 4096 },
    })
  })

  it.each<[object, RegExp]>([
    [{ command: 'true' }, /list of texts/],
    [{ command: [] }, /must name a program/],
    [{ command: [''] }, /list of texts/],
    [{ command: ['a', 5] }, /list of texts/],
    [{ command: ['a\0b'] }, /list of texts/],
    [{ command: ['a'], seconds: 0 }, /grade\.seconds must be a number from 0\.1 to 3600/],
    [{ command: ['a'], memory: '1GiB' }, /grade\.memory must be a number/],
    [{ command: ['a'], files: 1e30 }, /grade\.files must be a number/],
    [{ command: ['a'], cwd: '/' }, /grade has cwd/],
    [{ exact: 'a', number: 5 }, /grade must be/],
  ])('%j is refused', (grade, said) => {
    expect(gradeOf(grade)).toMatch(said)
  })
})

const sum = { ...question('What is 2+2?'), max_tokens: 40, temperature: 0 }
const isFour = ['sh', '-c', '[ "$(cat)" = "$0" ]', '4']

describe('a job whose lines name programs', () => {
  it('runs none unless it is told to', async () => {
    await withFolder(async (folder) => {
      const lines = [chatLine('a', sum), chatLine('b', sum, { grade: { command: isFour } })]
      const { words, output } = prepared(folder, lines)
      const { status, stderr } = await command([...words, '-q'])
      expect([status, stderr]).toEqual([
        1,
        expect.stringMatching(/in\.jsonl:2: .*--grade-commands/),
      ])
      expect(existsSync(output)).toBe(false)
    })
  })

  it('begins nothing where a program is not there', async () => {
    await withFolder(async (folder) => {
      const lines = [chatLine('a', sum, { grade: { command: ['no-such-program'] } })]
      const { words, output } = prepared(folder, lines)
      const flags = ['-q', '--grade-commands', ...(keepsLimits ? [] : ['--grade-unconfined'])]
      const { status, stderr } = await command([...words, ...flags])
      expect(status).toBe(1)
      expect(stderr).toMatch(
        /^ring-offload: line 1: grade: "no-such-program" cannot be run[^\n]*\n$/,
      )
      expect(existsSync(output)).toBe(false)
    })
  })

  it('is refused where the system does not keep the limits', async () => {
    await withFolder(async (folder) => {
      // A system that lacks the command that makes namespaces.
      for (const name of ['setpriv', 'unshare']) {
        writeFileSync(join(folder, name), '#!/bin/sh\necho not here >&2; exit 1\n', { mode: 0o755 })
      }
      const environment = { PATH: `${folder}:${process.env.PATH}` }
      const { words } = prepared(folder, [chatLine('a', sum, { grade: { command: isFour } })])
      const refused = await command([...words, '-q', '--grade-commands'], { environment })
      expect(refused.status).toBe(1)
      expect(refused.stderr).toMatch(/does not keep graders.*\(not here\); --grade-unconfined/)
      const flags = ['-q', '--grade-commands', '--grade-unconfined']
      expect((await command([...words, ...flags], { environment })).status).toBe(0)
    })
  })

  it.skipIf(!keepsLimits)('has their verdicts and how they ended', async () => {
    await withFolder(async (folder) => {
      const grades = [
        { command: isFour },
        { command: [...isFour.slice(0, 3), '5'] },
        { command: ['sleep', '60'], seconds: 0.2 },
        { number: 4 },
      ]
      const body = { ...sum, n: 2 }
      const lines = grades.map((grade, n) => chatLine(`${n}`, body, { grade }))
      const { words, output } = prepared(folder, lines)
      const { status, stderr } = await command([...words, '--grade-commands'])
      expect(status, stderr).toBe(0)
      expect(linesIn(output).map(({ grade }) => grade)).toEqual([
        { right: [true, true], reason: ['status 0', 'status 0'] },
        { right: [false, false], reason: ['status 1', 'status 1'] },
        { right: [false, false], reason: ['time', 'time'] },
        { right: [true, true] },
      ])
      expect(stderr).toMatch(/4 lines with a grade: pass@1 0\.5000, pass@2 0\.5000\n$/)
    })
  })
})

describe('a job that is killed', () => {
  it('asks for no verdict again, and its output has the same bytes', async () => {
    await withFolder(async (folder) => {
      const gate = join(folder, 'gate')
      const runs = join(folder, 'runs')
      writeFileSync(runs, '')
      const says = (name: string) => [
        'sh',
        '-c',
        `cat > "$1"; echo ${name} >> "$0"`,
        runs,
        join(folder, name),
      ]
      const waits = ['sh', '-c', 'while [ ! -e "$0" ]; do sleep 0.05; done', gate]
      const text = { prompt: 'Scene 1. Enter', max_tokens: 3 }
      const lines = [
        textLine('waits', text, { grade: { command: waits, seconds: 60 } }),
        textLine('says', text, { grade: { command: says('said') } }),
        // Its tokens are what makes the journal be written meanwhile.
        textLine('long', { ...text, max_tokens: 1000, ignore_eos: true }),
      ]
      const { words, output, journal } = prepared(folder, lines)
      const flags = ['-q', '--grade-commands', '--grade-unconfined', '--journal-every', '20']
      const child = started([...words, ...flags])
      const end = ended(child)
      await until(
        async () => existsSync(journal) && readFileSync(journal, 'utf8').includes('verdict'),
      )
      child.kill('SIGKILL')
      await end
      expect(readFileSync(output, 'utf8')).toBe('')
      mkdirSync(gate)
      expect((await command([...words, ...flags])).status).toBe(0)
      expect(readFileSync(runs, 'utf8')).toBe('said\n')
      const undisturbed = prepared(folder, lines, 'other')
      expect((await command([...undisturbed.words, ...flags])).status).toBe(0)
      expect(readFileSync(output, 'utf8')).toBe(readFileSync(undisturbed.output, 'utf8'))
    })
  })
})

/** Whether any process has this word on its command line. */
function isRunning(word: string): boolean {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .some((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').includes(word)
      } catch {
        return false
      }
    })
}
