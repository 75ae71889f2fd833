// How a command ends early: by Ctrl-C, by SIGTERM, by a reader that has had enough, by a full disk. The
// answers here never end by themselves: the tokens that would end them are banned.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, existsSync, openSync, readdirSync, watch, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { ended, lastObject, onTerminal, program, started, withFolder } from './command.js'

const endless = ['--temp', '1', '--seed', '1', '--logit-bias', '1018=-inf,1021=-inf', '-q']
const endlessRun = ['run', '-p', 'Hello!', '-n', '1900', ...endless]

describe('Ctrl-C in run', () => {
  it('ends the answer, keeps what was said, and exits with 130', async () => {
    const child = started(endlessRun)
    const end = ended(child)
    await once(child.stdout, 'data')
    const before = performance.now()
    child.kill('SIGINT')
    const { status, stdout } = await end
    expect(status).toBe(130)
    expect(performance.now() - before).toBeLessThan(2000)
    expect(stdout).toMatch(/^<think>\nThe/)
    expect(stdout.endsWith('\n')).toBe(true)
  })

  it('still gives the JSON object, which says that it was cancelled', async () => {
    const child = started([...endlessRun.filter((word) => word !== '-q'), '--json'])
    const end = ended(child)
    // The line about the model; the answer has begun when it is out, or begins now.
    await once(child.stderr, 'data')
    child.kill('SIGTERM')
    const result = await end
    expect(result.status).toBe(143)
    expect(lastObject(result)).toMatchObject({ finish_reason: 'cancelled' })
  })

  it('a second time ends the program at once, by the signal', async () => {
    const child = started(endlessRun)
    const end = ended(child)
    await once(child.stdout, 'data')
    child.kill('SIGTERM')
    child.kill('SIGINT')
    const { status, signal } = await end
    expect([130, 143, null]).toContain(status)
    if (status === null) expect(['SIGINT', 'SIGTERM']).toContain(signal)
  })
})

describe('Ctrl-C in chat', () => {
  it('ends the answer only; at an empty prompt it leaves', async (context) => {
    const child = onTerminal(['chat', ...endless])
    if (child === null) return context.skip('script is not installed')
    const end = ended(child)
    await waitFor(child, '> ')
    child.stdin.write('Hello!\r')
    await waitFor(child, 'The')
    child.stdin.write('\u0003')
    await waitFor(child, '> ')
    child.stdin.write('begun\u0003')
    await waitFor(child, '> ')
    child.stdin.write('\u0003')
    expect((await end).status).toBe(130)
  })
})

describe('Ctrl-C in score', () => {
  it('leaves no output behind', async () => {
    await withFolder(async (folder) => {
      const input = join(folder, 'in.jsonl')
      const line = JSON.stringify({ id: 1, tokens: new Array(2000).fill(5) })
      writeFileSync(input, `${line}\n`.repeat(100))
      const begun = appearance(folder, '.partial')
      const child = started(['score', '-i', input, '-o', join(folder, 'out.jsonl')])
      const end = ended(child)
      await Promise.race([begun, end])
      child.kill('SIGINT')
      expect((await end).status).toBe(130)
      expect(readdirSync(folder)).toEqual(['in.jsonl'])
    })
  })
})

describe('standard output that takes no more', () => {
  it('a reader that leaves ends the answer quietly', async () => {
    const child = started(endlessRun)
    const end = ended(child)
    await once(child.stdout, 'data')
    child.stdout.destroy()
    expect(await end).toMatchObject({ status: 0, stderr: '' })
  })

  it('a full disk is told', async (context) => {
    if (!existsSync('/dev/full')) return context.skip('there is no /dev/full')
    const full = openSync('/dev/full', 'w')
    const child = spawn(process.execPath, [program, 'run', '-q'], {
      stdio: ['ignore', full, 'pipe'],
    })
    closeSync(full)
    let said = ''
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      said += text
    })
    const [status] = await once(child, 'close')
    expect(said).toMatch(
      /^ring-offload: standard output: cannot be written: no space left[^\n]*\n$/,
    )
    expect(status).toBe(1)
  })
})

/** Resolves when the program has written this text after the call. */
function waitFor(child: ReturnType<typeof started>, text: string): Promise<void> {
  return new Promise((resolve, reject) => {
    let seen = ''
    const look = (chunk: string) => {
      seen += chunk
      if (!seen.includes(text)) return
      child.stdout.off('data', look)
      resolve()
    }
    child.stdout.on('data', look)
    child.on('close', () => reject(new Error(`ended before it said ${text}: ${seen}`)))
  })
}

/** Resolves when a file whose name ends so appears in the folder. */
function appearance(folder: string, ending: string): Promise<void> {
  return new Promise((resolve) => {
    const watcher = watch(folder, (_, name) => {
      if (name?.endsWith(ending) !== true) return
      watcher.close()
      resolve()
    })
    watcher.unref()
  })
}
