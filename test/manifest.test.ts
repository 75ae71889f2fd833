/**
 * Manifests and journals as files of the cache: what was kept comes back, what is about another state
 * of a file is not used, and what a stranger has put there is refused with one sentence.
 */
import fs from 'node:fs'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { describe, expect, it } from 'vitest'
import { differences } from '../src/engine/difference.js'
import { Journal } from '../src/engine/journal.js'
import {
  identityOf,
  loadManifest,
  manifestFolder,
  manifestPath,
  readManifest,
  writeManifest,
} from '../src/engine/manifest.js'
import {
  decodeManifest,
  encodeManifest,
  type FileManifest,
  type ManifestHead,
} from '../src/engine/manifestfile.js'
import { ModelError } from '../src/model/error.js'
import { inTemporaryFolder } from './hollow.js'
import { randomFrom } from './random.js'

const MIB = 2 ** 20
const SIZE = 8 * MIB

/** A header of 100 bytes, a tensor of 2.5 blocks, a hole, a tensor of one byte, one of 3 blocks. */
const extents = [0, 100, 100, 2.5 * MIB, 4 * MIB, 1, 5 * MIB, 3 * MIB]
const sums = Uint32Array.of(11, 21, 22, 23, 31, 41, 42, 43)

function headOf(changes: Partial<ManifestHead> = {}): ManifestHead {
  return {
    identity: { path: 'folder/model', sizeBytes: SIZE, mtimeNs: '1700000000123456789', inode: '7' },
    recorded: new Date('2026-11-24T11:40:00Z'),
    extents: Float64Array.from(extents),
    ...changes,
  }
}

/** Whole seconds, which can be set again exactly. */
const recordedTimes = [1_700_000_000, 1_700_000_000] as const

/** A file of holes in the folder, with the manifest that a run of `verify` would have kept. */
function recorded(
  folder: string,
  name = 'model.safetensors',
): { path: string; head: ManifestHead } {
  const path = join(folder, name)
  fs.writeFileSync(path, '')
  fs.truncateSync(path, SIZE)
  fs.utimesSync(path, ...recordedTimes)
  const head = headOf({ identity: identityOf(path) })
  writeManifest(cacheIn(folder), { head, sums })
  return { path, head }
}

function cacheIn(folder: string): string {
  return manifestFolder({ XDG_CACHE_HOME: folder })
}

function load(folder: string, ...paths: string[]) {
  const files = paths.map((path) => ({ path, sizeBytes: SIZE }))
  return loadManifest({ files }, { XDG_CACHE_HOME: folder })
}

function refusal(bytes: Buffer): string {
  try {
    decodeManifest(bytes, 'manifest M')
  } catch (error) {
    if (error instanceof ModelError) return error.message
    throw error
  }
  throw new Error('expected a ModelError, found a manifest')
}

/** A manifest with other extents, whole as far as its own checksum goes. */
function withExtents(values: number[], count = sums.length): Buffer {
  const head = headOf({ extents: Float64Array.from(values) })
  return encodeManifest({ head, sums: new Uint32Array(count) })
}

/** A manifest with another line of JSON, whole as far as its own checksum goes. */
function withLine(change: (text: string) => string): Buffer {
  const bytes = encodeManifest({ head: headOf(), sums })
  const end = bytes.indexOf(10)
  const line = Buffer.from(change(bytes.toString('utf8', 0, end)))
  const body = Buffer.concat([line, bytes.subarray(end, -4)])
  const sum = Buffer.alloc(4)
  sum.writeUInt32LE(crc32(body))
  return Buffer.concat([body, sum])
}

