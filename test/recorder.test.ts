// A recorded trace is what the reader of traces reads, and says what was routed.
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { halfOf, valueOfHalf } from '../src/engine/half.js'
import { readTrace } from '../src/engine/trace.js'
import { readRouting } from '../src/simulate/source.js'
import { command, lastObject } from './command.js'
import { fixtures } from './paths.js'

const folder = mkdtempSync(join(tmpdir(), 'ring-trace-'))
afterAll(() => rmSync(folder, { recursive: true }))

describe('--trace', () => {
  it('records every token of a run, prompt and answer, as score reports its routing', async () => {
    const file = join(folder, 'run.trace')
    const end = await command(['run', '--json', '-q', '-p', '12+9=?', '--trace', file])
    const { prompt_tokens: prompt, tokens } = lastObject(end) as {
      prompt_tokens: number
      tokens: number[]
    }
    const trace = readTrace(file)
    const [sequence] = trace.sequences
    // The last drawn token is never read.
    expect(sequence).toMatchObject({ prompt, tokens: prompt + tokens.length - 1 })
    expect(sequence?.ids?.slice(prompt)).toEqual(tokens.slice(0, -1))
    const input = `${JSON.stringify({ id: 1, tokens: sequence?.ids })}\n`
    const scored = await command(['score', '-i', '-', '-o', '-', '--routing'], { input })
    const { routing } = lastObject(scored) as { routing: { experts: number[][][] } }
    const chosen = new Uint16Array(trace.topK)
    for (const [moeLayer, positions] of routing.experts.entries()) {
      for (const [token, experts] of positions.entries()) {
        if (sequence !== undefined) trace.expertsOf(sequence, token, moeLayer, chosen)
        expect([...chosen]).toEqual(experts)
      }
    }
  })

  it('holds scores and look-ahead scores when asked, of slots as of maps', async () => {
    const files = ['mapped', 'direct'].map((mode) => join(folder, `${mode}.trace`))
    for (const file of files) {
      const mode = file.includes('direct') ? ['--load-mode', 'direct'] : []
      const words = ['run', '-q', '-p', '12+9=?', '--trace', file, '--trace-scores', '1,2']
      expect((await command([...words, ...mode])).status).toBe(0)
    }
    const [mapped, direct] = files.map((file) => readTrace(file))
    expect(mapped?.sequences).toEqual(direct?.sequences)
    const read = await Promise.all(
      files.map(async (file) => (await import('node:fs')).readFileSync(file)),
    )
    expect(read[0]?.equals(read[1] ?? Buffer.alloc(0))).toBe(true)
    const recordBytes = 4 + 2 * 32 * 3
    const tokens = mapped?.sequences[0]?.tokens ?? 0
    const body = read[0]?.subarray((read[0]?.indexOf(10) ?? 0) + 1)
    expect(body?.length).toBe(tokens * 5 * recordBytes)
    // The four chosen experts are of groups that scored well: their probabilities are not zero.
    const first = body?.[0] ?? 0
    expect(valueOfHalf(body?.readUInt16LE(4 + 2 * first) ?? 0)).toBeGreaterThan(0.01)
    // The last layer has none ahead of it.
    const last = body?.subarray(4 * recordBytes, 5 * recordBytes)
    expect(last?.subarray(4 + 64).every((byte) => byte === 0)).toBe(true)
    const before = body?.subarray(0, recordBytes)
    expect(before?.subarray(4 + 64).some((byte) => byte !== 0)).toBe(true)
  })

  it('holds those behind the next layer’s attention after the plain ones, which stay the same', async () => {
    const [plain, both] = ['1,2', 'attended:1,2'].map((ahead, at) => {
      const file = join(folder, `kinds${at}.trace`)
      return {
        file,
        words: ['run', '-q', '-p', '12+9=?', '--trace', file, '--trace-scores', ahead],
      }
    })
    for (const { words } of [plain, both].filter((one) => one !== undefined))
      expect((await command(words)).status).toBe(0)
    const [one, two] = [plain, both].map((made) => readFileSync(made?.file ?? ''))
    const bodyOf = (bytes = Buffer.alloc(0)) => bytes.subarray(bytes.indexOf(10) + 1)
    const header = JSON.parse(two?.subarray(0, two.indexOf(10)).toString() ?? '{}')
    expect(header).toMatchObject({ ahead: [1, 2, 1, 2], attended: 2 })
    const [few, many] = [4 + 64 * 3, 4 + 64 * 5]
    const records = bodyOf(one).length / few
    expect(bodyOf(two).length).toBe(records * many)
    let differing = 0
    for (let at = 0; at < records; at += 1) {
      const record = bodyOf(two).subarray(at * many, (at + 1) * many)
      expect(record.subarray(0, few)).toEqual(bodyOf(one).subarray(at * few, (at + 1) * few))
      if (!record.subarray(few).equals(record.subarray(few - 128, few))) differing += 1
    }
    expect(differing).toBeGreaterThan(0)
    const routing = readRouting(both?.file ?? '')
    const { scores } = routing
    expect(scores?.kind === 'file' && scores.isAttended && [...scores.ahead]).toEqual([1, 2])
  })

  it('says in one line when the file cannot be written, and leaves nothing', async () => {
    const file = join(fixtures, 'no-such-folder/run.trace')
    const end = await command(['run', '-q', '-p', '12+9=?', '--trace', file])
    expect(end.status).toBe(1)
    expect(end.stderr).toMatch(/^ring-offload: --trace .*: cannot be written: .*\n$/)
    expect(existsSync(file)).toBe(false)
  })
})

describe('half precision', () => {
  it('rounds to the nearest, ties to even, from the smallest to infinity', () => {
    const cases: [number, number][] = [
      [0, 0],
      [1, 0x3c00],
      [-2, 0xc000],
      [65504, 0x7bff],
      [65519.9, 0x7bff],
      [65520, 0x7c00],
      [2 ** -24, 1],
      [2 ** -25, 0],
      [1.5 * 2 ** -24, 2],
      [2 ** -14, 0x0400],
      [1 + 2 ** -11, 0x3c00],
      [1 + 3 * 2 ** -11, 0x3c02],
    ]
    for (const [value, bits] of cases) expect(halfOf(value)).toBe(bits)
    for (let bits = 0; bits < 0x7c00; bits += 1) expect(halfOf(valueOfHalf(bits))).toBe(bits)
  })
})
