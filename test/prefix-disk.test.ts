// KV on a drive: what lies there is found by tokens, whole or not at all, within its bytes; what is not
// sound is computed instead; and an engine that begins anew goes on from what another one left. The
// folder alone is driven from its sources, engines are the built program's.
import { spawn } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { Engine, type EngineWishes } from '../dist/src/engine/engine.js'
import { KvFigure } from '../dist/src/engine/stats.js'
import { kvBlockTokens } from '../src/engine/kv.js'
import { fileOf, isSound, kvHeadBytes, parseFile, rootName, runName } from '../src/engine/kvfile.js'
import { KvFolder } from '../src/engine/kvfolder.js'
import { identityOf, type KvOrigin, modelDigest } from '../src/engine/kvidentity.js'
import { command, lastObject } from './command.js'
import { tinyGoldens } from './goldens.js'
import { requestOf } from './models.js'
import { root as repository, ringTiny } from './paths.js'
import { until } from './serving.js'

let folder = ''
beforeEach(() => {
  folder = fs.mkdtempSync(join(os.tmpdir(), 'ring-kv-'))
})
afterEach(() => {
  vi.restoreAllMocks()
  fs.rmSync(folder, { recursive: true, force: true })
})

const start = rootName('a model')
const tokenBytes = 8
const fileBytes = kvHeadBytes + kvBlockTokens * tokenBytes

/** Tokens that differ by `kind`. */
function textOf(kind: number, count: number): Int32Array {
  return Int32Array.from({ length: count }, (_, at) => kind * 1000 + at)
}

function contentOf(tokens: Int32Array): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(kvHeadBytes + tokens.length * tokenBytes)
  for (let at = kvHeadBytes; at < bytes.length; at += 1)
    bytes[at] = (at * 7 + (tokens[0] ?? 0)) % 251
  return bytes
}

function open(bytesMost = 2 ** 30, lines: string[] = []): KvFolder {
  return new KvFolder({ folder, bytesMost, lookMs: 0, log: (line) => lines.push(line) })
}

/** Writes a text block by block; returns the names. */
function keep(kept: KvFolder, tokens: Int32Array): string[] {
  const names: string[] = []
  let parent = start
  for (let at = 0; at < tokens.length; at += kvBlockTokens) {
    const run = tokens.slice(at, at + kvBlockTokens)
    kept.write(parent, run, contentOf(run))
    parent = runName(parent, run)
    names.push(parent)
  }
  return names
}

const agreed = (kept: KvFolder, tokens: Int32Array) =>
  kept.find(start, tokens).reduce((sum, run) => sum + run.agreed, 0)

