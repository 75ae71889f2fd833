// `widen`: a larger model that computes what the smaller one does, laid out as published files are, and
// everything that it refuses. What it computes is held against the goldens of the small model.
import { spawn } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  watch,
  writeFileSync,
} from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openCheckpoint } from '../src/model/checkpoint.js'
import { inventory } from '../src/model/inventory.js'
import { widen } from '../src/model/widen.js'
import { type NewTensor, planShards } from '../src/model/writer.js'
import { differenceAt, flips, lastDifference, score, weightDifference } from './agreement.js'
import { command, copyOfTiny, type Ended, ended, program, started, withFolder } from './command.js'
import { edgeGoldens, type GoldenCase, tinyGoldens } from './goldens.js'
import { edge, ringTiny } from './paths.js'
import { written } from './written.js'

const folder = mkdtempSync(join(os.tmpdir(), 'ring-'))
const wide = join(folder, 'wide')
const shardBytes = 16 * 2 ** 20

beforeAll(async () => {
  await written(wide, widen(openCheckpoint(ringTiny), { hidden: 2, expert: 2 }), shardBytes)
})
afterAll(() => rmSync(folder, { recursive: true }))

function expectAgreement(model: string, { golden }: GoldenCase): void {
  const scored = score(model, golden, 'f32')
  for (const { margin } of flips(scored, golden)) expect(margin).toBeLessThan(1e-4)
  expect(weightDifference(scored, golden)).toBeLessThan(1e-3)
  for (let token = 0; token < golden.ids.length; token += 1) {
    expect(differenceAt(scored, golden, token)).toBeLessThan(2e-3)
  }
  expect(lastDifference(scored, golden)).toBeLessThan(2e-3)
}

describe('what a widened model computes', () => {
  for (const one of tinyGoldens.slice(0, 3)) {
    it(`${one.title}: experts, weights and log-probabilities are those of the small model`, () => {
      expectAgreement(wide, one)
    })
  }

  for (const name of ['bf16', 'channel-fp8', 'tied-bias', 'mtp-extra', 'yarn']) {
    const one = edgeGoldens.find(({ model }) => model === edge(name))
    if (one === undefined) throw new Error(`no golden of ${name}`)
    it(`edge ${name}: the same, with four copies of what is hidden`, async () => {
      const source = openCheckpoint(one.model)
      expectAgreement(
        await written(join(folder, name), widen(source, { hidden: 4, expert: 2 })),
        one,
      )
    })
  }
})

describe('how a widened model lies on disk', () => {
  it('an expert has K M times the weights, and everything is named and bound', () => {
    const small = inventory(openCheckpoint(ringTiny))
    const large = inventory(openCheckpoint(wide))
    expect(large.parameters.perExpert).toBe(4 * small.parameters.perExpert)
    // Every block of 128 x 128 has a scale of its own.
    expect(large.bytes.oneExpert).toBe(4 * small.bytes.oneExpert)
    expect(large.tensors).toEqual(small.tensors)
  })

  it('keys that nobody here reads stay in config.json', () => {
    const read = (model: string) => JSON.parse(readFileSync(join(model, 'config.json'), 'utf8'))
    expect(read(wide)).toEqual({
      ...read(ringTiny),
      hidden_size: 512,
      num_attention_heads: 8,
      intermediate_size: 1024,
      moe_intermediate_size: 256,
    })
  })

  it('files are as full as they may be, and no fuller', () => {
    const sizes = openCheckpoint(wide).files.map(({ sizeBytes }) => sizeBytes)
    expect(sizes).toHaveLength(5)
    const roomBytes = 512 * 512 + 65536
    for (const size of sizes) expect(size).toBeLessThan(shardBytes + roomBytes)
    for (const size of sizes.slice(0, -1)) expect(size).toBeGreaterThan(shardBytes - roomBytes)
  })

  it.each([
    ['FP8', () => openCheckpoint(wide)],
    ['bfloat16', () => openCheckpoint(join(folder, 'bf16'))],
  ])('in %s matrices begin at multiples of 8, and experts not at blocks', (_title, open) => {
    const offsets = open().layers.flatMap(({ experts }) =>
      experts.flatMap(({ gate, up, down }) => [gate.offset, up.offset, down.offset]),
    )
    expect(offsets.length).toBeGreaterThan(0)
    for (const offset of offsets) expect(offset % 8).toBe(0)
    for (const offset of offsets) expect(offset % 512).not.toBe(0)
  })
})

describe('phases', () => {
  /** Where each tensor of the only file begins, by its name. */
  function offsets(tensors: readonly NewTensor[]): Map<string, number> {
    const [{ header } = { header: Buffer.alloc(0) }] = planShards(tensors, 2 ** 30)
    const { __metadata__: _, ...entries } = JSON.parse(header.toString('utf8', 8))
    const places = Object.entries<{ data_offsets: number[] }>(entries)
    return new Map(places.map(([name, at]) => [name, header.length + (at.data_offsets[0] ?? 0)]))
  }

  it('are odd multiples of 8 for the largest matrix, whatever the length of the header', () => {
    for (let length = 1; length <= 32; length += 1) {
      const name = 'x'.repeat(length)
      const found = offsets([{ name, dtype: 'F8_E4M3', shape: [64, 64], pieces: null }])
      expect((found.get(name) ?? 0) % 16).toBe(8)
    }
  })

  it('are not shifted by a tensor of odd size', () => {
    const found = offsets([
      { name: 'odd', dtype: 'F32', shape: [3], pieces: null },
      { name: 'even', dtype: 'F32', shape: [4], pieces: null },
      { name: 'matrix', dtype: 'F8_E4M3', shape: [64, 64], pieces: null },
    ])
    expect(['even', 'matrix'].map((name) => (found.get(name) ?? 0) % 8)).toEqual([0, 0])
    // Before it lies all else, wide types first.
    expect([...found].sort(([, a], [, b]) => a - b).map(([name]) => name)).toEqual([
      'even',
      'matrix',
      'odd',
    ])
  })
})

