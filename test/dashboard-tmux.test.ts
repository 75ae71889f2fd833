// The dashboard as a person has it, in a terminal of tmux: keys, sizes, colours, servers that go and come
// back, and how it leaves. Figures are masked; what stands around them is not.
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { Engine } from '../dist/src/engine/engine.js'
import { linesIn, mixedLines, prepared } from './batching.js'
import { program } from './command.js'
import { ringTiny, root } from './paths.js'
import { chat, post, type Running, startServer } from './serving.js'
import { noTmux, Tmux } from './tmux.js'

if (noTmux !== null) console.warn(`the dashboard is not tried in a terminal: ${noTmux}`)
const onTerminal = describe.skipIf(noTmux !== null)

const pace = { bytesPerSecond: 2e8, latencySeconds: 2e-4, depth: 32, jitter: 0, seed: 1 }
const open = () =>
  Engine.open(ringTiny, {
    ...{ sequences: 3, loadMode: 'direct' as const, expertRam: { share: 0.5 } },
    ...{ prefetch: 'on' as const, threads: 1, reads: { pace } },
  })

let server: Running
let folder: string
let terminal: Tmux | null = null
beforeAll(async () => {
  folder = mkdtempSync(join(os.tmpdir(), 'ring-tmux-'))
  server = await startServer({ open, ceiling: pace.bytesPerSecond, showsText: true })
  for (const content of ['1+1=', '2+2=']) {
    await chat(server.url, { messages: [{ role: 'user', content }], max_tokens: 30 })
  }
})
afterEach(() => {
  terminal?.close()
  terminal = null
})
afterAll(async () => {
  await server.close()
  rmSync(folder, { recursive: true })
})

function top(columns: number, rows: number, url = server.url, term?: string, env?: string): Tmux {
  terminal = new Tmux(`node ${program} top --url ${url}`, columns, rows, folder, term, env)
  return terminal
}

/** What does not change from run to run: digits are gone, and so are bars and curves. */
function masked(screen: string): string {
  const lines = screen.split('\n').map((one) =>
    one
      .replace(/cpu,.*? (?=tokens\/s|$)/, 'DEVICE ')
      .replace(/[·▁▂▃▄▅▆▇█▉▊▋▌▍▎▏░]+/g, '')
      .replace(/-?\d[\d.]*|–/g, 'N')
      .replace(/N [kM]?B/g, 'N B')
      .replace(/ +/g, ' ')
      .trim(),
  )
  return `${lines.join('\n').trim()}\n`
}

/** The numbers of each change of colour. */
function codesOf(screen: string): string[] {
  return screen
    .split('\u001b[')
    .slice(1)
    .map((part) => part.slice(0, part.indexOf('m')))
}

const masks = (name: string) => `fixtures/dashboard/tmux-${name}.txt`

onTerminal('batch --tui', () => {
  it('shows how far the job is, parks it when it is left, and goes on', async () => {
    const job = prepared(folder, mixedLines(30, 40, 9))
    const line = `node ${program} ${[...job.words, '--tui', '--max-batch', '4'].join(' ')}`
    // Slow enough to be seen at work.
    const slow = `${line} --load-mode direct --expert-ram 25% --paced 60MB/s,1ms`
    terminal = new Tmux(slow, 80, 24, folder)
    await terminal.shows(/ready[\s\S]*job +lines done/)
    await terminal.shows(/job +lines done +[1-9]\d* +of 30 +[█░▏▎▍▌▋▊▉]{16} .* left/)
    terminal.keys('4')
    await terminal.shows(/drawing/)
    terminal.keys('5')
    await terminal.shows(/[a-z=]{2,}[\s\S]*5 text/)
    terminal.keys('6')
    await terminal.shows(/30 lines, \d+ answers; up to 4 at once/)
    terminal.keys('q')
    await terminal.shows(/parked: \d+ of 30 lines are done, the same\s+command goes on/)
    await terminal.shows(/ended with 1/)
    expect([terminal.isAlternate, terminal.hasCursor]).toEqual([false, true])
    terminal.close()
    terminal = new Tmux(line, 80, 24, folder)
    // Each in its time.
    await terminal.shows(/ready[\s\S]*job +lines done/)
    await terminal.shows(/lines done +(?:1\d|2\d|30) +of 30/)
    await terminal.shows(/lines done +(?:2\d|30) +of 30/)
    await terminal.shows(/job +lines done +30 +of 30 +█{16} 0\.0 s left/)
    terminal.keys('q')
    await terminal.shows(/30 lines, \d+ answered; .*\s[\s\S]*ended with 0/)
    expect(linesIn(job.output)).toHaveLength(30)
  })
})

