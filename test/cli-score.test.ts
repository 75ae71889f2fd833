// `score`: lines in, lines out, in order; all of the input is judged before any of it is computed, and
// the output is there whole or not at all.
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { parseTask } from '../src/cli/scoreline.js'
import { openTokenizer } from '../src/model/tokenizer.js'
import { command, withFolder } from './command.js'
import { tinyGoldens } from './goldens.js'
import { edge, ringTiny } from './paths.js'

interface ScoredLine {
  id: unknown
  tokens: number[]
  logprobs: (number | null)[]
  top_logprobs?: [number, number][][]
  routing?: { layers: number[]; experts: number[][][]; weights: number[][][] }
}

const linesOf = (text: string): ScoredLine[] =>
  text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as ScoredLine)

const goldens = tinyGoldens.map((one) => one.golden)
const input = goldens.map((golden) => JSON.stringify({ id: golden.name, tokens: golden.ids }))

describe('score', () => {
  it('gives every line in order, with the reference’s experts and likeliest tokens', async () => {
    await withFolder(async (folder) => {
      const [from, to] = [join(folder, 'in.jsonl'), join(folder, 'out.jsonl')]
      writeFileSync(from, `\n${input.join('\n\n')}`)
      const words = ['score', '-i', from, '-o', to, '--kv-type', 'f32', '--top-logprobs', '20']
      const end = await command([...words, '--routing'])
      expect(end).toMatchObject({ status: 0, stdout: '' })
      expect(readdirSync(folder).sort()).toEqual(['in.jsonl', 'out.jsonl'])
      const lines = linesOf(readFileSync(to, 'utf8'))
      expect(lines.map((line) => line.id)).toEqual(goldens.map((golden) => golden.name))
      for (const [index, line] of lines.entries()) {
        const golden = goldens[index]
        if (golden === undefined) throw new Error('more lines came out than went in')
        expect(line.tokens).toEqual(golden.ids)
        expect(line.logprobs).toHaveLength(golden.ids.length)
        expect(line.logprobs[0]).toBeNull()
        expect(line.logprobs.slice(1).every((value) => Number(value) < 0)).toBe(true)
        expect(line.top_logprobs?.map((top) => top.length)).toEqual(golden.ids.map(() => 20))
        expect(line.routing?.layers).toEqual(golden.router.map((layer) => layer.layer))
        for (const [layer, reference] of golden.router.entries()) {
          for (const [position, margin] of reference.margin.entries()) {
            if (margin < 1e-4) continue
            const ours = [...(line.routing?.experts[layer]?.[position] ?? [])].sort()
            expect(ours).toEqual([...(reference.ids[position] ?? [])].sort())
          }
        }
      }
    })
  })

  it('says how likely each token is after those before it', async () => {
    const words = ['score', '-i', '-', '-o', '-', '-q', '--top-logprobs', '1024']
    const { stdout } = await command(words, { input: '{"id":7,"text":"What is 2+2?"}' })
    const [line, ...others] = linesOf(stdout)
    if (line === undefined) throw new Error('no line came out')
    expect(others).toEqual([])
    expect(line.id).toBe(7)
    expect(line.tokens).toEqual([...openTokenizer(ringTiny).encode('What is 2+2?')])
    expect(line).not.toHaveProperty('routing')
    for (const [position, top] of (line.top_logprobs ?? []).entries()) {
      const mass = top.reduce((sum, [, logprob]) => sum + Math.exp(logprob), 0)
      expect(mass).toBeCloseTo(1, 4)
      const next = top.find(([id]) => id === line.tokens[position + 1])
      if (next !== undefined) expect(line.logprobs[position + 1]).toBeCloseTo(next[1], 5)
    }
  })

  it('needs a tokenizer only where there is text', async () => {
    const words = ['score', edge('bf16'), '-i', '-', '-o', '-', '-q']
    const tokens = await command(words, { input: '{"id":"a","tokens":[1,2,3]}\n' })
    expect(tokens.status).toBe(0)
    expect(linesOf(tokens.stdout)[0]).not.toHaveProperty('top_logprobs')
    const text = await command(words, { input: '{"id":"a","text":"x"}\n' })
    expect(text.stderr).toMatch(/standard input:1: text needs tokenizer\.json/)
    expect([text.status, text.stdout]).toEqual([1, ''])
  })

  it('names every bad line before it computes any, and leaves what was there', async () => {
    await withFolder(async (folder) => {
      const [from, to] = [join(folder, 'in.jsonl'), join(folder, 'out.jsonl')]
      writeFileSync(from, '{"id":1,"tokens":[5]}\n{"id":2,"tokens":[1024]}\n\n{"id":4}\n')
      writeFileSync(to, 'what was there')
      const { status, stderr } = await command(['score', '-i', from, '-o', to, '-q'])
      expect(status).toBe(1)
      expect(stderr.split('\n').map((line) => line.replace(`${folder}/`, ''))).toEqual([
        'ring-offload: in.jsonl:2: tokens[0] must be a token id from 0 to 1023, found 1024',
        'ring-offload: in.jsonl:4: expected either "tokens" or "text", found neither',
        'ring-offload: 2 bad lines; nothing was scored',
        '',
      ])
      expect(readFileSync(to, 'utf8')).toBe('what was there')
      expect(readdirSync(folder).sort()).toEqual(['in.jsonl', 'out.jsonl'])
    })
  })

  it('refuses files that cannot be read or written', async () => {
    await withFolder(async (folder) => {
      const nowhere = join(folder, 'no', 'where')
      const line = { input: '{"id":1,"tokens":[5]}' }
      const unread = await command(['score', '-i', nowhere, '-o', '-', '-q'])
      expect(unread.stderr).toMatch(/cannot be read: no such file or directory\n$/)
      const unwritten = await command(['score', '-i', '-', '-o', nowhere, '-q'], line)
      expect(unwritten.stderr).toMatch(/cannot be written: no such file or directory\n$/)
      mkdirSync(join(folder, 'taken'))
      const taken = await command(['score', '-i', '-', '-o', join(folder, 'taken'), '-q'], line)
      expect(taken.stderr).toMatch(/cannot be written: illegal operation on a directory\n$/)
      expect([unread.status, unwritten.status, taken.status]).toEqual([1, 1, 1])
      expect(existsSync(nowhere)).toBe(false)
    })
  })
})