describe('the bytes of a manifest', () => {
  it('hold what was put in', () => {
    const manifest: FileManifest = { head: headOf(), sums }
    expect(decodeManifest(encodeManifest(manifest), 'M')).toEqual(manifest)
  })

  it('are refused when any of them is missing, added or another', () => {
    const whole = encodeManifest({ head: headOf(), sums })
    for (let length = 0; length < whole.length; length += 1) refusal(whole.subarray(0, length))
    refusal(Buffer.concat([whole, Buffer.alloc(1)]))
    for (let place = 0; place < whole.length; place += 1) {
      const changed = Buffer.from(whole)
      changed[place] = (changed[place] ?? 0) ^ 4
      refusal(changed)
    }
  })

  it.each<[what: string, bytes: Buffer, why: string]>([
    ['nothing', Buffer.alloc(0), 'expected a line of JSON'],
    ['a line without end', Buffer.alloc(2 ** 17, 'x'), 'expected a line of JSON'],
    ['another version', withLine((text) => text.replace('"version":1', '"version":2')), 'version'],
    ['other blocks', withLine((text) => text.replace('1048576', '4096')), 'block_bytes must be'],
    ['a path that is none', withLine((text) => text.replace(/"folder.model"/, '7')), 'path must'],
    ['a day that is none', withLine((text) => text.replace('2026-11-24', '2026-99-99')), 'a date'],
    ['a size below 0', withLine((text) => text.replace(/"size":\d+/, '"size":-1')), 'size must'],
    [
      'more extents than bytes',
      withLine((text) => text.replace('"extents":4', '"extents":1e15')),
      'extents must be the number of extents that follow',
    ],
    ['no object', withLine(() => '[]'), 'expected a JSON object'],
    ['fewer sums than blocks', withExtents(extents, 7), 'expected 8 checksums'],
    ['more sums than blocks', withExtents(extents, 9), 'expected 8 checksums'],
    ['an extent past the end', withExtents([0, SIZE + 1], 9), 'within 8388608 bytes'],
    ['an extent far past the end', withExtents([2 ** 53, 1], 1), 'within 8388608 bytes'],
    ['extents that overlap', withExtents([0, 100, 99, 1], 2), 'rising order'],
    ['an empty extent', withExtents([0, 0], 0), 'rising order'],
    ['half a byte', withExtents([0, 0.5], 1), 'rising order'],
    ['no number', withExtents([Number.NaN, 1], 1), 'rising order'],
  ])('are refused with %s', (_, bytes, why) => {
    const message = refusal(bytes)
    expect(message).toContain('manifest M: ')
    expect(message).toContain(why)
  })

  it('never do worse than a ModelError, whatever they are', () => {
    const whole = encodeManifest({ head: headOf(), sums })
    const random = randomFrom(20261124)
    const roll = (sides: number) => Math.floor(random() * sides)
    for (let round = 0; round < 2000; round += 1) {
      const changed = Buffer.from(whole)
      for (let changes = 0; changes < 4; changes += 1) {
        changed[roll(changed.length)] = roll(256)
      }
      const body = changed.subarray(0, -4)
      changed.writeUInt32LE(crc32(body), body.length)
      try {
        decodeManifest(changed, 'M')
      } catch (error) {
        expect(error).toBeInstanceOf(ModelError)
      }
    }
  })
})

describe('a manifest in the cache', () => {
  it('stands as long as its file is the same', () => {
    inTemporaryFolder((folder) => {
      const { path, head } = recorded(folder)
      const standing = readManifest(cacheIn(folder), identityOf(path))
      expect(standing).toEqual({ kind: 'fresh', manifest: { head, sums } })
    })
  })

  it.each<[what: string, change: (path: string) => void]>([
    ['was touched', (path) => fs.utimesSync(path, 1, 1)],
    [
      'was cut short, at the same time',
      (path) => {
        fs.truncateSync(path, SIZE - 1)
        fs.utimesSync(path, ...recordedTimes)
      },
    ],
    [
      'is another one of the same size and time',
      (path) => {
        fs.copyFileSync(path, `${path}.copy`)
        fs.utimesSync(`${path}.copy`, ...recordedTimes)
        fs.renameSync(`${path}.copy`, path)
      },
    ],
  ])('is stale when its file %s', (_, change) => {
    inTemporaryFolder((folder) => {
      const { path, head } = recorded(folder)
      change(path)
      const standing = readManifest(cacheIn(folder), identityOf(path))
      expect(standing).toEqual({ kind: 'stale', recorded: head.recorded })
    })
  })

  it('leaves nothing else in the folder', () => {
    inTemporaryFolder((folder) => {
      const { path } = recorded(folder)
      const place = manifestPath(cacheIn(folder), identityOf(path).path, 'manifest')
      expect(fs.readdirSync(cacheIn(folder)).map((name) => join(cacheIn(folder), name))).toEqual([
        place,
      ])
    })
  })
})