onTerminal('top', () => {
  it('shows every view by its key', async () => {
    const screen = top(80, 24)
    await screen.shows(/ready.*tokens\/s, hits/)
    await expect(masked(screen.screen())).toMatchFileSnapshot(masks('overview'))
    screen.keys('2')
    expect(await screen.shows(/layer 1, expert 0/)).toMatch(/^ {4}5 [·\-+█▓▒░]{32} +\d+\.\d %/m)
    screen.keys('Down', 'Right', 'Right')
    await screen.shows(/layer 2, expert 2 /)
    screen.keys('z')
    await screen.shows(/layer 2, expert 2 /)
    screen.keys('3')
    await screen.shows(/verdict +on/)
    await expect(masked(screen.screen())).toMatchFileSnapshot(masks('prefetch'))
    screen.keys('4')
    await screen.shows(/no +state/)
    expect(screen.screen()).toMatch(/^ +2 +(stop|length) +\d+ +\d+ +\d+ +\d+/m)
    screen.keys('Enter')
    const said = await screen.shows(/<\/?think>|[a-z=]{2,}/)
    expect(said).toMatch(/5 text/)
    screen.keys('6')
    await screen.shows(/nothing was logged here/)
    screen.keys('?')
    await expect(masked(await screen.shows(/the terminal is as it was/))).toMatchFileSnapshot(
      masks('help'),
    )
    screen.keys('?', 'Tab')
    await screen.shows(/hit rate/)
  })

  it('is whole at 200 x 60, at 80 x 24 and at 200 x 60 again', async () => {
    const screen = top(200, 60)
    await screen.shows(/ready.*tokens\/s, hits/)
    const large = masked(screen.screen())
    screen.resize(80, 24)
    await screen.shows(/^(?:.*\n){23} 1 overview .*quit/)
    const lines = screen.screen().trimEnd().split('\n')
    expect(lines.length).toBe(24)
    expect(lines[0]).toMatch(/^ ring-offload ring-tiny ready/)
    for (const one of lines) expect(one.length).toBeLessThanOrEqual(80)
    screen.resize(200, 60)
    await screen.shows(/^(?:.*\n){59} 1 overview .*quit/)
    expect(masked(screen.screen())).toBe(large)
  })

  it('uses the sixteen colours of a terminal, and none with NO_COLOR', async () => {
    const coloured = top(80, 24, server.url, 'screen')
    await coloured.shows(/ready.*tokens\/s, hits/)
    const codes = codesOf(coloured.screen(true))
    expect(codes.some((code) => /(?:^|;)3[1-6](?:;|$)/.test(code))).toBe(true)
    // Neither 256 colours nor true ones.
    for (const code of codes) expect(code).not.toMatch(/[34]8;[25];/)
    coloured.close()
    const plain = top(80, 24, server.url, 'tmux-256color', 'NO_COLOR=1')
    await plain.shows(/ready.*tokens\/s, hits/)
    for (const code of codesOf(plain.screen(true))) {
      expect(code).toMatch(/^(?:0|1|7|39|49|;)*$/)
    }
  })

  it('says that a server is gone, and goes on when it is back', async () => {
    const own = await startServer({ open })
    const port = Number(new URL(own.url).port)
    const screen = top(80, 24, own.url)
    await screen.shows(/ready/)
    await own.close()
    await screen.shows(/no answer from 127\.0\.0\.1:\d+.*trying again/)
    const again = await startServer({ open, port })
    try {
      await screen.shows(/ring-tiny ready/)
      screen.keys('6')
      expect(await screen.shows(/answers again/)).toMatch(/no answer from/)
    } finally {
      await again.close()
    }
  })

  it('cancels the chosen request', async () => {
    const body = { prompt: '1+1=', max_tokens: 1500, ignore_eos: true, temperature: 0 }
    const answer = post(`${server.url}/v1/completions`, body)
    const screen = top(80, 24)
    await screen.shows(/ready/)
    screen.keys('4')
    await screen.shows(/drawing/)
    screen.keys('End', 'c')
    await screen.shows(/cancelled/)
    const { status } = await answer
    expect(status).toBe(503)
  })

  it('saves the screen as text and as a page', async () => {
    const screen = top(80, 24)
    await screen.shows(/ready.*tokens\/s, hits/)
    screen.keys('s', '6')
    await screen.shows(/saved ring-offload-/)
    const [page = '', text = ''] = readdirSync(folder)
      .filter((name) => /offload/.test(name))
      .sort()
    expect(readFileSync(join(folder, text), 'utf8')).toMatch(/^ ring-offload ring-tiny/)
    expect(readFileSync(join(folder, page), 'utf8')).toMatch(/^<!doctype html>[\s\S]*hit rate/)
  })

  it.each([
    ['q', 0],
    ['C-c', 0],
  ])('leaves the terminal as it was after %s', async (key, status) => {
    const screen = top(80, 24)
    await screen.shows(/ready/)
    expect(screen.isAlternate).toBe(true)
    screen.keys(key)
    await screen.shows(new RegExp(`ended with ${status}`))
    expect([screen.isAlternate, screen.hasCursor]).toEqual([false, true])
    screen.type('echo typed')
    await screen.shows(/\$ echo typed/)
  })

  it('leaves the terminal as it was after SIGTERM', async () => {
    const line = `sh -c 'echo $$ > pid; exec node ${program} top --url ${server.url}'`
    terminal = new Tmux(line, 80, 24, folder)
    await terminal.shows(/ready/)
    process.kill(Number(readFileSync(join(folder, 'pid'), 'utf8')), 'SIGTERM')
    await terminal.shows(/ended with 0/)
    expect([terminal.isAlternate, terminal.hasCursor]).toEqual([false, true])
  })

  it('tells of a crash on the terminal as it was', async () => {
    const script = join(folder, 'crash.mjs')
    writeFileSync(
      script,
      `import { Terminal } from '${root}/dist/tui/terminal.js'
       process.on('uncaughtException', (error) => { console.error('told:', error.message); process.exit(7) })
       const terminal = new Terminal(() => {}, () => {})
       terminal.draw([[{ text: 'drawn', style: 'good' }]])
       process.stdin.once('data', () => { throw new Error('broken') })`,
    )
    terminal = new Tmux(`node ${script}`, 80, 24, folder)
    await terminal.shows(/drawn/)
    terminal.keys('x')
    await terminal.shows(/told: broken\s+ended with 7/)
    expect([terminal.isAlternate, terminal.hasCursor]).toEqual([false, true])
  })
})
