// Every command of the README and of docs/, run as it is written. A fence marked `sh` holds commands, one
// marked `ts` a program; a comment before the fence, which readers do not see, says what else is to be known:
//   <!-- not run: WHY -->   too large, too long or not ours. Each line of ours is still tried on a machine that
//                           has nothing: it may fail there, but not for its words (status 2).
//   <!-- until: TEXT -->    does not end by itself: runs until it writes TEXT, and on to the end of the page.
// A page's blocks follow each other in one checkout. Only the server's port is another one than is written.
import type { ChildProcess } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { type Checkout, checkoutIn, endAll, shell, typeless } from './checkout.js'
import { command, withFolder } from './command.js'
import { fromRoot } from './paths.js'

interface Block {
  readonly language: string
  readonly text: string
  /** The first line's number. */
  readonly line: number
  /** `not run`, `until`, or nothing. */
  readonly mark: string
  readonly word: string
}

const pages = ['README.md', ...readdirSync(fromRoot('docs')).map((name) => `docs/${name}`)]
const written = 'http://127.0.0.1:8080'
/** What a block that is not run may call beside ours. */
const others = /^(?:echo|sudo|git|npm|vllm|python3|curl|docker|tar|cd|export|ulimit) /

describe.concurrent.each(pages.map((page) => [page, blocksOf(page)] as const))(
  '%s',
  (page, blocks) => {
    it('says of each fence what it holds', () => {
      const languages = blocks.map(({ language }) => language)
      expect(languages.filter((name) => !/^(?:sh|ts|json|text)$/.test(name))).toEqual([])
      const marks = blocks.map(({ mark }) => mark)
      expect(marks.filter((mark) => !/^(?:not run|until|)$/.test(mark))).toEqual([])
    })

    const run = blocks.filter(({ language, mark }) => isProgram(language) && mark !== 'not run')
    if (run.length > 0) {
      it(`has commands that work: lines ${run.map(({ line }) => line).join(', ')}`, async () => {
        await withFolder((folder) => runAll(checkoutIn(folder), run))
      }, 120_000)
    }

    const words = blocks
      .filter(({ language, mark }) => language === 'sh' && mark === 'not run')
      .flatMap(({ text }) => commandsIn(text))
    if (words.length > 0) {
      it.each(words)(
        `has words that are understood: %s`,
        async (line) => {
          if (!/\bnpx ring-offload\b/.test(line)) expect(line, page).toMatch(others)
          else await withFolder((folder) => tryWords(checkoutIn(folder), folder, line))
        },
        120_000,
      )
    }
  },
)

it('the table of commands names all that there are', async () => {
  const { stdout } = await command(['--help'])
  const there = [...stdout.matchAll(/^ {2}([a-z]+) .*\[options\]/gm)].map(([, name]) => name)
  const table = readFileSync(fromRoot('README.md'), 'utf8').matchAll(/^\| `([a-z]+)[^|]*\|/gm)
  const told = [...table].flatMap(([row]) => [...row.matchAll(/`([a-z]+) [^`]*`/g)])
  expect(there.length).toBeGreaterThan(10)
  expect(new Set(told.map(([, name]) => name))).toEqual(new Set(there))
}, 120_000)

function isProgram(language: string): boolean {
  return language === 'sh' || language === 'ts'
}

/** All fences of a page with what stands before them. */
function blocksOf(page: string): Block[] {
  const text = readFileSync(fromRoot(page), 'utf8')
  const fences = text.matchAll(/^(?:<!-- ([a-z ]+): (.+) -->\n)?^```([^\n]*)\n([\s\S]*?)^```$/gm)
  return [...fences].map((match) => {
    const [, mark = '', word = '', language = '', body = ''] = match
    const line = text.slice(0, match.index).split('\n').length + 1
    return { language, text: body, line, mark, word }
  })
}

/** Lines of a block, continued ones joined, without comments. */
function commandsIn(text: string): string[] {
  return text
    .replaceAll('\\\n', ' ')
    .split('\n')
    .map((line) => line.replace(/\s+#.*$/, '').trim())
    .filter((line) => line !== '' && !line.startsWith('#'))
}

async function runAll(checkout: Checkout, blocks: readonly Block[]): Promise<void> {
  const running: ChildProcess[] = []
  let server = written
  try {
    for (const [number, { language, text, line, mark, word }] of blocks.entries()) {
      if (language === 'ts') {
        writeFileSync(join(checkout.folder, `block${number}.ts`), text)
      }
      const words = language === 'ts' ? `node ${typeless(checkout, `block${number}.ts`)}` : text
      const here = words.replaceAll(written, server)
      if (mark === 'until') {
        const { child, said } = await until(checkout, here, word)
        running.push(child)
        server = /listening on (\S+)/.exec(said)?.[1] ?? server
      } else {
        const { status, stdout, stderr } = await shell(checkout, here).ran
        expect(status, `line ${line}: ${stdout}${stderr}`).toBe(0)
      }
    }
  } finally {
    for (const child of running) endAll(child)
  }
}

/** Starts what does not end; resolves once it has written the word. */
async function until(checkout: Checkout, words: string, word: string) {
  const { child, ran } = shell(checkout, words, { RING_PORT: '0' })
  let said = ''
  await new Promise<void>((resolve, reject) => {
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on('data', (text: string) => {
        said += text
        if (said.includes(word)) resolve()
      })
    }
    ran.then(({ status }) => reject(new Error(`ended with ${status}: ${said}`)), reject)
  })
  return { child, said }
}

/** Tries one command where there is no model, no drive, no hub and no server. */
async function tryWords(checkout: Checkout, folder: string, line: string): Promise<void> {
  const nowhere = join(folder, 'nowhere')
  mkdirSync(nowhere)
  const environment = { HF_HUB_OFFLINE: '1', HF_HOME: nowhere }
  const { status, stderr } = await shell({ ...checkout, folder: nowhere }, line, environment).ran
  expect([0, 1], stderr).toContain(status)
  expect(stderr).not.toMatch(/internal error/)
}
