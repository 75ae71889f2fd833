// What is run on GPUs, run without one: the program for kernels and the script around it, on the emulated
// library at small shapes, where numbers are right and times mean nothing. What they refuse, and that a
// wrong number does not pass.
import { spawnSync } from 'node:child_process'
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { type Golden, judgeGoldens, readGoldens } from '../scripts/gpugoldens.mjs'
import { withFolder } from './command.js'
import { fixtures, fromRoot } from './paths.js'

const built = (file: string) => fromRoot(`build/native/Release/${file}`)
const emulated = built('ring_cuda_emulated.so')

function run(program: string, words: readonly string[], environment: NodeJS.ProcessEnv = {}) {
  const env = { ...process.env, ...environment }
  const { status, stdout, stderr } = spawnSync(program, words, { encoding: 'utf8', env })
  return { status, stdout, stderr }
}

const gpuTest = (words: readonly string[], environment?: NodeJS.ProcessEnv) =>
  run(built('ring_gpu_test'), words, environment)

/** Cells of the rows of a table, without its head. */
const rowsOf = (text: string) =>
  text
    .split('\n')
    .filter((line) => line.startsWith('|'))
    .slice(2)
    .map((line) =>
      line
        .split('|')
        .slice(1, -1)
        .map((cell) => cell.trim()),
    )

describe('ring_gpu_test', () => {
  it('fails where a number cannot be had', () => {
    const words = [emulated, '--tiny', '--only', 'numbers', '--case', 'last row']
    const { status, stdout } = gpuTest(words, { RING_EMULATED_MEMORY: '1000' })
    expect(rowsOf(stdout).map((cells) => cells.at(-1))).toEqual(['**no**'])
    expect(status).toBe(1)
  })

  it('fails where nothing was checked', () => {
    const { status } = gpuTest([emulated, '--tiny', '--only', 'numbers', '--case', 'no such case'])
    expect(status).toBe(1)
  })

  it.each([
    ['a library that is not there', ['./none.so'], 1, 'there is no such file'],
    ['a library without kernels', [built('ring_delayed.so')], 1, 'does not hand out its kernels'],
    ['no library', ['--tiny'], 2, 'ring_gpu_test LIBRARY'],
    ['a part that is none', [emulated, '--only', 'speed'], 2, 'ring_gpu_test LIBRARY'],
  ])('refuses %s', (_what, words, expected, sentence) => {
    const { status, stderr } = gpuTest(words)
    expect(stderr).toContain(sentence)
    expect(status).toBe(expected)
  })
})

describe('test:gpu', () => {
  it('runs numbers, ceilings, kernels, layers and goldens, and prints one table last', () => {
    // The models take half a minute of the emulation.
    const parts = ['--only', 'kernels', '--only', 'goldens']
    const words = [fromRoot('scripts/testgpu.mjs'), '--library', emulated, ...parts]
    const { status, stdout, stderr } = run(process.execPath, words)
    expect(status, stderr).toBe(0)
    const rows = rowsOf(stdout)
    expect(rows.filter((cells) => cells.length !== 6)).toEqual([])
    const titles = rows.map(([what]) => what).join('\n')
    for (const part of [
      'cuda: products of the models',
      'ceiling: reading',
      'launch gap',
      'tiny qkv, FP8, 1 token',
      'tiny experts, 2 tokens',
      'tiny attention',
      'tiny router',
      'layers, of reading their weights',
      'whole tokens',
      'the host between layers',
      'goldens: log-probability',
      'the same bits alone',
    ]) {
      expect(titles).toContain(part)
    }
    const notMeasured = rows.filter(([, figure = '']) => figure.startsWith('not measured'))
    expect(notMeasured).toEqual([])
    expect(stdout).toContain('no figure of speed means anything')
  }, 120_000)

  it.each([
    [['--keep'], '--keep is for figures of hardware'],
    [['--only', 'speed'], '--only speed is none of kernels, goldens, models, sanitizer'],
  ])('refuses %s of an emulation', (more, sentence) => {
    const words = [fromRoot('scripts/testgpu.mjs'), '--library', emulated, ...more]
    const { status, stderr } = run(process.execPath, words)
    expect(stderr).toBe(`test:gpu: ${sentence}\n`)
    expect(status).toBe(1)
  })
})

/** Runs the sanitizer's part with a program in its place that does what `script` says. */
async function sanitized(script: string | null) {
  return await withFolder(async (folder) => {
    const path = script === null ? process.env.PATH : `${folder}:${process.env.PATH}`
    if (script !== null) {
      writeFileSync(join(folder, 'compute-sanitizer'), `#!/bin/sh\n${script}\n`, { mode: 0o755 })
    }
    const words = [fromRoot('scripts/testgpu.mjs'), '--library', emulated, '--only', 'sanitizer']
    const { status, stdout, stderr } = run(process.execPath, words, { PATH: path })
    return {
      status,
      stderr,
      rows: rowsOf(stdout).map(([, figure, , , , verdict]) => [figure, verdict]),
    }
  })
}

