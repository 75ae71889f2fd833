// What the program refuses, and how: one line on stderr that names what is wrong, nothing on stdout,
// no stack, status 1 for what failed and 2 for wrong usage. Texts of values are tried without starting
// the program; one of each kind goes the whole way.
import { mkdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { budget, logitBias, real, ropeScaling, seed, whole } from '../src/cli/argument.js'
import { command, copyOfTiny, type Ended, withFolder } from './command.js'
import { edge, ringTiny } from './paths.js'

function expectRefusal({ status, stdout, stderr }: Ended, expected: number, said: RegExp): void {
  expect(stderr).toMatch(said)
  expect(stderr).toMatch(/^ring-offload: [^\n]+\n$/)
  expect(stdout).toBe('')
  expect(status).toBe(expected)
}

describe.concurrent('wrong usage', () => {
  it.each<[string, string[], RegExp]>([
    ['an unknown command', ['explode'], /unknown command 'explode'/],
    ['an unknown flag', ['run', '--threadz', '2'], /--threadz.*--threads/],
    ['a flag without its value', ['run', '-p'], /--prompt.* missing/],
    ['a second model', ['run', 'a', 'b'], /too many arguments/],
    ['no tokens to draw', ['run', '-n', '0'], /--predict.*'0'.*whole number from 1/],
    ['a negative temperature', ['run', '--temp', '-1'], /--temp.*'-1'.*from 0 to 100/],
    ['no mass to draw from', ['run', '--top-p', '0'], /--top-p.*'0'.*above 0 and at most 1/],
    ['an unknown choice', ['run', '--kv-type', 'f16'], /--kv-type.*'f16'.*bf16, f32/],
    ['two prompts', ['run', '-p', 'x', '-f', 'y'], /--prompt.*cannot be used with.*--file/],
    [
      'a budget of thoughts below 0',
      ['run', '--reasoning-budget', '-1'],
      /--reasoning-budget.*'-1'/,
    ],
    ['a system message for raw text', ['run', '--raw', '--system', 'x'], /--raw.*--system/],
    ['an empty prompt', ['run', '-p', ''], /prompt is empty/],
    ['no prompt for a model of one’s own', ['run', ringTiny], /no prompt: expected -p TEXT/],
    ['no model to pull', ['pull'], /argument 'MODEL'/],
    ['no files at once', ['pull', 'a/b', '--jobs', '0'], /--jobs.*'0'.*whole number from 1/],
    ['a glob that is none', ['pull', 'a/b', '--include', ''], /--include.*a glob/],
    [
      'look-ahead without a machine',
      ['simulate', '--generate', '1', '--prefetch', 'on'],
      /--machine/,
    ],
    ['no distances', ['run', '--trace-scores', 'attended:'], /--trace-scores.*attended:1,2,4/],
    ['an unknown flag of doctor', ['doctor', '--deep'], /--deep/],
    ['no input to score', ['score', '-o', '-'], /--input.*not specified/],
    ['a band without 1 in it', ['score', '--band', '2,5'], /--band.*'2,5'.*as 0\.5,5/],
    ['a report and results at once', ['score', '--against', 'x', '-o', '-'], /-o -.*--against/],
    ['no address of a server', ['top', '--url', 'ftp://x'], /--url ftp:\/\/x: expected an address/],
    ['no rate', ['run', '--ceiling', '7GB'], /--ceiling.*'7GB'.*as 7GB\/s/],
    ['no output of a job', ['batch', '-i', 'x'], /--output.*not specified/],
    ['a pipe as the output of a job', ['batch', '-o', '-'], /--output.*'-'.*Expected a file/],
    ['no time of day', ['batch', '--until', '25:00'], /--until.*'25:00'.*as 07:00/],
    ['no interval', ['batch', '--journal-every', '1h'], /--journal-every.*'1h'.*seconds as 30s/],
    ['a read that is no size', ['run', '--read-chunk', '4KiB'], /--read-chunk.*from 64KiB to 1GiB/],
    ['no settings to try', ['tune', '--try', 'math'], /--try.*'math'.*threads,/],
    ['showing and forgetting', ['tune', '--show', '--forget'], /--show.*--forget/],
    ['nothing to compare with', ['bench', '--compare', '=1'], /--compare.*'=1'.*policy=lru/],
    ['no number of answers', ['batch', '--max-batch', 'all'], /--max-batch.*'all'.*whole number/],
  ])('%s', async (_title, words, said) => {
    expectRefusal(await command(words), 2, said)
  })

  it('in the environment, whose variable is named', async () => {
    const environment = { RING_THREADS: 'many' }
    expectRefusal(await command(['run'], { environment }), 2, /'many'.*RING_THREADS.*whole number/)
    const unclear = { RING_JSON: 'maybe' }
    expectRefusal(await command(['run'], { environment: unclear }), 2, /RING_JSON must be 1 or 0/)
  })

  it('no command at all: the help, on stderr', async () => {
    const { status, stdout, stderr } = await command([])
    expect([status, stdout]).toEqual([2, ''])
    expect(stderr).toContain('Usage: ring-offload')
  })
})

describe.concurrent('what cannot be done', () => {
  it.each<[string, string[], RegExp]>([
    ['a model that is nowhere', ['run', 'no/where', '-p', 'x'], /"no\/where"/],
    ['text for a model without a tokenizer', ['run', edge('bf16'), '-p', 'x'], /tokenizer\.json/],
    ['a folder that is no model', ['run', os.tmpdir(), '-p', 'x'], /config\.json: file not found/],
    [
      'a backend that is not there',
      ['run', '--backend', 'cuda'],
      /--backend cuda: .*(?:no CUDA|driver|GPU)/,
    ],
    ['a context beyond the model', ['run', '--ctx-size', '4096'], /--ctx-size 4096.*2048/],
    ['a bias for no token', ['run', '--logit-bias', '1024=1'], /--logit-bias 1024=1.*0 to 1023/],
    ['more tokens than the context holds', ['run', '-n', '2048'], /24 tokens.*2048.*holds 2048/],
    ['a prompt file that is not there', ['run', '-f', 'gone.txt'], /gone\.txt: cannot be read: no/],
    ['a folder that is nowhere', ['doctor', '/no/where'], /\/no\/where: cannot be looked at/],
    ['a prompt file that is a folder', ['run', '-f', '/'], /\/: cannot be read/],
  ])('%s', async (_title, words, said) => {
    expectRefusal(await command([...words, '-q']), 1, said)
  })

  it('a prompt longer than the context: both numbers are given', async () => {
    const end = await command(['run', '--raw', '-q'], { input: '1'.repeat(3000) })
    expectRefusal(end, 1, /prompt has 3000 tokens, and the context holds 2048/)
  })

  it('a shard that is cut short, or missing', async () => {
    await withFolder(async (folder) => {
      const model = copyOfTiny(folder)
      const shard = 'model-00003-of-00004.safetensors'
      truncateSync(join(model, shard), 100_000)
      const words = ['run', model, '-p', 'x', '-q']
      expectRefusal(await command(words), 1, new RegExp(`${shard}.*within the 66992 bytes`))
      rmSync(join(model, shard))
      expectRefusal(await command(words), 1, new RegExp(`${shard}: file not found`))
    })
  })

  it('an architecture that is unknown: the known ones are named', async () => {
    await withFolder(async (folder) => {
      const model = copyOfTiny(folder)
      const path = join(model, 'config.json')
      writeFileSync(path, readFileSync(path, 'utf8').replace('BailingMoeV2For', 'LlamaFor'))
      const end = await command(['run', model, '-p', 'x', '-q'])
      expectRefusal(end, 1, /BailingMoeV2ForCausalLM, found "LlamaForCausalLM"/)
    })
  })

  it('whatever the name of a file may hold, the line stays one line', async () => {
    await withFolder(async (folder) => {
      const odd = join(folder, 'a\nb\u001b[31m')
      mkdirSync(odd)
      const end = await command(['run', odd, '-p', 'x', '-q'])
      expectRefusal(end, 1, /config\.json/)
      expect(end.stderr).not.toContain('\u001b')
    })
  })

  it('shows a stack only when RING_DEBUG asks for it', async () => {
    const environment = { RING_DEBUG: '1' }
    const { stderr } = await command(['run', 'no/where', '-p', 'x'], { environment })
    expect(stderr).toMatch(/\n\s+at /)
  })
})

describe('the text of a value', () => {
  const refused = (parse: (text: string) => unknown, texts: readonly string[]) => {
    for (const text of texts) expect(() => parse(text), text).toThrow(/Expected/)
  }

  it('whole numbers are decimal and within bounds', () => {
    expect(whole(1, 1024)('1024')).toBe(1024)
    refused(whole(1, 1024), ['0', '1025', '-1', '+1', '1.5', '1e2', '0x10', ' 1', '', 'NaN', '١'])
    expect(seed('9007199254740991')).toBe(2 ** 53 - 1)
    refused(seed, ['9007199254740992', '99999999999999999999'])
  })

  it('numbers are finite, whole texts within bounds', () => {
    expect(real(0, 100)('0.7')).toBe(0.7)
    expect(real(0, 100)('.5')).toBe(0.5)
    expect(real(-100, 100)('-1e-2')).toBe(-0.01)
    refused(real(0, 100), ['-0.1', '101', '1e999', 'Infinity', 'NaN', '', '1,5', '1 ', '--1'])
    refused(real(0, 1, true), ['0', '0.0', '1e-999'])
  })

  it('budgets are sizes with units, or shares', () => {
    expect(budget('25%')).toEqual({ share: 0.25 })
    expect(budget('96GiB')).toEqual({ bytes: 96 * 2 ** 30 })
    expect(budget('1.5 gb')).toEqual({ bytes: 1.5e9 })
    expect(budget('4096')).toEqual({ bytes: 4096 })
    refused(budget, ['0', '0%', '101%', '-1GiB', '5 parsecs', '1PiB2', '0.1', '', '%', '9999999TB'])
  })

  it('rope scaling is YaRN with a factor', () => {
    expect(ropeScaling('yarn,4')).toEqual({ factor: 4 })
    refused(ropeScaling, ['yarn', 'yarn,', 'yarn,0.5', 'yarn,1025', 'linear,2', 'yarn,2,3', '4'])
  })

  it('biases name tokens; the last of an id counts', () => {
    expect([...logitBias('5=1,6=-inf', new Map([[5, 3]]))]).toEqual([
      [5, 1],
      [6, Number.NEGATIVE_INFINITY],
    ])
    refused(logitBias, ['5', '=1', '5=', 'x=1', '5=inf', '5=NaN', '5=1e5', '-5=1', '5=1,'])
  })
})
