// What the dashboard costs: the same answer from the same server with `top` beside it and without, in
// turn, on the 4 GB model; and what the dashboard takes of a core meanwhile.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { Engine } from '../dist/src/engine/engine.js'
import { openTokenizer } from '../dist/src/model/tokenizer.js'
import { program, withFolder } from './command.js'
import { note, spread } from './figure.js'
import { ringTiny } from './paths.js'
import { jsonOf, post, type Running, startServer } from './serving.js'
import { noTmux, Tmux } from './tmux.js'
import { type Widened, widened } from './widened.js'

const pairs = 6
const tokens = 64
const pace = { bytesPerSecond: 2e9, latencySeconds: 2e-4, depth: 32, jitter: 0, seed: 1 }
let model: Widened
let server: Running
beforeAll(async () => {
  model = await widened()
  const { size } = openTokenizer(ringTiny)
  server = await startServer({
    folder: model.folder,
    tokenizer: openTokenizer(ringTiny),
    ceiling: pace.bytesPerSecond,
    deadlineMs: 600_000,
    open: () =>
      Engine.open(model.folder, {
        ...{ sequences: 1, loadMode: 'direct' as const, expertRam: { share: 0.25 } },
        ...{ policy: 'lru', prefetch: 'off' as const, contextTokens: 512, sampleable: size },
        reads: { pace },
      }),
  })
})
afterAll(async () => {
  await server.close()
  model.remove()
})

/** Seconds for one answer. */
async function answer(): Promise<number> {
  const begin = performance.now()
  const body = { prompt: 'Sort 4 1 3 2: ', max_tokens: tokens, ignore_eos: true, temperature: 0 }
  await jsonOf(await post(`${server.url}/v1/completions`, body))
  return (performance.now() - begin) / 1000
}

/** Seconds of a core that a process has taken. */
function cpuOf(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
  return (Number(fields[11]) + Number(fields[12])) / 100
}

it('an answer with the dashboard beside it is as fast as without', async ({ skip }) => {
  if (noTmux !== null) return skip(noTmux)
  const ratios: number[] = []
  const shares: number[] = []
  await withFolder(async (folder) => {
    await answer()
    for (let pair = 0; pair < pairs; pair += 1) {
      const line = `sh -c 'echo $$ > pid; exec node ${program} top --url ${server.url}'`
      const watched = async () => {
        const terminal = new Tmux(line, 160, 50, folder)
        try {
          await terminal.shows(/ready.*hits/)
          // The map is the longest of what is asked for.
          terminal.keys(pair % 2 === 0 ? '1' : '2')
          const pid = Number(readFileSync(join(folder, 'pid'), 'utf8'))
          const before = cpuOf(pid)
          const seconds = await answer()
          shares.push((cpuOf(pid) - before) / seconds)
          return seconds
        } finally {
          terminal.close()
        }
      }
      // Each goes first as often as second.
      const first = pair % 2 === 0 ? await answer() : await watched()
      const second = pair % 2 === 0 ? await watched() : await answer()
      ratios.push(pair % 2 === 0 ? first / second : second / first)
    }
  })
  const speed = spread(ratios, 3)
  const what = `speed with the dashboard / without, ${tokens} tokens, 4 GB model, paced 2 GB/s`
  note(what, speed.text, 'at least 0.98', speed.median >= 0.98)
  const share = spread(shares, 4)
  note('share of a core that the dashboard takes', share.text, 'at most 0.02', share.median <= 0.02)
  expect(ratios.length).toBe(pairs)
}, 1_200_000)
