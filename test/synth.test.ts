// `synth`: a model of any shape. Random weights that a token survives and that use every expert, or files
// that are mostly holes; the same for the same seed.
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { type Checkpoint, type Matrix, openCheckpoint } from '../src/model/checkpoint.js'
import { parseConfig } from '../src/model/config.js'
import { inventory, inventoryOfConfig } from '../src/model/inventory.js'
import { type SynthWishes, synth } from '../src/model/synth.js'
import { command, withFolder } from './command.js'
import { Dice } from './dice.js'
import { driveOne } from './drive.js'
import { requestOf } from './models.js'
import { fromRoot, ringTiny } from './paths.js'
import { written } from './written.js'

const folder = mkdtempSync(join(os.tmpdir(), 'ring-'))
afterAll(() => rmSync(folder, { recursive: true }))

const gibibyte = 2 ** 30

function configJson(name: string): Record<string, unknown> {
  return JSON.parse(readFileSync(fromRoot(`test/fixtures/configs/${name}.json`), 'utf8'))
}

/** 256 experts of 24 KB, eight to a token: the routing of the real ones, and all else small. */
const small = {
  ...configJson('ring-mini'),
  num_hidden_layers: 3,
  hidden_size: 128,
  intermediate_size: 256,
  moe_intermediate_size: 64,
  moe_shared_expert_intermediate_size: 64,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 32,
  vocab_size: 1024,
  eos_token_id: 1,
  pad_token_id: 1,
}

let made = 0
async function smallModel(wishes: Partial<SynthWishes>, shardBytes?: number): Promise<Checkpoint> {
  made += 1
  const checkpoint = synth(small, { seed: 1, dtype: 'fp8', ...wishes })
  return openCheckpoint(await written(join(folder, `small-${made}`), checkpoint, shardBytes))
}

function bytesOf({ files }: Checkpoint, { file, offset, rows, columns, dtype }: Matrix): Buffer {
  const width = { F8_E4M3: 1, BF16: 2, F32: 4 }[dtype]
  const bytes = Buffer.alloc(rows * columns * width)
  const descriptor = openSync(files[file]?.path ?? '', 'r')
  readSync(descriptor, bytes, 0, bytes.length, offset)
  closeSync(descriptor)
  return bytes
}

function lastExpert({ layers }: Checkpoint, layer: number): Matrix {
  const matrix = layers[layer]?.experts.at(-1)?.up
  if (matrix === undefined) throw new Error('no expert')
  return matrix
}

/** Log-probabilities and experts of random tokens. */
function scored(model: Checkpoint, tokens: number) {
  const dice = new Dice(5)
  const prompt = Array.from({ length: tokens }, () => dice.below(1024))
  const request = requestOf(prompt, { score: true, routing: true, topLogprobs: 5 })
  const { ending } = driveOne(model.folder, { kvType: 'f32' }, request)
  if (ending.scored === undefined) throw new Error(`nothing was scored: ${ending.reason}`)
  return ending.scored
}

