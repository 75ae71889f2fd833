// `verify` where the hub's SHA-256 of a file is known: a file that is another one is told and never
// recorded; one that was right once is from then on compared block by block.
import { createHash } from 'node:crypto'
import fs from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { hashExtent } from '../native/index.js'
import { hubSum } from '../src/engine/hubsum.js'
import { identityOf, manifestFolder, readManifest } from '../src/engine/manifest.js'
import { decodeManifest, encodeManifest } from '../src/engine/manifestfile.js'
import { WholeFile } from '../src/engine/wholefile.js'
import { openShards } from '../src/model/shards.js'
import { command, copyOfTiny, ended, lastObject, started, withFolder } from './command.js'
import { inTemporaryFolder, writeShard } from './hollow.js'
import { hubModel, wholeFiles } from './hubserver.js'
import {
  aHubForEachTest,
  environment,
  hub,
  pulled,
  folder as pullFolder,
  snapshot,
} from './pulling.js'

const MIB = 2 ** 20
const shards = [1, 2, 3, 4].map((number) => `model-0000${number}-of-00004.safetensors`)
const [shard = ''] = shards

function sumOf(path: string): string {
  return createHash('sha256').update(fs.readFileSync(path)).digest('hex')
}

function verify(folder: string, model: string, ...words: string[]) {
  return command(['verify', model, ...words], { environment: { XDG_CACHE_HOME: folder } })
}

/** The bundled model as a cache holds it: blobs that have their sums for names, and links to them. */
function cached(folder: string): string {
  const model = copyOfTiny(folder)
  fs.mkdirSync(join(folder, 'blobs'))
  for (const file of shards) {
    const blob = join(folder, 'blobs', sumOf(join(model, file)))
    fs.renameSync(join(model, file), blob)
    fs.symlinkSync(blob, join(model, file))
  }
  return model
}

/** Changes the last byte behind the back of whoever looks at times. */
function flip(path: string): void {
  const { size, mtime } = fs.statSync(path)
  const descriptor = fs.openSync(path, 'r+')
  const byte = Buffer.alloc(1)
  fs.readSync(descriptor, byte, 0, 1, size - 1)
  fs.writeSync(descriptor, Uint8Array.of((byte[0] ?? 0) ^ 1), 0, 1, size - 1)
  fs.closeSync(descriptor)
  // A whole second, which can be set again exactly.
  const seconds = Math.floor(mtime.getTime() / 1000)
  fs.utimesSync(path, seconds, seconds)
}

/** What stands about a file: the sum it was proven with, undefined where there was none; null: nothing. */
function recordedSum(folder: string, path: string) {
  const cache = manifestFolder({ XDG_CACHE_HOME: folder })
  const standing = readManifest(cache, identityOf(path))
  return standing.kind === 'fresh' ? standing.manifest.head.sha256 : null
}

describe('verify of a model from the hub', () => {
  it('proves its files while it records them, and says so', async () => {
    await withFolder(async (folder) => {
      const model = cached(folder)
      const end = await verify(folder, model)
      expect(end.status).toBe(0)
      expect(end.stdout).toMatch(/; 4 recorded; 4 with the sha256 of the hub\n$/)
      expect(end.stderr).not.toContain('It records')
      for (const file of shards) {
        const path = join(model, file)
        expect(recordedSum(folder, path)).toBe(sumOf(path))
      }
    })
  })

  it('finds a file that came wrong, does not record it, and finds it again', async () => {
    await withFolder(async (folder) => {
      const model = cached(folder)
      const expected = sumOf(join(model, shard))
      flip(join(model, shard))
      for (const recorded of [3, 0]) {
        const end = await verify(folder, model, '--json')
        expect(end.status).toBe(1)
        const sha256 = sumOf(join(model, shard))
        expect(lastObject(end)).toMatchObject({
          ...{ complete: true, recorded, proven: 3, differing: [] },
          wrong: [{ file: shard, sha256, expected }],
        })
      }
      expect(recordedSum(folder, join(model, shard))).toBeNull()
      const { stdout } = await verify(folder, model)
      expect(stdout).toMatch(
        /^model-00001.*: is not the hub's: sha256 .* remove .* pull it again\n/,
      )
      expect(stdout).toMatch(/; 3 with the sha256 of the hub; 1 file with another\n$/)
    })
  })

  it('compares by blocks what was right once', async () => {
    await withFolder(async (folder) => {
      const model = cached(folder)
      for (const file of shards) fs.utimesSync(join(model, file), 1_700_000_000, 1_700_000_000)
      await verify(folder, model)
      expect(lastObject(await verify(folder, model, '--json'))).toMatchObject({
        ...{ compared: 4, proven: 4, wrong: [], differing: [] },
      })
      flip(join(model, shard))
      const end = await verify(folder, model, '--json')
      expect(end.status).toBe(1)
      expect(lastObject(end)).toMatchObject({ proven: 3, wrong: [], differing: [{ file: shard }] })
    })
  })

  it('proves what was recorded before its sum was known', async () => {
    await withFolder(async (folder) => {
      const model = copyOfTiny(folder)
      await verify(folder, model)
      expect(recordedSum(folder, join(model, shard))).toBeUndefined()
      const sum = sumOf(join(model, shard))
      fs.writeFileSync(join(model, `${shard}.sha256`), `${sum}  ${shard}\n`)
      expect(lastObject(await verify(folder, model, '--json'))).toMatchObject({
        ...{ compared: 4, recorded: 0, proven: 1, wrong: [] },
      })
      expect(recordedSum(folder, join(model, shard))).toBe(sum)
    })
  })

  it('killed in the middle of a file, it reads that file from its beginning', async () => {
    await withFolder(async (folder) => {
      const bytes = 512 * MIB
      const path = join(folder, 'model.safetensors')
      const entry = { dtype: 'U8', shape: [bytes], data_offsets: [0, bytes] }
      writeShard(path, JSON.stringify({ large: entry }), bytes)
      fs.writeFileSync(`${path}.sha256`, sumOf(path))
      const manifests = join(folder, 'ring-offload/manifests')
      fs.mkdirSync(manifests, { recursive: true })
      const child = started(['verify', folder], { XDG_CACHE_HOME: folder })
      const watcher = fs.watch(manifests, (kind, name) => {
        if (kind === 'change' && name?.endsWith('.journal') === true) child.kill('SIGKILL')
      })
      expect((await ended(child)).signal).toBe('SIGKILL')
      watcher.close()
      const end = await verify(folder, folder, '--json')
      const { bytes: all, ...found } = lastObject(end)
      expect(found).toMatchObject({ bytes_read: all, recorded: 1, proven: 1, wrong: [] })
    })
  })
})

