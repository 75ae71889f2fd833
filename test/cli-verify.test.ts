// `verify`: the first run records, the next ones find what has changed on the drive. Large files here
// are holes, which take no disk and are read like anything else.
import fs from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { loadManifest } from '../src/engine/manifest.js'
import { openShards } from '../src/model/shards.js'
import {
  command,
  copyOfTiny,
  type Ended,
  ended,
  lastObject,
  onTerminal,
  started,
  withFolder,
} from './command.js'
import { writeShard } from './hollow.js'

const MIB = 2 ** 20

/** A folder with a copy of the bundled model, its caches, and `verify` on it. */
function withModel(
  use: (model: string, verify: (...words: string[]) => Promise<Ended>, folder: string) => unknown,
): Promise<void> {
  return withFolder(async (folder) => {
    const model = copyOfTiny(folder)
    for (const number of [1, 2, 3, 4])
      fs.utimesSync(shard(model, number), recordedTime, recordedTime)
    await use(model, (...words) => verifyIn(folder, model, ...words), folder)
  })
}

function verifyIn(folder: string, model: string, ...words: string[]): Promise<Ended> {
  return command(['verify', model, ...words], { environment: { XDG_CACHE_HOME: folder } })
}

/** The time of every file; a whole second, which can be set again exactly. */
const recordedTime = 1_700_000_000

/** Changes one byte behind the back of whoever looks at times. */
function flip(path: string, offset: number): void {
  const descriptor = fs.openSync(path, 'r+')
  const byte = Buffer.alloc(1)
  fs.readSync(descriptor, byte, 0, 1, offset)
  byte[0] = (byte[0] ?? 0) ^ 1
  fs.writeSync(descriptor, byte, 0, 1, offset)
  fs.closeSync(descriptor)
  fs.utimesSync(path, recordedTime, recordedTime)
}

function shard(model: string, number: number): string {
  return join(model, `model-0000${number}-of-00004.safetensors`)
}

/** The definition, a bit at a time made a byte at a time by a table. */
function crc32c(bytes: Uint8Array): number {
  let sum = ~0
  for (const byte of bytes) sum = (sum >>> 8) ^ (crcTable[(sum ^ byte) & 0xff] ?? 0)
  return ~sum >>> 0
}

const crcTable = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte
  for (let bit = 0; bit < 8; bit += 1) value = (value >>> 1) ^ (value & 1 ? 0x82f63b78 : 0)
  return value >>> 0
})