describe('a folder of KV', () => {
  it('gives back what was put in, to whoever opens it, and by the tokens that agree', () => {
    const text = textOf(1, 100)
    const names = keep(open(), text)
    const kept = open()
    expect(kept.find(start, text).map(({ own }) => own)).toEqual(names)
    for (const [nth, own] of names.entries()) {
      const run = text.slice(nth * kvBlockTokens, (nth + 1) * kvBlockTokens)
      expect(kept.read(own)?.subarray(kvHeadBytes)).toEqual(contentOf(run).subarray(kvHeadBytes))
    }
    for (const cut of [1, 31, 32, 33, 64, 95, 97, 99]) {
      expect(agreed(kept, Int32Array.of(...text.subarray(0, cut), -5, -6))).toBe(cut)
    }
    expect(agreed(kept, textOf(2, 100))).toBe(0)
  })

  it('has nothing in common for two origins that differ in anything', () => {
    const origin: KvOrigin = {
      model: 'm',
      rope: null,
      kvType: 'bf16',
      blockTokens: 32,
      computes: 'cpu avx2 f32 kernels 1',
    }
    const others: KvOrigin[] = [
      { ...origin, model: 'n' },
      { ...origin, rope: { factor: 2 } },
      { ...origin, kvType: 'f32' },
      { ...origin, blockTokens: 16 },
      { ...origin, computes: 'cpu avx2 f32 kernels 2' },
    ]
    const names = [origin, ...others].map((one) => rootName(identityOf(one)))
    expect(new Set(names).size).toBe(names.length)
    const run = textOf(1, 32)
    expect(new Set(names.map((name) => runName(name, run))).size).toBe(names.length)
    expect(runName(start, run)).not.toBe(runName(start, textOf(1, 31)))
  })

  it('knows a model by its bytes and its time, not by its place', () => {
    const path = join(folder, 'model.safetensors')
    const digest = () => modelDigest({ folder, files: [{ path, sizeBytes: 9000 }] } as never)
    fs.writeFileSync(join(folder, 'config.json'), '{}')
    fs.writeFileSync(path, Buffer.alloc(9000))
    fs.utimesSync(path, 1000, 1000)
    const first = digest()
    const bytes = Buffer.alloc(9000)
    bytes[5000] = 1
    fs.writeFileSync(path, bytes)
    fs.utimesSync(path, 1000, 1000)
    expect(digest()).not.toBe(first)
    fs.writeFileSync(path, Buffer.alloc(9000))
    fs.utimesSync(path, 1000, 1000)
    expect(digest()).toBe(first)
    fs.utimesSync(path, 1000, 1001)
    expect(digest()).not.toBe(first)
  })

  it.each<[string, (path: string, bytes: Buffer) => void]>([
    ['empty', (path) => fs.truncateSync(path, 0)],
    ['cut within its head', (path) => fs.truncateSync(path, 50)],
    ['cut by a byte', (path, bytes) => fs.truncateSync(path, bytes.length - 1)],
    ['longer', (path) => fs.appendFileSync(path, 'x')],
    ['of another version', (path, bytes) => flipped(path, bytes, 4)],
    ['of other tokens', (path, bytes) => flipped(path, bytes, 70)],
    ['of another length', (path, bytes) => flipped(path, bytes, 48)],
    ['with a wrong byte at its end', (path, bytes) => flipped(path, bytes, bytes.length - 1)],
    ['another text’s', (path) => fs.writeFileSync(path, contentOf(textOf(3, 32)))],
  ])('takes no file that is %s, says so once, and can keep the block again', (_what, spoil) => {
    const text = textOf(1, 96)
    const names = keep(open(), text)
    for (const file of fs.readdirSync(folder)) {
      const { own } = parseFile(file) ?? {}
      const path = join(folder, file)
      if (own !== names[0]) spoil(path, fs.readFileSync(path))
    }
    const lines: string[] = []
    const kept = open(2 ** 30, lines)
    const [first, second, third] = names
    expect(kept.read(first ?? '')).not.toBeNull()
    expect(kept.read(second ?? '')).toBeNull()
    expect(kept.read(third ?? '')).toBeNull()
    expect(kept.figures.damaged).toBe(2)
    expect(lines).toHaveLength(1)
    expect(lines[0]).toMatch(/is damaged; it is removed/)
    keep(kept, text)
    expect(names.every((own) => kept.read(own) !== null)).toBe(true)
  })

  it('keeps the end of a text only until it goes on', () => {
    const kept = open()
    const text = textOf(1, 90)
    keep(kept, text.slice(0, 40))
    keep(kept, text.slice(0, 50))
    expect(fs.readdirSync(folder)).toHaveLength(2)
    keep(kept, text)
    expect(fs.readdirSync(folder)).toHaveLength(3)
    expect(agreed(kept, text)).toBe(90)
    expect(fs.statSync(join(folder, fs.readdirSync(folder)[0] ?? '')).mode & 0o777).toBe(0o600)
  })

  it('leaves what is not its own alone, and says so once', () => {
    fs.writeFileSync(join(folder, 'letter.txt'), 'dear')
    fs.writeFileSync(join(folder, `${'a'.repeat(32)}-${'b'.repeat(32)}-99.kv`), 'no such count')
    const lines: string[] = []
    const kept = open(10 * fileBytes, lines)
    for (let kind = 1; kind < 30; kind += 1) keep(kept, textOf(kind, 32))
    expect(lines).toEqual(['--kv-dir: 2 files in it are not KV and are left alone'])
    expect(fs.readFileSync(join(folder, 'letter.txt'), 'utf8')).toBe('dear')
  })

  it('keeps within its bytes, and what was used last', () => {
    const most = 20 * fileBytes
    const kept = open(most)
    const long = textOf(1, 5 * kvBlockTokens)
    const names = keep(kept, long)
    for (let kind = 2; kind < 80; kind += 1) {
      keep(kept, textOf(kind, 2 * kvBlockTokens))
      vi.spyOn(Date, 'now').mockReturnValue(Date.now() + 10)
      // The end is used, and with it all that it stands on.
      expect(kept.read(names.at(-1) ?? '')).not.toBeNull()
      const bytes = fs
        .readdirSync(folder)
        .reduce((sum, file) => sum + fs.statSync(join(folder, file)).size, 0)
      expect(bytes).toBeLessThanOrEqual(most)
      expect(kept.figures.bytes).toBe(bytes)
    }
    expect(agreed(kept, long)).toBe(long.length)
    expect(agreed(kept, textOf(2, 64))).toBe(0)
    expect(agreed(kept, textOf(79, 64))).toBe(64)
  })

  it('shares with another process: both find what either wrote, and miss what either removed', () => {
    const [one, other] = [open(), open()]
    const [mine] = keep(one, textOf(1, 32))
    keep(other, textOf(2, 32))
    expect(agreed(one, textOf(2, 32))).toBe(32)
    expect(agreed(other, textOf(1, 32))).toBe(32)
    for (const file of fs.readdirSync(folder)) fs.rmSync(join(folder, file))
    expect(one.read(mine ?? '')).toBeNull()
    expect(agreed(other, textOf(1, 32))).toBe(0)
    expect([one.figures.damaged, other.figures.damaged]).toEqual([0, 0])
  })

  it('stops writing on a full drive with one line, leaves nothing half there, and reads on', () => {
    const lines: string[] = []
    const kept = open(2 ** 30, lines)
    const [first] = keep(kept, textOf(1, 32))
    const write = fs.writeFileSync
    vi.spyOn(fs, 'writeFileSync').mockImplementation((path, bytes) => {
      write(path, (bytes as Uint8Array).subarray(0, 100))
      throw Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' })
    })
    keep(kept, textOf(2, 96))
    vi.restoreAllMocks()
    keep(kept, textOf(3, 96))
    expect(lines).toHaveLength(1)
    expect(lines[0]).toMatch(/no more KV is written, what is there is still read: ENOSPC/)
    expect(fs.readdirSync(folder)).toHaveLength(1)
    expect(kept.isWriting).toBe(false)
    expect(kept.read(first ?? '')).not.toBeNull()
  })

  it('holds only whole files after kills in the midst of writing', async () => {
    const script = `
      import { writeSync } from 'node:fs'
      import { KvFolder } from ${JSON.stringify(join(repository, 'dist/src/engine/kvfolder.js'))}
      const [, folder, first] = process.argv
      const kept = new KvFolder({ folder, bytesMost: 2 ** 30, lookMs: 1000, log() {} })
      for (let kind = Number(first); ; kind += 1) {
        kept.write(${JSON.stringify(start)}, Int32Array.of(kind), new Uint8Array(4_000_000))
        writeSync(1, '.')
      }`
    let halves = 0
    let whole = 0
    for (let kill = 0; halves < 3 && kill < 60; kill += 1) {
      const words = ['--input-type=module', '-e', script, folder, String(kill * 10_000)]
      const child = spawn(process.execPath, words, { stdio: ['ignore', 'pipe', 'inherit'] })
      const exited = new Promise((resolve) => child.once('exit', resolve))
      await new Promise((resolve) => child.stdout.once('data', resolve))
      // The moment a file is begun.
      const begin = performance.now()
      while (performance.now() - begin < 2000) {
        if (fs.readdirSync(folder).some((file) => file.endsWith('.partial'))) break
      }
      child.kill('SIGKILL')
      await exited
      for (const file of fs.readdirSync(folder)) {
        const name = parseFile(file)
        if (name === null) halves += 1
        else if (isSound(fs.readFileSync(join(folder, fileOf(name))), name)) whole += 1
        else throw new Error(`${file} is damaged`)
        fs.rmSync(join(folder, file))
      }
    }
    expect(halves).toBeGreaterThanOrEqual(3)
    expect(whole).toBeGreaterThanOrEqual(3)
  }, 60_000)

  it('removes what a killed process has left half written, when it is old', () => {
    for (const [name, hours] of [
      ['old.partial', 2],
      ['new.partial', 0],
    ] as const) {
      fs.writeFileSync(join(folder, name), 'half')
      const seconds = Date.now() / 1000 - hours * 3600
      fs.utimesSync(join(folder, name), seconds, seconds)
    }
    const lines: string[] = []
    expect(open(2 ** 30, lines).figures.files).toBe(0)
    expect(fs.readdirSync(folder)).toEqual(['new.partial'])
    expect(lines).toEqual([])
  })
})