describe('what the engine is given', () => {
  it('is nothing, and no word, where nothing was recorded', () => {
    inTemporaryFolder((folder) => {
      const path = join(folder, 'model.safetensors')
      fs.writeFileSync(path, 'x')
      expect(load(folder, path)).toEqual({ checksums: null, note: null })
    })
  })

  it('is the first block of each tensor of each file', () => {
    inTemporaryFolder((folder) => {
      const paths = ['one', 'two'].map((name) => recorded(folder, name).path)
      const { checksums, note } = load(folder, ...paths)
      expect(note).toBeNull()
      expect(checksums?.blocks).toEqual(Uint32Array.of(...sums, ...sums))
      const places: [number, number][] = [
        [100, 2.5 * MIB],
        [4 * MIB, 1],
        [5 * MIB, 3 * MIB],
      ]
      expect(places.map((place) => checksums?.firstOf(0, ...place))).toEqual([1, 4, 5])
      expect(places.map((place) => checksums?.firstOf(1, ...place))).toEqual([9, 12, 13])
      for (const offset of [99, 101, MIB + 100, 5 * MIB + 1, SIZE]) {
        expect(checksums?.firstOf(0, offset, 1)).toBe(-1)
      }
      expect(checksums?.firstOf(2, 100, 2.5 * MIB)).toBe(-1)
    })
  })

  it('is nothing of a tensor that was recorded with another length', () => {
    inTemporaryFolder((folder) => {
      const { checksums } = load(folder, recorded(folder).path)
      for (const bytes of [2.5 * MIB - 1, 2.5 * MIB + 1, 8 * MIB, 0]) {
        expect(checksums?.firstOf(0, 100, bytes)).toBe(-1)
      }
    })
  })

  it('is the part that stands, and why not the rest', () => {
    inTemporaryFolder((folder) => {
      const paths = ['one', 'two'].map((name) => recorded(folder, name).path)
      fs.utimesSync(paths[0] ?? '', 1, 1)
      const { checksums, note } = load(folder, ...paths)
      expect(checksums?.firstOf(0, 100, 2.5 * MIB)).toBe(-1)
      expect(checksums?.firstOf(1, 100, 2.5 * MIB)).toBe(1)
      expect(note).toMatch(/^checksums are not used: one has changed since it was recorded; verify/)
    })
  })

  it('is nothing of a manifest that is none, and says so', () => {
    inTemporaryFolder((folder) => {
      const { path } = recorded(folder)
      const place = manifestPath(cacheIn(folder), identityOf(path).path, 'manifest')
      fs.writeFileSync(place, '{}\n')
      const { checksums, note } = load(folder, path)
      expect(checksums).toBeNull()
      expect(note).toMatch(
        /^checksums are not used: manifest .*: version must be 1, found nothing;/,
      )
    })
  })

  it('does not read a file of any size', () => {
    inTemporaryFolder((folder) => {
      const { path } = recorded(folder)
      const place = manifestPath(cacheIn(folder), identityOf(path).path, 'manifest')
      fs.truncateSync(place, 2 ** 40)
      expect(load(folder, path).note).toContain('expected at most 268435456 bytes')
    })
  })
})

