// Figures of "CPU kernels": products as shares of what the machine does in the same minute, and the
// decode of a whole model in memory as a share of reading its weights.
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, it } from 'vitest'
import { probe } from '../native/index.js'
import { note, remark, spread } from './figure.js'
import { root } from './paths.js'
import { benchOf, type Widened, widened } from './widened.js'

interface Row {
  readonly name: string
  readonly share: number
  readonly text: string
}

/** Rows of the kernels' bench: every matrix of the three models, medians of some rounds. */
function kernels(words: readonly string[], isa = 'auto'): Row[] {
  const printed = execFileSync(
    join(root, 'build/native/Release/ring_bench'),
    [...words, '--phase', '0,5', '--repeats', '7'],
    { encoding: 'utf8', env: { ...process.env, RING_ISA: isa } },
  )
  return printed.split('\n').flatMap((line) => {
    const found = /^(\S.*?)\s{2,}.*?(\d+\.\d+) (\[[^\]]+\])$/.exec(line)
    return found === null
      ? []
      : [{ name: found[1] ?? '', share: Number(found[2]), text: `${found[2]} ${found[3]}` }]
  })
}

function noteLeast(what: string, rows: readonly Row[], bound: number): void {
  const sorted = [...rows].sort((a, b) => a.share - b.share)
  const least = sorted[0]
  const middle = sorted[Math.floor(sorted.length / 2)]
  const below = sorted
    .filter(({ share }) => share < bound)
    .map(({ name, text }) => `${name} ${text}`)
  note(
    `${what}: least of ${rows.length} matrices`,
    `${least?.text} (${least?.name}); the middle one ${middle?.share}` +
      (below.length > 1 ? `; below the bound: ${below.join(', ')}` : ''),
    String(bound),
    (least?.share ?? 0) >= bound,
  )
}

const all = String(probe().cores)
const isFp8 = ({ name }: Row) => !name.includes('BF16')
const has512 = probe().instructionSet.startsWith('avx512')

it('one token, of reading', () => {
  noteLeast('one token, all threads, of reading', kernels(['--threads', all, '--tokens', '1']), 0.8)
  noteLeast('one token, one thread, of reading', kernels(['--threads', '1', '--tokens', '1']), 0.6)
  if (has512) {
    const rows = kernels(['--threads', all, '--tokens', '1'], 'avx2')
    noteLeast('one token, all threads, AVX2, FP8, of reading', rows.filter(isFp8), 0.6)
  }
})

it('one token, BF16 products', () => {
  if (probe().instructionSet !== 'avx512bf16')
    return remark('one token, --math bf16', 'not measured: this processor has no BF16 products')
  const rows = kernels(['--math', 'bf16', '--threads', '1', '--tokens', '1'])
  noteLeast('one token, one thread, --math bf16, of reading', rows, 0.8)
})

it('256 tokens, of multiply-adds in registers', () => {
  for (const threads of new Set(['1', all])) {
    const rows = kernels(['--threads', threads, '--tokens', '256'])
    noteLeast(`256 tokens, ${threads} thread(s), of multiply-adds`, rows, 0.55)
  }
})

describe('a whole model in memory', () => {
  let model: Widened
  beforeAll(async () => {
    model = await widened()
  })
  afterAll(() => model.remove())

  it('decode, of reading its weights', async () => {
    for (const threads of new Set([all, '1'])) {
      const results = []
      for (let at = 0; at < 5; at += 1) {
        const words = ['--expert-ram', '100%', '--threads', threads, '-n', '240']
        results.push((await benchOf(model.folder, words)).warm)
      }
      const shares = spread(results.map(({ memory }) => memory.share_of_bound))
      const rate = spread(results.map((result) => result.decode_tok_s))
      const ceiling = spread(results.map(({ memory }) => memory.ceiling_bytes_s / 1e9))
      const middle = results[2]
      const total = Object.values(middle?.compute_s ?? {}).reduce((a, b) => a + b, 0)
      const parts = Object.entries(middle?.compute_s ?? {}).map(
        ([name, seconds]) => `${name} ${(seconds / total).toFixed(3)}`,
      )
      note(
        `decode of the 4 GB model in memory, ${threads} thread(s), of reading its weights`,
        `${shares.text}; ${rate.text} tokens/s; memory ${ceiling.text} GB/s; ${parts.join(', ')}`,
        '0.75',
        shares.median >= 0.75,
      )
    }
  })

  it('prefill', async () => {
    for (const math of ['f32', 'bf16']) {
      if (math === 'bf16' && probe().instructionSet !== 'avx512bf16') continue
      const words = ['--expert-ram', '100%', '-n', '8', '--prompt-tokens', '512', '--math', math]
      const rates = []
      for (let at = 0; at < 3; at += 1)
        rates.push((await benchOf(model.folder, words)).warm.prefill_tok_s)
      remark(`prefill of 512 tokens in memory, --math ${math}, tokens/s`, spread(rates, 0).text)
    }
  })
})