function flipped(path: string, bytes: Buffer, at: number): void {
  bytes[at] = (bytes[at] ?? 0) ^ 1
  fs.writeFileSync(path, bytes)
}

const prose = tinyGoldens.find((one) => one.golden.name === 'raw-prose-long')?.golden.ids ?? []
const text = Array.from({ length: 150 }, (_, at) => prose[at % prose.length] ?? 0)

interface Answer {
  readonly bits: string
  readonly cached: number
}

async function ask(engine: Engine, prompt: readonly number[]): Promise<Answer> {
  const generation = engine.generate(requestOf(prompt, { maxTokens: 5, topLogprobs: 4 }))
  const emissions: unknown[] = []
  for await (const emission of generation) emissions.push(emission)
  return { bits: JSON.stringify(emissions), cached: (await generation.ending).stats.cachedTokens }
}

const wishes: EngineWishes = { kvType: 'f32', contextTokens: 512, sequences: 2, prefetch: 'off' }

/** An engine of its own, closed in the end. */
async function engaged<Result>(
  more: EngineWishes,
  use: (engine: Engine, lines: string[]) => Promise<Result>,
): Promise<Result> {
  const lines: string[] = []
  const engine = await Engine.open(ringTiny, { ...wishes, ...more }, (line) => lines.push(line))
  try {
    return await use(engine, lines)
  } finally {
    await engine.close()
  }
}

