// `score --against`: another engine's samples beside this one's figures. Against itself nothing differs;
// what differs by known amounts is counted as such; a file that cannot be followed is refused at its line.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { Discrepancy } from '../src/cli/discrepancy.js'
import { samplesOf } from '../src/cli/samples.js'
import type { Scored } from '../src/engine/score.js'
import { openTokenizer } from '../src/model/tokenizer.js'
import { answered, chatLine, question, textLine } from './batching.js'
import { command, lastObject, withFolder } from './command.js'
import { tinyGoldens } from './goldens.js'
import { ringTiny } from './paths.js'

interface Layer {
  readonly layer: number
  readonly agree: number
  readonly overlap: number
}

interface Report {
  readonly samples: number
  readonly tokens: number
  readonly unsaid: number
  readonly difference: {
    readonly mean: number
    readonly median: number
    readonly p1: number
    readonly p99: number
    readonly max_abs: number
    readonly max_at: { readonly id: string; readonly token: number }
  }
  readonly sizes: readonly { readonly up_to: number | null; readonly share: number }[]
  readonly band: readonly number[]
  readonly outside: { readonly share: number; readonly below: number; readonly above: number }
  readonly kl: { readonly k3: number; readonly k1: number }
  readonly routing: {
    readonly tokens: number
    readonly agree_everywhere: number
    readonly layers: readonly Layer[]
  } | null
}

const goldens = tinyGoldens.map(({ golden }) => golden)
const input = goldens
  .map((golden) => JSON.stringify({ id: golden.name, tokens: golden.ids }))
  .join('\n')
const tokens = goldens.reduce((sum, { ids }) => sum + ids.length - 1, 0)

/** The goldens' lines, scored. */
async function scored(folder: string, name: string, flags: readonly string[] = []) {
  const file = join(folder, name)
  const end = await command(['score', '-i', '-', '-o', file, '-q', ...flags], { input })
  expect(end.status, end.stderr).toBe(0)
  return file
}

async function report(file: string, flags: readonly string[] = []): Promise<Report> {
  const end = await command(['score', '--against', file, '--json', '-q', ...flags])
  expect(end.status, end.stderr).toBe(0)
  return lastObject(end) as unknown as Report
}

describe('against itself', () => {
  it('nothing differs, in log-probabilities and in routing', async () => {
    await withFolder(async (folder) => {
      const file = await scored(folder, 'own.jsonl', ['--routing'])
      const copy = join(folder, 'copy.jsonl')
      const own = await report(file, ['-o', copy, '--routing'])
      expect(own).toMatchObject({ samples: goldens.length, tokens, unsaid: 0 })
      const { mean, median, p1, p99, max_abs } = own.difference
      expect([mean, median, p1, p99, max_abs]).toEqual([0, 0, 0, 0, 0])
      expect(own.outside).toEqual({ share: 0, below: 0, above: 0 })
      expect([own.kl.k3, Math.abs(own.kl.k1)]).toEqual([0, 0])
      expect(own.sizes[0]).toEqual({ up_to: 0, share: 1 })
      expect(own.routing).toMatchObject({ tokens: tokens + goldens.length, agree_everywhere: 1 })
      expect(own.routing?.layers.length).toBeGreaterThan(1)
      for (const { agree, overlap } of own.routing?.layers ?? []) {
        expect([agree, overlap]).toEqual([1, 1])
      }
      expect(readFileSync(copy, 'utf8')).toBe(readFileSync(file, 'utf8'))
    })
  })

  it('an answered batch differs in nothing, whose prompts are in its input', async () => {
    await withFolder(async (folder) => {
      const lines = [
        chatLine('chat', { ...question('What is 3+4?'), max_tokens: 30, n: 2, logprobs: true }),
        chatLine('other', { ...question('Sort 4 1 3'), max_tokens: 20, logprobs: true }),
        textLine('text', { prompt: '1+1=', max_tokens: 8, logprobs: 0, temperature: 0 }),
        chatLine('refused', { messages: [] }),
      ]
      await answered(folder, lines)
      const asked = ['-i', join(folder, 'in.jsonl')]
      const own = await report(join(folder, 'out.jsonl'), asked)
      expect(own.samples).toBe(4)
      expect(own.tokens).toBeGreaterThan(30)
      expect(own.unsaid).toBeGreaterThan(20)
      expect(own.difference.max_abs).toBe(0)
      expect(own.routing).toBeNull()
      const alone = await command(['score', '--against', join(folder, 'out.jsonl'), '-q'])
      expect(alone.stderr).toMatch(/out\.jsonl:1: has no prompt_token_ids: .*with -i/)
      expect(alone.status).toBe(1)
    })
  })
})