describe('random weights', () => {
  it('give finite numbers, and use every expert of every layer', async () => {
    const model = await smallModel({})
    const { topLogprobs, experts } = scored(model, 512)
    for (const logprob of topLogprobs) expect(Number.isFinite(logprob)).toBe(true)
    // No token is as likely as another: the numbers have not faded away.
    expect(topLogprobs[0]).toBeGreaterThan((topLogprobs[4] ?? 0) + 0.01)
    const picks = experts.length / 2
    for (const layer of [0, 1]) {
      const used = new Set(experts.subarray(layer * picks, (layer + 1) * picks))
      expect(used.size).toBe(256)
    }
  })

  it('are codes without a zero or a NaN, normal, and as often negative as not', async () => {
    const model = await smallModel({})
    const codes =
      model.layers[1]?.experts.slice(0, 32).flatMap(({ up }) => [...bytesOf(model, up)]) ?? []
    const counts = new Array<number>(256).fill(0)
    for (const code of codes) counts[code] = (counts[code] ?? 0) + 1
    expect([0x00, 0x80, 0x7f, 0xff].map((code) => counts[code])).toEqual([0, 0, 0, 0])
    const share = (test: (code: number) => boolean) => codes.filter(test).length / codes.length
    expect(share((code) => code > 127)).toBeCloseTo(0.5, 2)
    // Up to 100, one standard deviation, whose neighbours are 96 and 104: the codes up to 0x6c.
    expect(share((code) => (code & 127) <= 0x6c)).toBeCloseTo(0.6827, 2)
  })

  it('are the same for a seed, however the files are cut, and others for another', async () => {
    const whole = await smallModel({})
    const expert = (model: Checkpoint) => bytesOf(model, lastExpert(model, 1))
    const pieces = await smallModel({}, 2 ** 20)
    expect(pieces.files.length).toBeGreaterThan(10)
    expect(expert(pieces)).toEqual(expert(whole))
    expect(bytesOf(pieces, pieces.head)).toEqual(bytesOf(whole, whole.head))
    expect(expert(await smallModel({ layers: 2 }))).toEqual(expert(whole))
    expect(expert(await smallModel({ seed: 2 }))).not.toEqual(expert(whole))
    expect(bytesOf(whole, lastExpert(whole, 2))).not.toEqual(expert(whole))
  })

  it.each([
    ['fp8', 'block-fp8', 'F8_E4M3'],
    ['bf16', 'none', 'BF16'],
  ] as const)('are stored as --dtype %s says', async (dtype, quantisation, stored) => {
    const model = await smallModel({ dtype })
    expect(model.config.quantisation).toBe(quantisation)
    expect(lastExpert(model, 1)).toMatchObject({ dtype: stored })
  })

  it('are stored as the config announces where nobody says how', async () => {
    const weights = { num_bits: 8, type: 'float', strategy: 'channel' }
    const channel = { quant_method: 'compressed-tensors', config_groups: { group_0: { weights } } }
    const json = { ...small, quantization_config: channel }
    const model = openCheckpoint(await written(join(folder, 'channel'), synth(json, { seed: 1 })))
    expect(lastExpert(model, 1)).toMatchObject({
      dtype: 'F8_E4M3',
      scale: { kind: 'row', rows: 64 },
    })
    for (const logprob of scored(model, 8).topLogprobs) expect(logprob).toBeLessThan(0)
  })
})

describe('sparse files', () => {
  it('hold six layers of Ring-1T in some megabytes', async () => {
    const checkpoint = synth(configJson('ring-1t'), {
      seed: 0,
      sparse: true,
      layers: 6,
      dtype: 'fp8',
    })
    const model = openCheckpoint(await written(join(folder, '1t'), checkpoint, 5 * gibibyte))
    const figures = inventory(model)
    const expected = inventoryOfConfig(
      parseConfig(JSON.stringify(checkpoint.config), 'config.json'),
    )
    expect(figures).toMatchObject({ parameters: expected.parameters, bytes: expected.bytes })
    expect(figures.experts).toMatchObject({ count: 512, layers: 2 })
    expect(figures.bytes.oneExpert).toBe(3 * 2048 * 8192 + 3 * 16 * 64 * 4)
    expect(figures.bytes.total).toBeGreaterThan(33e9)
    const diskBytes = model.files.reduce((sum, { path }) => sum + statSync(path).blocks * 512, 0)
    expect(diskBytes).toBeLessThan(64e6)
  })

  it('may be longer than 4 GiB, with an expert on either side', () => {
    const model = openCheckpoint(join(folder, '1t'))
    const experts = model.layers.flatMap((layer) => layer.experts)
    const file = experts[100]?.up.file
    const offsets = experts
      .flatMap(({ gate, up, down }) => [gate, up, down])
      .filter((matrix) => matrix.file === file)
      .map(({ offset }) => offset)
    expect(Math.min(...offsets)).toBeLessThan(2 * gibibyte)
    expect(Math.max(...offsets)).toBeGreaterThan(4 * gibibyte)
  })

  it('read as zeros where weights would be, and have routers, norms and scales', async () => {
    const model = await smallModel({ sparse: true })
    expect(bytesOf(model, lastExpert(model, 1)).every((byte) => byte === 0)).toBe(true)
    const router = model.layers[1]?.router
    if (router == null) throw new Error('no router')
    expect(bytesOf(model, router).filter((byte) => byte === 0).length).toBeLessThan(2000)
    for (const logprob of scored(model, 8).topLogprobs) expect(logprob).toBeCloseTo(-Math.log(1024))
  })
})