describe('the part under compute-sanitizer', () => {
  const version = '[ "$1" = --version ] && exit 0'
  const memory = 'echo "========= ERROR SUMMARY: 0 errors"'
  const races = 'echo "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)"'
  const isMemory = '[ "$2" = memcheck ]'

  it('runs both tools over the numbers of small shapes, and says how they sum up', async () => {
    const asked = `echo "asked $*" >&2; ${isMemory} && ${memory} || ${races}`
    const { status, stderr, rows } = await sanitized(`${version}\n${asked}`)
    expect(rows).toEqual([
      ['0 errors', 'yes'],
      ['0 hazards displayed (0 errors, 0 warnings)', 'yes'],
    ])
    expect(stderr).toContain(
      `asked --tool racecheck --error-exitcode 9 ${built('ring_gpu_test')} ${emulated} --tiny --only numbers`,
    )
    expect(status).toBe(0)
  })

  it('does not hold where one finds errors, or says nothing, and shows what was said', async () => {
    const found = 'echo "========= Invalid read"; echo "========= ERROR SUMMARY: 2 errors"; exit 9'
    const { status, stderr, rows } = await sanitized(`${version}\n${isMemory} || exit 0\n${found}`)
    expect(rows).toEqual([
      ['ended with status 9, 2 errors', '**no**'],
      ['ended without a summary', '**no**'],
    ])
    expect(stderr).toContain('========= Invalid read')
    expect(status).toBe(1)
  })

  it('is left out where the program is not there', async (context) => {
    if (existsSync('/usr/local/cuda/bin/compute-sanitizer')) return context.skip('it is there')
    const { status, rows } = await sanitized(null)
    expect(rows.map(([figure]) => figure)).toEqual([
      expect.stringMatching(/^not measured: compute-sanitizer is neither/),
      expect.stringMatching(/^not measured: compute-sanitizer is neither/),
    ])
    expect(status).toBe(0)
  })
})

describe('test:gpu:tiers', () => {
  const script = fromRoot('scripts/testgputiers.mjs')

  it('runs oracle, misses, sharing and tiers, and prints one table last', () => {
    const { status, stdout, stderr } = run(process.execPath, [script, '--library', emulated])
    expect(status, stderr).toBe(0)
    const rows = rowsOf(stdout)
    expect(rows.filter((cells) => cells.length !== 6)).toEqual([])
    expect(rows.map(([what = '']) => what.split(/[:,]/)[0])).toEqual([
      'residency oracle',
      ...['ring-tiny', 'ring-tiny', '25 % in slots over RAM'],
      'ring-tiny',
    ])
    expect(rows.filter(([, figure = '']) => figure.startsWith('not measured'))).toEqual([])
    expect(rows[0]?.at(-1)).toBe('yes')
  }, 120_000)

  it.each([
    [['--keep'], '--keep is for figures of hardware'],
    [['--only', 'speed'], '--only speed is none of oracle, misses, large'],
  ])('refuses %s of an emulation', (more, sentence) => {
    const { status, stderr } = run(process.execPath, [script, '--library', emulated, ...more])
    expect(stderr).toBe(`test:gpu:tiers: ${sentence}\n`)
    expect(status).toBe(1)
  })
})

describe('the judge of goldens', () => {
  const goldens = readGoldens(join(fixtures, 'goldens'), 16)

  /** What the program would say of a golden if it were the reference itself. */
  const perfect = ({ name, ids, top20, router }: Golden) => ({
    id: name,
    top_logprobs: ids.map((_, at) =>
      (top20[at]?.ids ?? []).map((id, rank): [number, number] => [
        id,
        top20[at]?.values[rank] ?? 0,
      ]),
    ),
    routing: { experts: router.map((layer) => layer.ids.map((set) => [...set].reverse())) },
  })
  const verdicts = (change: (scored: ReturnType<typeof perfect>) => void) => {
    const lines = goldens.map((golden) => {
      const scored = perfect(golden)
      change(scored)
      return JSON.stringify(scored)
    })
    return judgeGoldens(goldens, lines).map(({ holds }) => holds)
  }

  it('passes the reference itself', () => {
    expect(verdicts(() => {})).toEqual([true, true])
  })

  it('passes another set of experts only where the margin is small', () => {
    const margins = goldens.flatMap(({ router }) => router[0]?.margin[0] ?? [])
    expect(Math.max(...margins)).toBeGreaterThan(5e-3)
    const other = verdicts(({ routing }) => routing.experts[0]?.[0]?.fill(0))
    expect(other[0]).toBe(false)
  })

  it('refuses a log-probability that is off', () => {
    const shifted = verdicts(({ top_logprobs }) => {
      const second = top_logprobs[0]?.[1]
      if (second !== undefined) second[1] += 0.2
    })
    expect(shifted).toEqual([true, false])
  })
})
