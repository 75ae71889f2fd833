// What a model takes is what was said before the first token: the memory line that `run` prints, and
// not much beside. Held against the peak of a process of its own, and by running it in a control
// group of that size. RING_WIDE=FOLDER takes that model instead of a widened one of half a gigabyte.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, type TestContext } from 'vitest'
import { command, program } from './command.js'
import { type MemoryGroup, memoryGroup } from './memorygroup.js'
import { ringTiny } from './paths.js'
import { type Peaked, peakOf } from './peak.js'

const folder = mkdtempSync(join(tmpdir(), 'ring-'))
afterAll(() => rmSync(folder, { recursive: true }))

const mib = 2 ** 20
/** Of what is printed, and for the program itself with its tokenizer. */
const tolerance = 0.05
const programBytes = 200e6

/** More tokens than one step takes, so that every buffer gets its full size. */
const text = 'Once upon a time there was a ring that could count to ten. '.repeat(40)
const patience = { timeout: 300_000 }

let model = process.env.RING_WIDE ?? ''
beforeAll(async () => {
  if (model !== '') return
  model = join(folder, 'wide')
  const made = await command(['widen', ringTiny, model, '--hidden', '4', '--expert', '8', '-q'])
  expect(made).toMatchObject({ status: 0, stderr: '' })
})

function run(from: string, more: readonly string[], group?: string): Promise<Peaked> {
  const words = ['run', from, '--raw', '-p', text, '-n', '8', '--ctx-size', '1024', '--json']
  return peakOf([program, ...words, ...more], group)
}

const quarter = ['--load-mode', 'direct', '--expert-ram', '25%']

/** Sum of the sizes that the memory line names. */
function printedBytes(stderr: string): number {
  const line = /^ring-offload: memory: .*$/m.exec(stderr)?.[0] ?? ''
  const units = { B: 1, KiB: 2 ** 10, MiB: mib, GiB: 2 ** 30, TiB: 2 ** 40 }
  const sizes = [...line.matchAll(/([\d.]+) ([KMGT]iB|B)\b/g)]
  expect(sizes.length, `sizes in: ${stderr}`).toBeGreaterThanOrEqual(5)
  return sizes.reduce((sum, [, count, unit]) => {
    return sum + Number(count) * units[unit as keyof typeof units]
  }, 0)
}

function tokensOf({ stdout, stderr, status }: Peaked): number[] {
  expect([status, status === 0 ? '' : stderr]).toEqual([0, ''])
  return JSON.parse(stdout.trimEnd()).tokens
}

/** A control group of that size; without any the test is left out, and says why. */
function groupOr(context: TestContext, bytes: number): MemoryGroup {
  const group = memoryGroup(bytes)
  if (typeof group !== 'string') return group
  console.log(group)
  return context.skip(group)
}

const inMib = (bytes: number) => `${(bytes / mib).toFixed(0)} MiB`

describe('a run with slots for a quarter of the experts', () => {
  let ran: Peaked
  let printed: number
  beforeAll(async () => {
    ran = await run(model, quarter)
    printed = printedBytes(ran.stderr)
  }, patience.timeout)

  it('takes what it said, within 5 % and 200 MB for the program', () => {
    console.log(`printed ${inMib(printed)}, peak ${inMib(ran.peakBytes)}`)
    expect(ran.peakBytes).toBeLessThan(printed * (1 + tolerance) + programBytes)
    // What was said is not padded: slots and dense weights really are in memory.
    expect(ran.peakBytes).toBeGreaterThan(printed * (1 - tolerance))
  })

  it(
    'takes no more than that beside what the program takes for a small model',
    patience,
    async () => {
      const small = await run(ringTiny, ['--load-mode', 'direct'])
      const own = small.peakBytes - printedBytes(small.stderr)
      console.log(`the program itself ${inMib(own)}, the rest ${inMib(ran.peakBytes - own)}`)
      expect(ran.peakBytes - own).toBeLessThan(printed * (1 + tolerance) + 32 * mib)
    },
  )

  it('gives the same tokens in a control group of that size', patience, async (context) => {
    const limit = Math.ceil(printed * (1 + tolerance) + programBytes)
    const group = groupOr(context, limit)
    try {
      const bound = await run(model, quarter, group.members)
      console.log(`limit ${inMib(limit)}, charged at most ${inMib(group.peakBytes())}`)
      expect(tokensOf(bound)).toEqual(tokensOf(ran))
      expect(printedBytes(bound.stderr)).toBe(printed)
    } finally {
      group.remove()
    }
  })

  it(
    'is refused at once in a group without room, and what is named instead runs',
    patience,
    async (context) => {
      const group = groupOr(context, printed)
      try {
        const refused = await run(model, quarter, group.members)
        expect(refused.status).toBe(1)
        const said = /^ring-offload: --expert-ram: [^\n]*; (--expert-ram \d+) would fit\n$/
        const named = said.exec(refused.stderr)?.[1] ?? ''
        expect(named, refused.stderr).not.toBe('')
        expect(refused.peakBytes).toBeLessThan(programBytes)
        console.log(`in ${inMib(printed)} instead: ${named}`)
        const fitting = await run(
          model,
          ['--load-mode', 'direct', ...named.split(' ')],
          group.members,
        )
        expect(tokensOf(fitting)).toEqual(tokensOf(ran))
      } finally {
        group.remove()
      }
    },
  )
})