describe('what was pulled', () => {
  aHubForEachTest()

  it('is proven; a blob that went bad is named, and comes anew once it is removed', async () => {
    hub.files = wholeFiles
    await pulled()
    const verified = async () => {
      const end = await command(['verify', hubModel, '--json'], {
        environment: environment({ XDG_CACHE_HOME: pullFolder }),
      })
      return lastObject(end)
    }
    const blob = fs.realpathSync(join(snapshot(), shard))
    flip(blob)
    expect(await verified()).toMatchObject({ proven: 3, wrong: [{ file: shard, path: blob }] })
    fs.rmSync(blob)
    await pulled()
    expect(await verified()).toMatchObject({ proven: 4, wrong: [], recorded: 1, compared: 3 })
  })
})

describe('the sum that the hub gave', () => {
  const sum = 'ab'.repeat(32)

  it('is the name of a blob, the word beside a file, or the note of the hub in its folder', () => {
    inTemporaryFolder((folder) => {
      const write = (path: string, text: string) => {
        fs.mkdirSync(join(folder, path, '..'), { recursive: true })
        fs.writeFileSync(join(folder, path), text)
        return join(folder, path)
      }
      expect(hubSum(write(`blobs/${sum}`, 'x'))).toBe(sum)
      // Small files have shorter names, and elsewhere a name is only a name.
      expect(hubSum(write(`blobs/${sum.slice(24)}`, 'x'))).toBeNull()
      expect(hubSum(write(sum, 'x'))).toBeNull()
      const plain = write('model/deep/plain', 'x')
      expect(hubSum(plain)).toBeNull()
      const notes = 'model/.cache/huggingface/download/deep/plain.metadata'
      write(notes, `${'1'.repeat(40)}\n${sum}\n1700000000.5\n`)
      expect(hubSum(plain)).toBe(sum)
      write(notes, `${'1'.repeat(40)}\n${sum.slice(24)}\n1700000000.5\n`)
      expect(hubSum(plain)).toBeNull()
      write('model/deep/plain.sha256', `${sum.toUpperCase()} *plain\n`)
      expect(hubSum(plain)).toBe(sum)
      write('model/deep/plain.sha256', 'anything\n')
      expect(hubSum(plain)).toBeNull()
    })
  })

  it('is compared with that of all bytes, also of those between tensors and behind them', () => {
    inTemporaryFolder((folder) => {
      const path = join(folder, 'file')
      const bytes = Buffer.alloc(20 * MIB, 'some text that is not a power of two long')
      fs.writeFileSync(path, bytes)
      const whole = new WholeFile(path)
      const [sums, alone] = [new Uint32Array(2), new Uint32Array(2)]
      whole.take(10, 2 * MIB, sums)
      hashExtent(path, 10, 2 * MIB, alone)
      expect(sums).toEqual(alone)
      whole.take(18 * MIB + 1, 1, new Uint32Array(1))
      expect(whole.end(bytes.length)).toBe(createHash('sha256').update(bytes).digest('hex'))
    })
  })

  it('is kept in the manifest, and nothing else in its place', () => {
    const identity = { path: 'p', sizeBytes: 4, mtimeNs: '1', inode: '1' }
    const head = { identity, recorded: new Date(0), extents: Float64Array.of(0, 4), sha256: sum }
    const manifest = { head, sums: Uint32Array.of(7) }
    expect(decodeManifest(encodeManifest(manifest), 'M')).toEqual(manifest)
    const wrong = encodeManifest({ ...manifest, head: { ...head, sha256: 'AB' } })
    expect(() => decodeManifest(wrong, 'M')).toThrow('M: sha256 must be 64 hexadecimal digits')
  })

  it('of the bundled model is not known', () => {
    inTemporaryFolder((folder) => {
      for (const { path } of openShards(copyOfTiny(folder)).files) expect(hubSum(path)).toBeNull()
    })
  })
})
