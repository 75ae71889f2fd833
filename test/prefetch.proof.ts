// Figures of look-ahead on the 4 GB model, slots for 25 %: what it gains beside none, beside one that
// knows, and what one that is always wrong costs. Runs alternate, and ratios are of neighbours.
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import { afterAll, beforeAll, it } from 'vitest'
import { benchPrompts } from '../src/cli/benchprompts.js'
import { openText, rawPrompt } from '../src/cli/conversation.js'
import type { Ending } from '../src/engine/loop.js'
import { openModel } from '../src/engine/open.js'
import type { Usage } from '../src/engine/stats.js'
import type { Foresight } from '../src/prefetch/forecast.js'
import { AlwaysWrong, Oracle, type Truth } from '../src/simulate/foretold.js'
import { type Driven, drive } from './drive.js'
import { note, remark, spread } from './figure.js'
import { listen } from './foretold.js'
import { Learning } from './learning.js'
import { requestOf } from './models.js'
import { root } from './paths.js'
import { type BenchResult, benchOf, type Widened, widened } from './widened.js'

const rounds = 3
const pairsOnDrive = 5
const experts = 32
const tokensEach = 17
let model: Widened
let prompts: number[][]
beforeAll(async () => {
  model = await widened()
  const tokenizer = await openText(model.folder)
  prompts = benchPrompts.map((text) => [...rawPrompt(tokenizer, text).tokens])
})
afterAll(() => model.remove())

type Kind = 'off' | 'on' | 'auto' | 'oracle' | 'wrong'

interface Machine {
  readonly bytesPerSecond: number
  readonly threads: number
}

interface Run {
  readonly tokensPerSecond: number
  readonly usage: Usage
  readonly bits: string
  readonly truth: Truth
  readonly expertBytes: number
}

/** Decode of all prompts after a first round over them, which fills the slots and teaches. */
async function run(
  kind: Kind,
  { bytesPerSecond, threads }: Machine,
  truth: Truth | null,
): Promise<Run> {
  const foresight = foresightOf(kind, truth)
  const prefetch = kind === 'off' || kind === 'auto' ? kind : 'on'
  const opened = openModel(
    model.folder,
    {
      loadMode: 'direct',
      expertRam: { share: 0.25 },
      contextTokens: 512,
      threads,
      prefetch,
      reads: { pace: { bytesPerSecond, latencySeconds: 2e-4, depth: 32, jitter: 0, seed: 1 } },
    },
    foresight,
  )
  const learning = new Learning(opened.forecast)
  try {
    const told = listen(opened)
    const all = async () => {
      const driven: Driven[] = []
      for (const prompt of prompts) {
        driven.push(...drive(opened, [requestOf(prompt, { maxTokens: tokensEach })]))
        await learning.stepped(tokensEach)
      }
      return driven
    }
    await all()
    const driven = await all()
    const usage = driven.map(({ ending }) => decodeOf(ending)).reduce(added)
    const seconds = driven.reduce((sum, { ending }) => sum + ending.stats.decodeSeconds, 0)
    return {
      tokensPerSecond: (prompts.length * (tokensEach - 1)) / seconds,
      usage,
      bits: JSON.stringify(driven.map(({ emissions }) => emissions)),
      truth: told,
      expertBytes: opened.experts.expertReadBytes,
    }
  } finally {
    await learning.close()
    opened.close()
  }
}

function decodeOf({ stats }: Ending): Usage {
  if (stats.decode === null) throw new Error('nothing was decoded')
  return stats.decode
}

function added(one: Usage, other: Usage): Usage {
  const sum = { ...one }
  for (const name of Object.keys(sum) as (keyof Usage)[]) sum[name] += other[name]
  return sum
}

function foresightOf(kind: Kind, truth: Truth | null): Foresight | null {
  if (truth === null || kind === 'on' || kind === 'off' || kind === 'auto') return null
  return kind === 'oracle' ? new Oracle(experts, truth) : new AlwaysWrong(experts, truth)
}

/** Alternating runs of every kind. */
async function contest(kinds: readonly Kind[], machine: Machine): Promise<Map<Kind, Run[]>> {
  const { truth } = await run('off', machine, null)
  const runs = new Map<Kind, Run[]>(kinds.map((kind) => [kind, []]))
  for (let round = 0; round < rounds; round += 1) {
    for (const kind of kinds) runs.get(kind)?.push(await run(kind, machine, truth))
  }
  return runs
}

const speeds = (runs: readonly Run[] = []) => runs.map(({ tokensPerSecond }) => tokensPerSecond)

function ratios(runs: Map<Kind, Run[]>, kind: Kind): number[] {
  const off = speeds(runs.get('off'))
  return speeds(runs.get(kind)).map((speed, round) => speed / (off[round] ?? Number.NaN))
}

/**
 * The rate at which the drive takes as long as computing does, by a run near it. One thread computes, since
 * the paced drive copies with another.
 */
async function balanced(): Promise<Machine> {
  const { usage, expertBytes } = await run('off', { bytesPerSecond: 5e9, threads: 1 }, null)
  const rate = (usage.misses * expertBytes) / usage.computeSeconds
  return { bytesPerSecond: Math.round(rate / 1e8) * 1e8, threads: 1 }
}