describe('verify', () => {
  it('records the CRC32C of every tensor, and says what that proves', async () => {
    await withModel(async (model, verify, folder) => {
      const end = await verify()
      expect(end.status).toBe(0)
      expect(end.stdout).toMatch(/^copy: 4 files, 19\.1 MB of 19\.1 MB read in .*; 4 recorded\n$/)
      expect(end.stderr).toContain("what proves that a download is right is the hub's sha256")
      const { files, tensors } = openShards(model)
      const { checksums, note } = loadManifest({ files }, { XDG_CACHE_HOME: folder })
      expect(note).toBeNull()
      const bytes = files.map(({ path }) => fs.readFileSync(path))
      for (const { file, offset, bytes: size, name } of tensors.values()) {
        expect(size, name).toBeLessThanOrEqual(MIB)
        const first = checksums?.firstOf(file, offset, size) ?? -1
        const sum = crc32c(bytes[file]?.subarray(offset, offset + size) ?? new Uint8Array())
        expect(checksums?.blocks[first], name).toBe(sum)
      }
    })
  })

  it('finds nothing where nothing has changed', async () => {
    await withModel(async (_, verify) => {
      await verify()
      const end = await verify('-q')
      expect(end).toMatchObject({ status: 0, stderr: '' })
      expect(end.stdout).toMatch(/; 4 compared with 20\d\d-.* UTC: nothing differs\n$/)
    })
  })

  it('finds a flipped byte, by tensor and place', async () => {
    await withModel(async (model, verify) => {
      await verify()
      const name = 'model.layers.2.mlp.experts.30.down_proj.weight'
      const { offset = 0, bytes = 0 } = openShards(model).tensors.get(name) ?? {}
      flip(shard(model, 2), offset + bytes - 1)
      const end = await verify()
      expect(end.status).toBe(1)
      const line = `^model-00002-of-00004\\.safetensors: ${name} differs at byte ${offset} .* since 20`
      expect(end.stdout).toMatch(new RegExp(line))
      expect(end.stdout).toMatch(/: 1 tensor not as recorded\n$/)
    })
  })

  it('gives one object for programs', async () => {
    await withModel(async (model, verify) => {
      const first = lastObject(await verify('--json'))
      const size = fs.statSync(shard(model, 1)).size
      expect(first).toMatchObject({
        model: 'copy',
        files: 4,
        recorded: 4,
        compared: 0,
        since: null,
      })
      expect(first).toMatchObject({ bytes: 19058824, bytes_read: 19058824, differing: [] })
      flip(shard(model, 1), size - 1)
      const end = await verify('--json')
      expect([end.status, end.stdout.split('\n').length]).toEqual([1, 2])
      expect(lastObject(end)).toMatchObject({
        complete: true,
        seconds: expect.any(Number),
        recorded: 0,
        compared: 4,
        since: expect.stringMatching(/^20\d\d-\d\d-\d\dT/),
        differing: [
          {
            file: 'model-00001-of-00004.safetensors',
            tensor: expect.any(String),
            byte: expect.any(Number),
            bytes: expect.any(Number),
            since: expect.stringMatching(/^20/),
          },
        ],
      })
    })
  })

  it('finds a change in a header', async () => {
    await withModel(async (model, verify) => {
      await verify()
      // The format's name in the metadata, which no reader looks at.
      flip(shard(model, 3), 8 + '{"__metadata__":{"format":"'.length)
      const end = await verify()
      expect(end.status).toBe(1)
      expect(end.stdout).toMatch(/^model-00003-of-00004\.safetensors: header differs at byte 0 /)
    })
  })

  it('records anew what --record is given, and only then', async () => {
    await withModel(async (model, verify) => {
      await verify()
      flip(shard(model, 4), fs.statSync(shard(model, 4)).size - 1)
      expect([(await verify()).status, (await verify()).status]).toEqual([1, 1])
      expect((await verify('--record')).stdout).toMatch(/; 4 recorded\n$/)
      expect((await verify()).status).toBe(0)
    })
  })

  it('takes a file of another time for another file, and says so', async () => {
    await withModel(async (model, verify) => {
      await verify()
      fs.utimesSync(shard(model, 2), 1, 1)
      const end = await verify()
      expect(end.status).toBe(0)
      expect(end.stderr).toMatch(/model-00002-of-00004\.safetensors has changed since 20.*anew$/m)
      expect(end.stdout).toMatch(/; 1 recorded; 3 compared with .*: nothing differs\n$/)
    })
  })

  it('keeps its manifests in ~/.cache where nothing else is said', async () => {
    await withModel(async (model, _, folder) => {
      await command(['verify', model], { environment: { HOME: folder } })
      const kept = fs.readdirSync(join(folder, '.cache/ring-offload/manifests'))
      expect(kept.length).toBe(4)
    })
  })

  it('shows its progress on a terminal', async (context) => {
    const child = onTerminal(['verify'])
    if (child === null) return context.skip('script is not installed')
    const { stdout } = await ended(child)
    const lines = stdout.split('\r\u001b[K')
    expect(lines[1]).toMatch(/^ring-offload: ring-tiny: [\d.]+ [kM]B of 19\.1 MB \(\d+ %\), .*B\/s/)
  })

  it('says in its help what it does not prove', async () => {
    expect((await command(['verify', '--help'])).stdout).toContain("the hub's sha256")
  })
})

describe('verify refuses with one line', () => {
  const expectRefusal = (end: Ended, line: RegExp) => {
    expect(end).toMatchObject({ status: 1, stdout: '' })
    expect(end.stderr.trimEnd().split('\n').at(-1)).toMatch(line)
    expect(end.stderr).not.toContain('internal error')
  }

  it('a shard that was cut short', async () => {
    await withModel(async (model, verify) => {
      fs.truncateSync(shard(model, 2), 100_000)
      expectRefusal(await verify(), /^ring-offload: model-00002-of-00004\.safetensors: .*expected/)
    })
  })

  it('a manifest that is none, and --record replaces it', async () => {
    await withModel(async (_, verify, folder) => {
      await verify()
      const kept = join(folder, 'ring-offload/manifests')
      for (const name of fs.readdirSync(kept)) fs.writeFileSync(join(kept, name), 'anything\n')
      expectRefusal(await verify(), /: manifest .*: expected JSON.*; verify --record replaces it$/)
      expect((await verify('--record')).status).toBe(0)
      expect((await verify()).status).toBe(0)
    })
  })

  it('a cache folder that cannot be made', async () => {
    await withModel(async (model) => {
      const environment = { XDG_CACHE_HOME: '/dev/null' }
      const end = await command(['verify', model], { environment })
      expectRefusal(end, /\/dev\/null\/ring-offload.* cannot be written: /)
    })
  })

  it('a folder without a model', async () => {
    await withFolder(async (folder) => {
      expectRefusal(await verifyIn(folder, folder), /model\.safetensors: expected it or/)
    })
  })
})