describe('the command', () => {
  it('takes a bare config, and the small tokenizer where the vocabulary has room for it', async () => {
    await withFolder(async (temporary) => {
      const config = join(temporary, 'some.json')
      const out = join(temporary, 'out')
      writeFileSync(config, JSON.stringify(small))
      const words = ['synth', config, out, '--dtype', 'fp8', '--layers', '2']
      const end = await command(words)
      expect(end).toMatchObject({ status: 0, stdout: '' })
      expect(end.stderr).toMatch(
        /^ring-offload: .*out: .* MB, in 1 file, written in .* s, .*B\/s\n$/,
      )
      expect(existsSync(join(out, 'tokenizer.json'))).toBe(true)
      const run = await command(['run', out, '--raw', '-p', 'Hello', '-n', '3', '-q'])
      expect(run).toMatchObject({ status: 0, stderr: '' })
      const tight = join(temporary, 'tight.json')
      writeFileSync(tight, JSON.stringify({ ...small, vocab_size: 1023 }))
      await command(['synth', tight, join(temporary, 'none'), '--layers', '1', '-q'])
      expect(existsSync(join(temporary, 'none/config.json'))).toBe(true)
      expect(existsSync(join(temporary, 'none/tokenizer.json'))).toBe(false)
    })
  })

  it('takes a folder, and its own tokenizer', async () => {
    await withFolder(async (temporary) => {
      const out = join(temporary, 'out')
      const words = ['synth', ringTiny, out, '--sparse', '--shard-size', '10MB']
      const { status, stderr } = await command(words)
      expect(status).toBe(0)
      expect(stderr).toMatch(/18\.9 MB|19\.\d MB/)
      expect(stderr).toMatch(/on disk\), in 2 files/)
      for (const file of ['tokenizer.json', 'tokenizer_config.json', 'generation_config.json']) {
        expect(readFileSync(join(out, file))).toEqual(readFileSync(join(ringTiny, file)))
      }
    })
  })

  it.each<[string, Record<string, unknown>, string[], RegExp]>([
    ['more layers than there are', small, ['--layers', '4'], /--layers 4: this model has 3 layers/],
    ['a size that is none', { ...small, hidden_size: 0 }, [], /hidden_size must be a whole number/],
    ['another architecture', { ...small, architectures: ['Llama'] }, [], /BailingMoeV2.*"Llama"/],
  ])('refuses %s', async (_title, json, more, said) => {
    await withFolder(async (temporary) => {
      const config = join(temporary, 'config.json')
      writeFileSync(config, JSON.stringify(json))
      const out = join(temporary, 'out')
      const end = await command(['synth', config, out, ...more])
      expect(end).toMatchObject({ status: 1, stdout: '' })
      expect(end.stderr).toMatch(said)
      expect(end.stderr).toMatch(/^ring-offload: [^\n]+\n$/)
      expect(existsSync(out)).toBe(false)
    })
  })

  it('refuses what is no config, and a folder that holds anything', async () => {
    await withFolder(async (temporary) => {
      const out = join(temporary, 'out')
      const gone = await command(['synth', join(temporary, 'gone.json'), out])
      expect(gone.stderr).toMatch(/^ring-offload: gone\.json: file not found[^\n]*\n$/)
      mkdirSync(out)
      writeFileSync(join(out, 'mine.txt'), 'mine')
      const used = await command(['synth', ringTiny, out])
      expect(used.stderr).toMatch(/^ring-offload: [^\n]*out: is not empty[^\n]*\n$/)
      expect([gone.status, used.status]).toEqual([1, 1])
    })
  })
})