describe('against other products', () => {
  it('differences are small and there, and lines for people say the same', async () => {
    await withFolder(async (folder) => {
      const file = await scored(folder, 'bf16.jsonl', ['--math', 'bf16', '--routing'])
      const { difference, outside, kl, routing } = await report(file)
      expect(difference.max_abs).toBeGreaterThan(0)
      expect(difference.p99).toBeGreaterThan(0)
      expect(difference.p99).toBeLessThan(0.5)
      expect(difference.p1).toBeGreaterThan(-0.5)
      expect(Math.abs(difference.median)).toBeLessThan(1e-2)
      expect(outside.share).toBeLessThan(0.01)
      expect(kl.k3).toBeGreaterThan(0)
      for (const { agree, overlap } of routing?.layers ?? []) {
        expect(agree).toBeGreaterThan(0.9)
        expect(overlap).toBeGreaterThanOrEqual(agree)
      }
      const { stdout } = await command(['score', '--against', file, '-q'])
      const said = stdout.trimEnd().split('\n')
      expect(said[0]).toBe(`compared    ${tokens} tokens of ${goldens.length} samples`)
      expect(said[2]).toContain(String(Number(difference.max_abs.toPrecision(3))))
      expect(said.length).toBe(7 + (routing?.layers.length ?? 0))
    })
  })
})