describe('an input line', () => {
  const limits = {
    vocabulary: 1024,
    contextTokens: 4,
    tokenizer: () => openTokenizer(ringTiny),
  }
  it.each<[string | null, RegExp]>([
    [null, /UTF-8/],
    ['{"id":1', /does not parse/],
    ['[1]', /one JSON object/],
    ['{"tokens":[1]}', /id must be/],
    ['{"id":null,"tokens":[1]}', /id must be/],
    ['{"id":1,"tokens":[1],"text":"x"}', /found both/],
    ['{"id":1,"tokens":"1"}', /list of token ids/],
    ['{"id":1,"tokens":[]}', /at least one token/],
    ['{"id":1,"text":""}', /at least one token/],
    ['{"id":1,"tokens":[1,-1]}', /tokens\[1\].*found -1/],
    ['{"id":1,"tokens":[1.5]}', /tokens\[0\].*found 1\.5/],
    ['{"id":1,"tokens":[1e999]}', /tokens\[0\].*found Infinity/],
    ['{"id":1,"tokens":["1"]}', /tokens\[0\].*found "1"/],
    ['{"id":1,"tokens":[1,2,3,4,5]}', /5 tokens.*holds 4/],
    ['{"id":1,"text":5}', /text must be text/],
  ])('%s is refused', (text, said) => {
    expect(parseTask(text, limits)).toMatch(said)
  })

  it('may have a number or a text as its id, and keys of the sender’s own', () => {
    expect(parseTask('{"id":"a","tokens":[1,2],"label":"mine"}', limits)).toEqual({
      id: 'a',
      tokens: Int32Array.of(1, 2),
    })
  })
})