const figure = (engine: Engine, of: number) => engine.facts.counters.kv[of]

describe('an engine that keeps KV on a drive', () => {
  it.each(['f32', 'bf16'] as const)(
    'goes on after a restart from what another one left, with the same bits, KV as %s',
    async (kvType) => {
      const longer = [...text, 7, 9]
      const expected = await engaged({ kvType }, (engine) => ask(engine, longer))
      await engaged({ kvType, kvDir: folder }, (engine) => ask(engine, text))
      await engaged({ kvType, kvDir: folder }, async (engine) => {
        const { bits, cached } = await ask(engine, longer)
        expect(figure(engine, KvFigure.diskBlocks)).toBe(5)
        expect(cached).toBe(text.length)
        expect(bits).toBe(expected.bits)
        expect(figure(engine, KvFigure.bytesRead)).toBeGreaterThan(0)
        // From memory now.
        const read = figure(engine, KvFigure.bytesRead)
        expect((await ask(engine, longer)).cached).toBe(longer.length - 1)
        expect(figure(engine, KvFigure.bytesRead)).toBe(read)
      })
      const other = kvType === 'f32' ? 'bf16' : 'f32'
      await engaged({ kvType: other, kvDir: folder }, async (engine) => {
        expect((await ask(engine, longer)).cached).toBe(0)
      })
    },
  )

  it('computes what is damaged there, with the same bits, and says so once', async () => {
    const { bits } = await engaged({ kvDir: folder }, (engine) => ask(engine, text))
    for (const file of fs.readdirSync(folder)) {
      const path = join(folder, file)
      const bytes = fs.readFileSync(path)
      if (fs.statSync(path).size > 0) flipped(path, bytes, bytes.length - 9)
    }
    await engaged({ kvDir: folder }, async (engine, lines) => {
      expect(await ask(engine, text)).toEqual({ bits, cached: 0 })
      expect(lines.filter((line) => /damaged/.test(line))).toHaveLength(1)
      expect(figure(engine, KvFigure.damaged)).toBeGreaterThan(0)
    })
    // What was computed has taken its place.
    await engaged({ kvDir: folder }, async (engine) => {
      expect(await ask(engine, text)).toEqual({ bits, cached: text.length - 1 })
    })
  })

  it('loses no block to requests that are cancelled while their beginning is read', async () => {
    await engaged({ kvDir: folder }, (engine) => ask(engine, text))
    await engaged({ kvDir: folder }, async (engine) => {
      for (let round = 0; round < 12; round += 1) {
        const generation = engine.generate(requestOf(text, { maxTokens: 300 }))
        if (round % 2 === 1) await new Promise((resolve) => setImmediate(resolve))
        generation.cancel()
        expect((await generation.ending).reason).toBe('cancelled')
      }
      expect((await ask(engine, text)).cached).toBe(text.length - 1)
      expect(figure(engine, KvFigure.used)).toBe(0)
      expect(figure(engine, KvFigure.blocks)).toBe(32)
    })
  })

  it('serves on while its folder is taken away', async () => {
    const expected = await engaged({}, (engine) => ask(engine, text))
    await engaged({ kvDir: join(folder, 'kv') }, async (engine, lines) => {
      fs.rmSync(join(folder, 'kv'), { recursive: true })
      expect(await ask(engine, text)).toEqual(expected)
      expect((await ask(engine, text)).bits).toBe(expected.bits)
      await until(async () => lines.length > 0)
      expect(lines[0]).toMatch(/^--kv-dir: no more KV is written/)
      expect(figure(engine, KvFigure.diskBlocks)).toBe(0)
    })
  })

  it('is not opened over a folder that cannot be made', async () => {
    fs.writeFileSync(join(folder, 'file'), '')
    await expect(Engine.open(ringTiny, { ...wishes, kvDir: join(folder, 'file') })).rejects.toThrow(
      /^--kv-dir .*file: cannot be used/,
    )
  })
})

describe('the flags', () => {
  it('make a second run begin where the first one was, within their bytes', async () => {
    const words = ['run', '-p', 'What is 17 + 68?', '-n', '4', '--kv-dir', folder, '--json']
    const first = await command(words)
    expect(lastObject(first)).toMatchObject({ cached_tokens: 0 })
    const second = lastObject(await command(words))
    expect(second).toMatchObject({ cached_tokens: Number(second.prompt_tokens) - 1 })
    expect(second.tokens).toEqual(lastObject(first).tokens)
    const small = await command([...words, '--kv-disk', '1MB', '--kv-disk-rate', '1GB'])
    expect(small.stderr).not.toMatch(/--kv-disk/)
    const lost = await command(['run', '-p', 'x', '-n', '1', '--kv-disk', '1MB'])
    expect(lost.stderr).toMatch(/--kv-disk has no effect without --kv-dir/)
  })
})