describe('differences', () => {
  const shape = { firstMoeLayer: 1, moeLayers: 2, topK: 2 }
  const scoredAs = (logprobs: number[], experts: number[] = []): Scored => ({
    logprobs: Float32Array.from(logprobs),
    topCount: 0,
    topIds: new Int32Array(0),
    topLogprobs: new Float32Array(0),
    experts: Uint16Array.from(experts),
    weights: new Float32Array(0),
  })
  const sampleAs = (logprobs: number[], experts?: number[][][]) => ({
    id: 'made up',
    tokens: new Int32Array(logprobs.length),
    logprobs: Float32Array.from(logprobs),
    routing: experts === undefined ? null : { layers: [1, 2], experts },
  })
  const band = { least: 0.5, most: 5 }

  it('are counted by size, and tokens by whether their ratio lies in the band', () => {
    const discrepancy = new Discrepancy(shape)
    // Here less there: 0, 2 (a ratio of 7.4), -1 (0.37), 0.25; one is not told; the first never counts.
    const there = [9, -1, -3, -1, -1.25, Number.NaN]
    discrepancy.add(sampleAs(there), scoredAs([5, -1, -1, -2, -1, -1]))
    const figures = discrepancy.figures(band)
    expect(figures).toMatchObject({ samples: 1, tokens: 4, unsaid: 1, largest: 2 })
    expect(figures).toMatchObject({ mean: 1.25 / 4, median: 0.125, below: 0.25, above: 0.25 })
    expect(figures?.worst).toEqual({ id: 'made up', token: 2 })
    expect(figures?.sizes).toEqual([0.25, 0, 0, 0, 0, 0, 0, 0.5, 0.25])
    expect(figures?.p1).toBeCloseTo(-0.97, 12)
    expect(figures?.p99).toBeCloseTo(2 - 0.03 * 1.75, 12)
    expect(figures?.k1).toBe(-1.25 / 4)
    const k3 = [0, 2, -1, 0.25].map((one) => Math.exp(one) - 1 - one)
    expect(figures?.k3).toBeCloseTo(k3.reduce((sum, one) => sum + one) / 4, 12)
    expect(discrepancy.figures({ least: 0.3, most: 8 })).toMatchObject({ below: 0, above: 0 })
  })

  it('of more tokens than are kept together are all there', () => {
    const discrepancy = new Discrepancy(shape)
    const there = Array.from({ length: 30_001 }, (_, at) => -at)
    for (let sample = 0; sample < 5; sample += 1) {
      discrepancy.add(sampleAs(there), scoredAs(Array(30_001).fill(0)))
    }
    expect(discrepancy.figures(band)).toMatchObject({ tokens: 150_000, median: 15_000.5 })
  })

  it('of experts are counted as sets, by layer', () => {
    const discrepancy = new Discrepancy(shape)
    // [layer][position][k]; the second token differs in one expert of layer 2.
    const first = [1, 2, 3, 4, 5, 6]
    const second = [2, 1, 3, 9, 5, 6]
    const there = [first, second].map((layer) => [0, 2, 4].map((at) => layer.slice(at, at + 2)))
    const here = [2, 1, 3, 4, 6, 5, 1, 2, 3, 4, 5, 6]
    discrepancy.add(sampleAs([0, -1, -1], there), scoredAs([0, -1, -1], here))
    expect(discrepancy.figures(band)?.routing).toEqual({
      tokens: 3,
      agreeEverywhere: 2 / 3,
      layers: [
        { layer: 1, agree: 1, overlap: 1 },
        { layer: 2, agree: 2 / 3, overlap: 2.5 / 3 },
      ],
    })
  })

  it('of nothing are none', () => {
    expect(new Discrepancy(shape).figures(band)).toBeNull()
  })
})