describe('a verify that ends early', () => {
  /** One tensor of 1 GiB, which is 32 pieces, with marks in it. */
  const largeMib = 1024
  const withLarge = (use: (model: string, folder: string) => Promise<void>) =>
    withFolder(async (folder) => {
      const bytes = largeMib * MIB
      const entry = { dtype: 'U8', shape: [bytes], data_offsets: [0, bytes] }
      const path = join(folder, 'model.safetensors')
      writeShard(path, JSON.stringify({ large: entry }), bytes)
      const descriptor = fs.openSync(path, 'r+')
      for (let place = 3 * MIB; place < bytes; place += 250 * MIB)
        fs.writeSync(descriptor, 'mark', place)
      fs.closeSync(descriptor)
      fs.utimesSync(path, recordedTime, recordedTime)
      await use(folder, folder)
    })

  /** Ends a run by a signal once it has noted something. */
  const stopped = async (
    folder: string,
    model: string,
    signal: NodeJS.Signals,
    words: string[],
  ) => {
    const manifests = join(folder, 'ring-offload/manifests')
    fs.mkdirSync(manifests, { recursive: true })
    const child = started(['verify', model, ...words], { XDG_CACHE_HOME: folder })
    const end = ended(child)
    const watcher = fs.watch(manifests, (kind, name) => {
      // Begun by a rename, grown by a change; a second signal would be another wish.
      const hasGrown = kind === 'change' && name?.endsWith('.journal') === true
      if (hasGrown && !child.killed) child.kill(signal)
    })
    return end.finally(() => watcher.close())
  }

  it('by kill -9 is gone on with, to the manifest of a whole run', async () => {
    await withLarge(async (model, folder) => {
      const killed = await stopped(folder, model, 'SIGKILL', [])
      expect(killed).toMatchObject({ signal: 'SIGKILL', stdout: '' })
      const end = await verifyIn(folder, model, '--json')
      expect(end.stderr).toMatch(/an earlier run has read [\d.]+ [MG]B of 1\.07 GB; going on/)
      const { bytes, bytes_read: bytesRead } = lastObject(end)
      expect(bytesRead).toBeGreaterThan(0)
      expect(bytesRead).toBeLessThan(Number(bytes))
      const whole = join(folder, 'whole')
      await verifyIn(whole, model)
      const files = [{ path: join(model, 'model.safetensors'), sizeBytes: 0 }]
      const [resumed, once] = [folder, whole].map(
        (cache) => loadManifest({ files }, { XDG_CACHE_HOME: cache }).checksums?.blocks,
      )
      expect(resumed?.length).toBe(largeMib + 1)
      expect(resumed).toEqual(once)
    })
  })

  it('by Ctrl-C says how to go on, and still compares what it has not seen', async () => {
    await withLarge(async (model, folder) => {
      await verifyIn(folder, model)
      const { status, stdout, stderr } = await stopped(folder, model, 'SIGINT', ['--json'])
      expect(status).toBe(130)
      expect(stderr).toMatch(/stopped; the next verify goes on from here\n$/)
      const object = JSON.parse(stdout)
      expect(object).toMatchObject({ complete: false, compared: 0, differing: [] })
      flip(join(model, 'model.safetensors'), largeMib * MIB)
      const end = await verifyIn(folder, model, '--json')
      expect(end.status).toBe(1)
      const next = lastObject(end)
      expect(Number(next.bytes_read)).toBe(Number(object.bytes) - Number(object.bytes_read))
      expect(next).toMatchObject({ complete: true, differing: [{ tensor: 'large' }] })
    })
  })
})
