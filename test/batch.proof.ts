// Figures of batches: how near decode of many sequences comes to what the drive or computing allows, on
// the 4 GB model and on one of 256 experts a layer, slots for 25 %, paced at 2 GB/s. About 8 minutes;
// RING_PROOF_ROUNDS=1 takes half of that.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, it } from 'vitest'
import { Loop } from '../dist/src/engine/loop.js'
import { type OpenModel, type OpenWishes, openModel } from '../dist/src/engine/open.js'
import { readUsage, type Usage, usageBetween } from '../dist/src/engine/stats.js'
import { benchPrompts } from '../src/cli/benchprompts.js'
import { openText, rawPrompt } from '../src/cli/conversation.js'
import { command } from './command.js'
import { Dice } from './dice.js'
import { note, remark, spread } from './figure.js'
import { Learning } from './learning.js'
import { requestOf } from './models.js'
import { ringTiny } from './paths.js'
import { type Widened, widened } from './widened.js'

const rounds = Number(process.env.RING_PROOF_ROUNDS ?? 2)
const driveRate = 2e9
const share = 0.25
const promptTokens = 6
/** Sequences at once, steps that are measured, and those before them, in which slots settle. */
const sizes = [
  { batch: 1, steps: 24, before: 16 },
  { batch: 4, steps: 12, before: 8 },
  { batch: 16, steps: 8, before: 5 },
  { batch: 64, steps: 6, before: 4 },
  { batch: 128, steps: 6, before: 4 },
]

interface Pass {
  readonly tokensPerSecond: number
  readonly usage: Usage
  readonly steps: number
  readonly seconds: number
  /** Of them, between turns; and pages that the process touched for the first time. */
  readonly betweenSeconds: number
  readonly faults: number
}

type PromptOf = (sequence: number) => readonly number[]

const paced: OpenWishes = {
  expertRam: { share },
  reads: {
    pace: { bytesPerSecond: driveRate, latencySeconds: 2e-4, depth: 32, jitter: 0, seed: 1 },
  },
}
const resident: OpenWishes = { expertRam: { share: 1 } }

/** All sizes on a model that is opened once, from the largest, whose first steps fill the slots. */
async function passes(
  folder: string,
  wishes: OpenWishes,
  promptOf: PromptOf,
): Promise<Map<number, Pass>> {
  const opened = openModel(folder, {
    ...wishes,
    ...{
      loadMode: 'direct',
      contextTokens: 64,
      sequences: 128,
      prefetch: 'auto',
    },
  })
  const learning = new Learning(opened.forecast)
  try {
    const measured = new Map<number, Pass>()
    for (const size of sizes.toReversed())
      measured.set(size.batch, await passOf(opened, learning, size, promptOf))
    return measured
  } finally {
    await learning.close()
    opened.close()
  }
}

/** Steps in which all of a batch draw, after some more. */
async function passOf(
  opened: OpenModel,
  learning: Learning,
  size: (typeof sizes)[number],
  promptOf: PromptOf,
): Promise<Pass> {
  const { batch, steps, before } = size
  let drawing = 0
  const loop = new Loop(
    opened,
    {
      onToken: () => {
        drawing += 1
      },
      onEnding: () => {},
    },
    null,
    0,
  )
  for (let slot = 0; slot < batch; slot += 1) {
    loop.add(slot, requestOf(promptOf(slot), { maxTokens: before + steps + 2 }))
  }
  let betweenSeconds = 0
  const turn = async () => {
    drawing = 0
    loop.turn()
    const end = performance.now()
    await learning.stepped()
    betweenSeconds += (performance.now() - end) / 1000
    return drawing === batch
  }
  while (!(await turn()));
  for (let step = 0; step < before; step += 1) await turn()
  const usage = readUsage(opened.counters)
  const faultsBefore = process.resourceUsage().minorPageFault
  betweenSeconds = 0
  const begin = performance.now()
  for (let step = 0; step < steps; step += 1) {
    if (!(await turn())) throw new Error('not all of the batch drew')
  }
  const seconds = (performance.now() - begin) / 1000
  const faults = process.resourceUsage().minorPageFault - faultsBefore
  const used = usageBetween(usage, readUsage(opened.counters))
  loop.endAll('cancelled', '')
  const tokensPerSecond = (batch * steps) / seconds
  return { tokensPerSecond, usage: used, steps, seconds, betweenSeconds, faults }
}

/** Where a step's time goes, in ms. */
function split(passes: readonly Pass[]): string {
  const ms = (of: (pass: Pass) => number) =>
    spread(passes.map((pass) => (1000 * of(pass)) / pass.steps)).median.toFixed(2)
  const others = ({ usage, seconds, betweenSeconds }: Pass) =>
    seconds - usage.stallSeconds - usage.computeSeconds - usage.policySeconds - betweenSeconds
  const parts = [
    `whole ${ms(({ seconds }) => seconds)}`,
    `waiting ${ms(({ usage }) => usage.stallSeconds)}`,
    `computing ${ms(({ usage }) => usage.computeSeconds)}`,
    `deciding ${ms(({ usage }) => usage.policySeconds)}`,
    `between steps ${ms(({ betweenSeconds }) => betweenSeconds)}`,
    `all else ${ms(others)}`,
    `with the drive busy ${ms(({ usage }) => usage.driveBusySeconds)}`,
  ]
  const faults = spread(
    passes.map((pass) => pass.faults / pass.steps),
    1,
  )
  return `${parts.join(', ')}; pages touched first ${faults.text}`
}