describe('a line of another engine', () => {
  const limits = {
    vocabulary: 1024,
    contextTokens: 8,
    tokenizer: () => openTokenizer(ringTiny),
  }
  const read = (line: object) => samplesOf(JSON.stringify(line), limits, null)
  const id = 'a'

  it('may be of score, with text or tokens', async () => {
    const [sample] = await read({ id, tokens: [1, 2], logprobs: [null, -0.5] })
    expect(sample).toMatchObject({ id, tokens: Int32Array.of(1, 2), routing: null })
    const [text] = await read({ id, text: '1+', logprobs: [null, -9999] })
    expect(text).toMatchObject({ logprobs: Float32Array.of(Number.NaN, Number.NaN) })
  })

  it('may have the prompt as vLLM tells of it', async () => {
    const prompt_logprobs = [null, { 7: { logprob: -0.25, rank: 1 }, 9: { logprob: -3 } }]
    const prompt_token_ids = [5, 7]
    const content = [{ token: 'x', logprob: -1.5, bytes: [120] }]
    const choice = { index: 0, token_ids: [11], logprobs: { content } }
    const body = { id: 'chat', prompt_token_ids, prompt_logprobs, choices: [choice] }
    const told = {
      tokens: Int32Array.of(5, 7, 11),
      logprobs: Float32Array.of(Number.NaN, -0.25, -1.5),
    }
    expect(await read({ custom_id: id, response: { status_code: 200, body } })).toEqual([
      { id: 'a#0', routing: null, ...told },
    ])
    expect(await read(body)).toEqual([{ id: 'chat#0', routing: null, ...told }])
    expect(await read({ id, prompt_token_ids, prompt_logprobs })).toMatchObject([
      { tokens: Int32Array.of(5, 7), logprobs: Float32Array.of(Number.NaN, -0.25) },
    ])
  })

  it('may name tokens by id, by bytes or by text', async () => {
    const bytes = [...openTokenizer(ringTiny).bytesOf(300)]
    const of = async (choice: object) =>
      (await read({ id, choices: [{ prompt_token_ids: [5], ...choice }] }))[0]
    const chat = { content: [{ token: '?', bytes, logprob: -1 }] }
    expect(await of({ logprobs: chat })).toMatchObject({ tokens: Int32Array.of(5, 300) })
    const text = { tokens: ['token_id:41', '1'], token_logprobs: [-1, -2] }
    const [one] = openTokenizer(ringTiny).encode('1')
    expect(await of({ logprobs: text })).toMatchObject({ tokens: Int32Array.of(5, 41, one ?? -1) })
  })

  it('without an answer has no samples', async () => {
    expect(await read({ custom_id: id, response: null, error: { code: 'x' } })).toEqual([])
    const body = { error: { message: 'no' } }
    expect(await read({ custom_id: id, response: { status_code: 400, body } })).toEqual([])
  })

  const choices = (choice: object) => ({ id, choices: [{ prompt_token_ids: [5], ...choice }] })
  const logprobs = { tokens: ['1'], token_logprobs: [-1] }
  it.each<[object, RegExp]>([
    [{ tokens: [1], logprobs: [null] }, /id must be/],
    [{ id, tokens: [1, 2] }, /expected "logprobs" or "prompt_logprobs"/],
    [{ id, tokens: [1, 2], logprobs: [null] }, /logprobs has 1 entries for 2 tokens/],
    [{ id, tokens: [1, 2], logprobs: [null, 0.5] }, /logprobs\[1\] must be a log-probability/],
    [{ id, tokens: [1, 2], logprobs: [null, 'x'] }, /logprobs\[1\].*found "x"/],
    [{ id, tokens: [1024], logprobs: [null] }, /tokens\[0\] must be a token id/],
    [{ id, tokens: [1], logprobs: [null], routing: { layers: [1] } }, /routing must have/],
    [
      { id, tokens: [1, 2], logprobs: [null, -1], routing: { layers: [1], experts: [[[1]]] } },
      /layer 1 has not the experts of 2 tokens/,
    ],
    [{ id, choices: 5 }, /choices must be a list/],
    [choices({}), /has no log-probabilities/],
    [choices({ logprobs, token_ids: [1, 2] }), /logprobs has 1 entries for 2 tokens/],
    [
      choices({ logprobs: { ...logprobs, tokens: ['no such token'] } }),
      /token 0 is "no such token"/,
    ],
    [choices({ logprobs, prompt_token_ids: Array(8).fill(5) }), /9 tokens.*context holds 8/],
    [choices({ logprobs, prompt_token_ids: null }), /has no prompt_token_ids/],
  ])('%j is refused', async (line, said) => {
    expect(await read(line)).toMatch(said)
  })
})

describe('a file', () => {
  it('that is damaged is refused in one line that names its place, and nothing is computed', async () => {
    await withFolder(async (folder) => {
      const file = join(folder, 'cut.jsonl')
      const line = '{"id":1,"tokens":[5,6],"logprobs":[null,-1]}'
      writeFileSync(file, `${line}\n\n${line.slice(0, 30)}`)
      const { status, stdout, stderr } = await command(['score', '--against', file, '-q'])
      expect([status, stdout]).toEqual([1, ''])
      expect(stderr.replace(folder, '')).toBe(
        'ring-offload: /cut.jsonl:3: expected one JSON object, found text that does not parse\n',
      )
      writeFileSync(file, '{"id":1,"tokens":[5,6],"logprobs":[null,null]}')
      const silent = await command(['score', '--against', file, '-q'])
      expect([silent.status, silent.stdout]).toEqual([1, ''])
      expect(silent.stderr).toMatch(/says no log-probability, so nothing can be compared\n$/)
    })
  })
})