describe('the command', () => {
  it('writes a model that speaks, its tokenizer included', async () => {
    const out = join(folder, 'command')
    const end = await command(['widen', ringTiny, out, '--hidden', '2', '--expert', '1'])
    expect(end).toMatchObject({ status: 0, stdout: '' })
    expect(end.stderr).toMatch(
      /^ring-offload: .*: 3\d\.\d MB, in 1 file, written in .* s, .*B\/s\n$/,
    )
    const words = ['-p', 'What is 12 + 7?', '-n', '60', '-q']
    const [small, large] = [await command(['run', ...words]), await command(['run', out, ...words])]
    expect(large.stdout).toBe(small.stdout)
    expect(large.stdout).toContain('19')
  })

  it.each<[string, string, string[], number, RegExp]>([
    ['no power of two', ringTiny, ['3', '1'], 2, /--hidden.*'3'.*power of two from 1 to 1024/],
    ['none of it', ringTiny, ['1', '0'], 2, /--expert.*'0'.*power of two/],
    ['a share for a size', ringTiny, ['2', '2', '--shard-size', '5%'], 2, /--shard-size.*2GiB/],
    ['no model', os.tmpdir(), ['2', '2'], 1, /config\.json: file not found/],
    [
      'blocks that would mix scales',
      edge('dense2-hd'),
      ['2', '2'],
      1,
      /attention.*two scales.*128/,
    ],
    ['a model beyond all bounds', ringTiny, ['1024', '1024'], 1, /needs .* TB, 5 % .* are free/],
  ])(
    'refuses %s, and leaves nothing',
    async (_title, source, [k = '', m = '', ...more], status, said) => {
      const out = join(folder, 'refused')
      const words = ['widen', source, out, '--hidden', k, '--expert', m, ...more]
      const end = await command(words)
      expectRefusal(end, status, said)
      expect(existsSync(out)).toBe(false)
    },
  )

  it('refuses crumbs of files', () => {
    const one = { dtype: 'F32', shape: [2], pieces: null } as const
    const tensors = Array.from({ length: 16385 }, (_, index) => ({ ...one, name: `${index}` }))
    expect(() => planShards(tensors, 8)).toThrow(/16385 files.*at most 16384; larger shards/)
    expect(planShards(tensors, 16)).toHaveLength(8193)
  })

  it('refuses a folder that holds anything, and leaves it there', async () => {
    await withFolder(async (out) => {
      writeFileSync(join(out, 'mine.txt'), 'mine')
      const end = await command(['widen', ringTiny, out, '--hidden', '2', '--expert', '2'])
      expectRefusal(end, 1, /is not empty/)
      expect(readdirSync(out)).toEqual(['mine.txt'])
    })
  })

  it('refuses a folder inside nothing', async () => {
    const out = join(folder, 'no/where')
    const end = await command(['widen', ringTiny, out, '--hidden', '2', '--expert', '2'])
    expectRefusal(end, 1, /no\/where: cannot be created: no such file or directory/)
  })

  it('what cannot be halved exactly is told by name, and nothing is left', async () => {
    await withFolder(async (temporary) => {
      const model = copyOfTiny(temporary)
      const { file, offset } = openCheckpoint(model).head
      const path = openCheckpoint(model).files[file]?.path ?? ''
      const bytes = readFileSync(path)
      // The smallest normal BF16 number.
      bytes.writeUInt16LE(0x0080, offset + 6)
      writeFileSync(path, bytes)
      const out = join(temporary, 'out')
      mkdirSync(out)
      const end = await command(['widen', model, out, '--hidden', '2', '--expert', '1'])
      expectRefusal(end, 1, /lm_head\.weight: holds a value too small to be divided by 2/)
      expect(readdirSync(out)).toEqual([])
    })
  })

  it('a drive that takes no more is told, and what was written is removed', async () => {
    const out = join(folder, 'full')
    const words = [program, 'widen', ringTiny, out, '--hidden', '2', '--expert', '2']
    // A limit on the size of files stands in for a full drive: the same call fails.
    const limited = `ulimit -f 20000 && exec "$0" "$@"`
    const end = await ended(spawn('sh', ['-c', limited, process.execPath, ...words]))
    expectRefusal(end, 1, /full: cannot be written: file too large/)
    expect(existsSync(out)).toBe(false)
  })

  it('Ctrl-C ends it with 130 and removes what was written', async () => {
    await withFolder(async (temporary) => {
      const out = join(temporary, 'out')
      const begun = appearance(temporary)
      const child = started(['widen', ringTiny, out, '--hidden', '16', '--expert', '16'])
      const end = ended(child)
      await begun
      await appearance(out)
      child.kill('SIGINT')
      expect(await end).toMatchObject({ status: 130, stdout: '', stderr: '' })
      expect(readdirSync(temporary)).toEqual([])
    })
  })
})

function expectRefusal({ status, stdout, stderr }: Ended, expected: number, said: RegExp): void {
  expect(stderr).toMatch(said)
  expect(stderr).toMatch(/^ring-offload: [^\n]+\n$/)
  expect(stdout).toBe('')
  expect(status).toBe(expected)
}

/** Resolves when anything appears in the folder, or grows there. */
function appearance(place: string): Promise<void> {
  return new Promise((resolve) => {
    const watcher = watch(place, () => {
      watcher.close()
      resolve()
    })
    watcher.unref()
  })
}