for (const [name, rateOf] of [
  ['2 GB/s', async () => ({ bytesPerSecond: 2e9, threads: 2 })],
  ['the rate where drive and compute balance', balanced],
] as const) {
  it(`prefetch, paced at ${name}`, async () => {
    const machine = await rateOf()
    const label = `4 GB model, slots for 25 %, paced at ${name}`
    const runs = await contest(['off', 'on', 'auto', 'oracle', 'wrong'], machine)
    const [on, auto, oracle, wrong] = (['on', 'auto', 'oracle', 'wrong'] as const).map((kind) =>
      spread(ratios(runs, kind), 3),
    )
    if (!on || !auto || !oracle || !wrong) throw new Error('no ratios')
    const off = spread(speeds(runs.get('off')))
    remark(
      `${label}: without look-ahead`,
      `${off.text} tokens/s at ${machine.bytesPerSecond / 1e9} GB/s, ${machine.threads} thread(s)`,
    )
    note(`${label}: speed with look-ahead`, on.text, '1.00', on.median >= 1)
    note(`${label}: speed with --prefetch auto`, auto.text, '1.00', auto.median >= 1)
    const gains = (runs.get('on') ?? []).map((_, round) => {
      const gain = (kind: Kind) => (ratios(runs, kind)[round] ?? Number.NaN) - 1
      return gain('on') / gain('oracle')
    })
    const share = spread(gains, 3)
    note(
      `${label}: share of what an oracle gains`,
      `${share.text}; the oracle's speed ${oracle.text}`,
      '0.80',
      share.median >= 0.8,
    )
    note(
      `${label}: speed with a forecast that is always wrong`,
      wrong.text,
      '0.98',
      wrong.median >= 0.98,
    )
    const wastes = (runs.get('on') ?? []).map(({ usage, expertBytes }) => {
      const wasted = usage.bytesCancelled + usage.aheadUnused * expertBytes
      return wasted / (usage.bytesAhead - wasted)
    })
    const waste = spread(wastes, 3)
    note(
      `${label}: bytes wasted per useful byte read ahead`,
      waste.text,
      '0.3',
      waste.median <= 0.3,
    )
    const policy = spread(
      (runs.get('on') ?? []).map(({ usage, tokensPerSecond }) => {
        return (usage.policySeconds * tokensPerSecond) / (prompts.length * (tokensEach - 1))
      }),
      4,
    )
    note(
      `${label}: share of a step that decisions take`,
      policy.text,
      '0.02',
      policy.median <= 0.02,
    )
    const first = runs.get('off')?.[0]?.bits
    const differing = [...runs].filter(([, of]) => of.some(({ bits }) => bits !== first))
    note(
      `${label}: tokens and log-probabilities with look-ahead off, on, right and wrong`,
      differing.length === 0 ? 'all the same bits' : `other: ${differing.map(([kind]) => kind)}`,
      'the same',
      differing.length === 0,
    )
  })
}

it('prefetch, real drive', async () => {
  const pairs: { readonly off: BenchResult; readonly on: BenchResult }[] = []
  for (let round = 0; round < pairsOnDrive; round += 1) {
    const bench = (prefetch: string) =>
      benchOf(model.folder, ['--expert-ram', '25%', '-n', '128', '--prefetch', prefetch])
    pairs.push({ off: await bench('off'), on: await bench('on') })
  }
  const ratio = spread(
    pairs.map(({ on, off }) => on.decode_tok_s / off.decode_tok_s),
    3,
  )
  const boundOf = (kind: 'on' | 'off') =>
    spread(
      pairs.map((pair) => pair[kind].io.share_of_bound),
      3,
    ).text
  const drives = spread(pairs.map(({ on }) => on.io.ceiling_bytes_s / 1e9))
  note(
    '4 GB model, slots for 25 %, real drive: speed with look-ahead',
    `${ratio.text}; share of bound ${boundOf('on')}, without ${boundOf('off')}; drive ${drives.text} GB/s`,
    '1.00',
    ratio.median >= 1,
  )
})

it('demand beside look-ahead', () => {
  const rows = Array.from({ length: 7 }, () => {
    const printed = execFileSync(join(root, 'build/native/Release/ring_bench_delay'), [], {
      encoding: 'utf8',
    })
    return JSON.parse(printed) as { alone_p99: number; delay_p50: number; delay_p99: number }
  })
  // The machine itself is late now and then, with look-ahead and without.
  const added = spread(
    rows.map(({ delay_p99, alone_p99 }) => delay_p99 - alone_p99),
    3,
  )
  const middle = spread(
    rows.map(({ delay_p50 }) => delay_p50),
    3,
  )
  const alone = spread(
    rows.map(({ alone_p99 }) => alone_p99),
    3,
  )
  note(
    'delay of demand reads by look-ahead, 99 of 100, of one read of 25 MB at 1 GB/s',
    `${added.text} beyond ${alone.text} without look-ahead; the middle one ${middle.text}`,
    '0.08',
    added.median <= 0.08,
  )
})