describe('a journal', () => {
  const open = (folder: string, head = headOf()) => Journal.open(folder, head)
  const place = (folder: string) => manifestPath(folder, headOf().identity.path, 'journal')

  it('keeps what was added for the next run', () => {
    inTemporaryFolder((folder) => {
      open(folder).add(1, sums.subarray(1, 4))
      open(folder, headOf({ recorded: new Date() })).add(6, sums.subarray(6, 8))
      const journal = open(folder, headOf({ recorded: new Date() }))
      expect([...journal.known]).toEqual([0, 1, 1, 1, 0, 0, 1, 1])
      expect(journal.sums).toEqual(Uint32Array.of(0, 21, 22, 23, 0, 0, 42, 43))
      expect(journal.begun).toEqual(headOf().recorded)
    })
  })

  it('cut short at any byte gives whole records only, and takes more', () => {
    inTemporaryFolder((folder) => {
      open(folder)
      const start = fs.statSync(place(folder)).size
      const first = open(folder)
      first.add(0, sums.subarray(0, 2))
      const second = fs.statSync(place(folder)).size
      first.add(2, sums.subarray(2, 5))
      const whole = fs.readFileSync(place(folder))
      for (let length = start; length < whole.length; length += 1) {
        fs.writeFileSync(place(folder), whole.subarray(0, length))
        const count = length < second ? 0 : 2
        const journal = open(folder)
        expect(journal.known.reduce((sum, known) => sum + known, 0)).toBe(count)
        journal.add(5, sums.subarray(5, 8))
        expect([...open(folder).known.subarray(5)]).toEqual([1, 1, 1])
      }
    })
  })

  it.each<[what: string, change: (bytes: Buffer, start: number) => void]>([
    ['another sum', (bytes, start) => bytes.writeUInt32LE(99, start + 8)],
    [
      'blocks past the last',
      (bytes, start) => {
        bytes.writeUInt32LE(7, start)
        bytes.writeUInt32LE(crc32(bytes.subarray(start, -4)), bytes.length - 4)
      },
    ],
    ['blocks without end', (bytes, start) => bytes.writeUInt32LE(0xffffffff, start + 4)],
    ['no blocks', (bytes, start) => bytes.fill(0, start)],
  ])('does not believe a record with %s', (_, change) => {
    inTemporaryFolder((folder) => {
      open(folder)
      const start = fs.statSync(place(folder)).size
      open(folder).add(0, sums.subarray(0, 2))
      const bytes = fs.readFileSync(place(folder))
      change(bytes, start)
      fs.writeFileSync(place(folder), bytes)
      expect([...open(folder).known]).toEqual(new Array(8).fill(0))
    })
  })

  it.each<[what: string, head: ManifestHead]>([
    ['another file', headOf({ identity: { ...headOf().identity, mtimeNs: '1' } })],
    ['other extents', headOf({ extents: Float64Array.from([0, 100, 100, SIZE - 100]) })],
  ])('about %s is begun anew', (_, head) => {
    inTemporaryFolder((folder) => {
      open(folder).add(0, sums)
      expect([...open(folder, head).known]).not.toContain(1)
    })
  })

  it('of more than a day ago is begun anew', () => {
    inTemporaryFolder((folder) => {
      open(folder).add(0, sums)
      const hours = (count: number) => Date.now() / 1000 - count * 3600
      fs.utimesSync(place(folder), hours(23), hours(23))
      expect([...open(folder).known]).toContain(1)
      fs.utimesSync(place(folder), hours(25), hours(25))
      expect([...open(folder).known]).not.toContain(1)
    })
  })

  it('that is no journal is begun anew', () => {
    inTemporaryFolder((folder) => {
      fs.writeFileSync(place(folder), 'anything')
      expect([...open(folder).known]).toEqual(new Array(8).fill(0))
    })
  })
})

describe('what differs', () => {
  const names = { file: 'model', names: ['header', 'a', 'b', 'c'] }
  const since = headOf().recorded
  const found = (changed: readonly number[], head = headOf()) => {
    const now = sums.map((sum, block) => (changed.includes(block) ? sum + 1 : sum))
    return differences({ head: headOf(), sums }, { head, sums: now }, names)
  }

  it('is told by tensor and byte, adjacent blocks as one', () => {
    expect(found([])).toEqual([])
    expect(found([0, 2, 3, 4, 5, 7])).toEqual([
      { file: 'model', tensor: 'header', byte: 0, bytes: 100, since },
      { file: 'model', tensor: 'a', byte: 100 + MIB, bytes: 1.5 * MIB, since },
      { file: 'model', tensor: 'b', byte: 4 * MIB, bytes: 1, since },
      { file: 'model', tensor: 'c', byte: 5 * MIB, bytes: MIB, since },
      { file: 'model', tensor: 'c', byte: 7 * MIB, bytes: MIB, since },
    ])
  })

  it('is the header when tensors lie elsewhere than they did', () => {
    const head = headOf({ extents: Float64Array.from([0, 100, 100, SIZE - 100]) })
    expect(found([], head)).toEqual([
      { file: 'model', tensor: 'header', byte: 0, bytes: 100, since },
    ])
  })
})