interface Shape {
  readonly name: string
  readonly folder: string
  readonly layers: number
  readonly experts: number
  readonly topK: number
  readonly expertBytes: number
}

/** The table of a model: a row for each size. */
async function table(shape: Shape, promptOf: PromptOf): Promise<void> {
  const { name, folder, layers, experts, topK, expertBytes } = shape
  const rows: { readonly all: Map<number, Pass>; readonly slots: Map<number, Pass> }[] = []
  for (let round = 0; round < rounds; round += 1) {
    const all = await passes(folder, resident, promptOf)
    rows.push({ all, slots: await passes(folder, paced, promptOf) })
  }
  for (const { batch } of sizes) {
    const pairs = rows.flatMap(({ all, slots }) => {
      const [inMemory, streamed] = [all.get(batch), slots.get(batch)]
      return inMemory === undefined || streamed === undefined ? [] : [{ inMemory, streamed }]
    })
    /** What a step reads because its experts are not in slots: read ahead in time counts too. */
    const missedBytes = ({ usage, steps }: Pass) =>
      ((usage.misses + usage.aheadHits) * expertBytes) / steps
    const bounds = pairs.map(({ inMemory, streamed }) =>
      Math.min((driveRate * batch) / missedBytes(streamed), inMemory.tokensPerSecond),
    )
    const ofBound = spread(
      pairs.map(({ streamed }, at) => streamed.tokensPerSecond / (bounds[at] ?? Number.NaN)),
      3,
    )
    const rate = spread(pairs.map(({ streamed }) => streamed.tokensPerSecond))
    const fullRate = spread(pairs.map(({ inMemory }) => inMemory.tokensPerSecond))
    const union = spread(
      pairs.map(({ streamed: { usage, steps } }) => usage.requests / steps / layers),
      1,
    )
    const uniform = experts * (1 - (1 - topK / experts) ** batch)
    const missed = spread(
      pairs.map(({ streamed }) => missedBytes(streamed) / expertBytes / layers),
      1,
    )
    note(
      `${name}, slots for 25 %, paced 2 GB/s, batch ${batch}: tokens/s of what drive or computing allows`,
      `${ofBound.text}; ${rate.text} tokens/s, in memory ${fullRate.text}; experts a layer ${union.median.toFixed(1)} (uniform ${uniform.toFixed(1)}), not in slots ${missed.median.toFixed(1)} (three quarters: ${(0.75 * union.median).toFixed(1)})`,
      '0.85',
      ofBound.median >= 0.85,
    )
    remark(
      `${name}, slots for 25 %, paced 2 GB/s, batch ${batch}: where a step's time goes, ms`,
      split(pairs.map(({ streamed }) => streamed)),
    )
  }
  const useful = sizes.map(({ batch }) => {
    const shares = rows.map(({ slots }) => {
      const usage = slots.get(batch)?.usage
      return usage === undefined
        ? Number.NaN
        : ((usage.misses + usage.aheadHits) * expertBytes) / usage.bytesRead
    })
    return spread(shares, 3).median
  })
  note(
    `${name}, batch 1 to 128: useful bytes of those read, the least`,
    `${Math.min(...useful).toFixed(3)}; ${useful.map((one, at) => `${sizes[at]?.batch}: ${one.toFixed(3)}`).join(', ')}`,
    '0.98',
    Math.min(...useful) >= 0.98,
  )
}

let wide: Widened
let many: string
beforeAll(async () => {
  wide = await widened()
  many = mkdtempSync(join(os.tmpdir(), 'ring-many-'))
})
afterAll(() => {
  wide.remove()
  rmSync(many, { recursive: true })
})

it('4 GB model', async () => {
  const tokenizer = await openText(wide.folder)
  const text = benchPrompts.flatMap((prompt) => [...rawPrompt(tokenizer, prompt).tokens])
  const promptOf = (sequence: number) => {
    const begin = (sequence * promptTokens) % (text.length - promptTokens)
    return text.slice(begin, begin + promptTokens)
  }
  await table(shapeOf('4 GB model', wide.folder), promptOf)
})

it('256 experts', async () => {
  const config = JSON.parse(readFileSync(join(ringTiny, 'config.json'), 'utf8'))
  const shape = {
    ...config,
    num_hidden_layers: 4,
    hidden_size: 1024,
    intermediate_size: 2048,
    moe_intermediate_size: 768,
    num_experts: 256,
    num_experts_per_tok: 8,
    n_group: 8,
    topk_group: 4,
  }
  const asked = join(many, 'config.json')
  writeFileSync(asked, JSON.stringify(shape))
  const folder = join(many, 'model')
  const made = await command(['synth', asked, folder])
  if (made.status !== 0) throw new Error(made.stderr)
  const dice = new Dice(9)
  const prompts = Array.from({ length: 128 }, () =>
    Array.from({ length: promptTokens }, () => dice.below(1000)),
  )
  await table(shapeOf('256 experts, 8 for a token', folder), (sequence) => prompts[sequence] ?? [])
})

function shapeOf(name: string, folder: string): Shape {
  const opened = openModel(folder, {
    loadMode: 'direct',
    expertRam: { share: 0.1 },
    contextTokens: 64,
  })
  try {
    const { config } = opened.checkpoint
    remark(
      `${name}: bytes of experts`,
      `${((opened.experts.expertReadBytes * opened.experts.experts) / 1e9).toFixed(2)} GB`,
    )
    return {
      ...{ name, folder, layers: config.layers - config.firstMoeLayer },
      ...{ experts: config.experts, topK: config.topK },
      expertBytes: opened.experts.expertReadBytes,
    }
  } finally {
    opened.close()
  }
}
