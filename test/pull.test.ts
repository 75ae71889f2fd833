// `pull` against a hub on this machine that fails in every way that is known of hubs: whatever happens, a
// file is either right and whole under its name, or not there.
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { downloadFileToCacheDir, scanCacheDir } from '@huggingface/hub'
import { beforeEach, describe, expect, it } from 'vitest'
import type { PullWishes } from '../src/hub/pull.js'
import { openCheckpoint } from '../src/model/checkpoint.js'
import { locateModel } from '../src/model/locate.js'
import { Dice } from './dice.js'
import { gitNameOf, hubModel, oldModel, sha256Of, wholeFiles } from './hubserver.js'
import {
  aHubForEachTest,
  blobs,
  cache,
  environment,
  expectWhole,
  first,
  folder,
  hub,
  modelFolder,
  pulled,
  shard,
  shards,
  snapshot,
} from './pulling.js'

aHubForEachTest()

describe('what a pull leaves', () => {
  it('is the layout of the public tools: blobs by checksum, relative links, a ref', async () => {
    await pulled()
    expectWhole()
    const names = hub.files.map(({ bytes, isLarge }) => (isLarge ? sha256Of : gitNameOf)(bytes))
    expect(blobs().sort()).toEqual([...new Set(names)].sort())
    const large = hub.files.find(({ path }) => path === shard)
    expect(readlinkSync(join(snapshot(), shard))).toBe(
      `../../blobs/${sha256Of(large?.bytes ?? Buffer.alloc(0))}`,
    )
    expect(readdirSync(join(cache, '.locks'), { recursive: true })).toEqual([
      'models--some-org--ring-tiny',
    ])
  })

  it('is read by the public library, which finds nothing amiss and fetches nothing', async () => {
    await pulled()
    const { repos, warnings } = await scanCacheDir(cache)
    expect(warnings).toEqual([])
    expect(repos.map(({ id }) => id)).toEqual([{ name: hubModel, type: 'model' }])
    const [revision] = repos[0]?.revisions ?? []
    expect([revision?.commitOid, revision?.refs]).toEqual([hub.commit, ['main']])
    expect(repos[0]?.filesCount).toBe(blobs().length)
    hub.requests.length = 0
    const wishes = { repo: hubModel, path: shard, revision: hub.commit, cacheDir: cache }
    const found = await downloadFileToCacheDir({ ...wishes, hubUrl: hub.endpoint })
    expect(found).toBe(join(snapshot(), shard))
    expect(hub.requests).toEqual([])
  })

  it('goes by the old name of a model that was renamed, too', async () => {
    const { plan } = await pulled({ model: oldModel })
    expect(plan.folder).toContain('models--old-org--ring-tiny')
    for (const { path, bytes } of hub.files) {
      expect(readFileSync(join(plan.folder, path)).equals(bytes), path).toBe(true)
    }
  })

  it('opens as a model', async () => {
    hub.files = wholeFiles
    await pulled()
    expect(openCheckpoint(locateModel(hubModel, environment())).layers).toHaveLength(6)
  })

  it('is not fetched a second time', async () => {
    await pulled()
    hub.requests.length = 0
    const { readBytes, plan } = await pulled()
    expect([readBytes, plan.hasBytes]).toEqual([0, plan.bytes])
    expect(hub.requests.filter(({ file, method }) => file !== null && method === 'GET')).toEqual([])
  })

  it('has files in folders, and empty ones', async () => {
    const more = { path: 'a/b/c.json', bytes: Buffer.from('{}'), isLarge: false }
    hub.files = [...hub.files, more, { path: 'empty', bytes: Buffer.alloc(0), isLarge: false }]
    await pulled()
    expectWhole()
  })

  it('of a new commit shares the blobs that stayed, and the old snapshot stays', async () => {
    await pulled()
    const old = snapshot()
    hub.files = hub.files.map((file) =>
      file.path === shard ? { ...file, bytes: Buffer.from(file.bytes).fill(7, 5000, 5100) } : file,
    )
    hub.requests.length = 0
    const { readBytes } = await pulled()
    expectWhole()
    expect(readBytes).toBe(hub.files.find(({ path }) => path === shard)?.bytes.length)
    expect(existsSync(join(old, shard))).toBe(true)
  })
})

describe('which files', () => {
  beforeEach(() => {
    const bytes = Buffer.from('other')
    const others = ['a.gguf', 'onnx/b.onnx', 'pytorch_model.bin'].map((path) => ({
      path,
      bytes: Buffer.concat([bytes, Buffer.from(path)]),
      isLarge: true,
    }))
    hub.files = [...hub.files, ...others]
  })

  const paths = async (wishes: Partial<PullWishes>) => {
    const { plan } = await pulled({ isDry: true, ...wishes })
    return plan.places.map(({ file }) => file.path)
  }

  it('not the same weights in other formats, and it says which', async () => {
    const { plan } = await pulled({ isDry: true })
    expect(plan.otherFormats.map(({ path }) => path)).toEqual([
      'a.gguf',
      'onnx/b.onnx',
      'pytorch_model.bin',
    ])
    expect(plan.places).toHaveLength(hub.files.length - 3)
  })

  it('those that globs name, in any folder, but not the excluded', async () => {
    expect(await paths({ include: ['*.gguf', '*.onnx'] })).toEqual(['a.gguf', 'onnx/b.onnx'])
    expect(await paths({ include: ['onnx/*'] })).toEqual(['onnx/b.onnx'])
    expect(await paths({ include: ['*.json'], exclude: ['token*'] })).toEqual([
      'config.json',
      'generation_config.json',
      'model.safetensors.index.json',
    ])
  })

  it('and a dry run fetches none', async () => {
    await pulled({ isDry: true })
    expect(existsSync(cache)).toBe(false)
  })
})

describe('what breaks on the way', () => {
  it('cuts at random bytes: every file goes on where it was', async () => {
    const dice = new Dice(11)
    const cuts = new Map<string, number>()
    hub.fault = ({ file, method, host }) => {
      if (file === null || method !== 'GET' || host !== 'storage') return null
      const count = cuts.get(file) ?? 0
      cuts.set(file, count + 1)
      return count < 6 ? { kind: 'cut', bytes: dice.below(50_000) } : null
    }
    const { readBytes, plan } = await pulled()
    expectWhole()
    expect([...cuts.values()]).toEqual([7, 7, 7, 7])
    // Nothing that was kept came twice.
    expect(readBytes).toBe(plan.bytes)
    const ranges = hub.asked(shard).map(({ range }) => Number(range?.slice(6, -1) ?? 0))
    expect(ranges).toEqual(ranges.toSorted((a, b) => a - b))
    expect(new Set(ranges).size).toBeGreaterThan(3)
  })

  it('a wrong byte: all of the file is fetched anew', async () => {
    first(shard, { kind: 'wrong' })
    await pulled()
    expectWhole()
  })

  it('always a wrong byte: it is said, and the file is not kept', async () => {
    first(shard, { kind: 'wrong' }, 1000)
    await expect(pulled()).rejects.toThrow(/^model-00001.*wrong sha256.*nothing of it was kept/)
    expect(existsSync(join(snapshot(), shard))).toBe(false)
    const hex = sha256Of(hub.files.find(({ path }) => path === shard)?.bytes ?? Buffer.alloc(0))
    expect(blobs().filter((name) => name.startsWith(hex))).toEqual([])
    expect(existsSync(join(modelFolder(), 'refs/main'))).toBe(false)
  })

  it('a small file with a wrong byte is found by its git checksum', async () => {
    hub.fault = ({ file, method }) =>
      file === 'tokenizer.json' && method === 'GET' ? { kind: 'wrong' } : null
    await expect(pulled()).rejects.toThrow(/^tokenizer\.json.*wrong git checksum/)
  })

  it('a beginning that somebody spoilt is thrown away', async () => {
    const hex = sha256Of(hub.files.find(({ path }) => path === shard)?.bytes ?? Buffer.alloc(0))
    mkdirSync(join(modelFolder(), 'blobs'), { recursive: true })
    writeFileSync(join(modelFolder(), 'blobs', `${hex}.incomplete`), Buffer.alloc(50_000, 1))
    await pulled()
    expectWhole()
    expect(hub.asked(shard).map(({ range }) => range)).toContain('bytes=50000-')
  })

  it('a range that is ignored: what is there stays, what comes twice is skipped', async () => {
    let count = 0
    hub.fault = ({ file, host, method }) => {
      if (file !== shard || host !== 'storage' || method !== 'GET') return null
      count += 1
      return count === 1 ? { kind: 'cut', bytes: 100_000 } : { kind: 'rangeless' }
    }
    const { readBytes, plan } = await pulled()
    expectWhole()
    expect([count, readBytes]).toEqual([2, plan.bytes])
  })

  it('a body that stalls is given up and gone on with', async () => {
    first(shard, { kind: 'stall', bytes: 70_000 })
    const said: string[] = []
    await pulled({}, said, 1)
    expectWhole()
    expect(said).toEqual([`${shard}: nothing came for 1 s`])
  })

  it('a slow body is not: bytes come', async () => {
    first(shard, { kind: 'slow', pieceBytes: 30_000, pauseMs: 150 })
    const said: string[] = []
    await pulled({}, said, 1)
    expectWhole()
    expect(said).toEqual([])
  })

  it.each([500, 502, 503])('status %i passes', async (status) => {
    first(shard, { kind: 'status', status }, 3)
    await pulled()
    expectWhole()
  })

  it('status 500 that does not pass is reported, and the others are there next time', async () => {
    first(shard, { kind: 'status', status: 500 }, 1000)
    await expect(pulled({ jobs: 1 })).rejects.toThrow(
      /^model-00001.*\(500\); given up after 7 tries/,
    )
    hub.fault = () => null
    const { plan } = await pulled()
    expect(plan.hasBytes).toBeGreaterThan(0)
    expectWhole()
  })

  it.each([
    { 'retry-after': '1' },
    {
      ratelimit: '"resolvers";r=0;t=1',
      'ratelimit-policy': '"fixed window";"resolvers";q=9;w=300',
    },
  ])('429 is waited for as long as it says: %j', async (headers) => {
    let asked = 0
    hub.fault = () => {
      asked += 1
      return asked === 1 ? { kind: 'status', status: 429, headers } : null
    }
    const before = performance.now()
    await pulled()
    expect(performance.now() - before).toBeGreaterThan(990)
    expectWhole()
  })

  it('a beginning that is whole is not asked for', async () => {
    const { bytes = Buffer.alloc(0) } = hub.files.find(({ path }) => path === shard) ?? {}
    mkdirSync(join(modelFolder(), 'blobs'), { recursive: true })
    writeFileSync(join(modelFolder(), 'blobs', `${sha256Of(bytes)}.incomplete`), bytes)
    await pulled()
    expectWhole()
    expect(hub.asked(shard)).toEqual([])
  })

  it('a file that is shorter than it was listed: it is said, and what came waits', async () => {
    hub.files = hub.files.map((file) =>
      file.path === shard ? { ...file, sizeBytes: file.bytes.length + 9 } : file,
    )
    await expect(pulled()).rejects.toThrow(
      /^model-00001.*: expected bytes 300000 to 300009, found bytes \*\/300000; given up after 7 tries/,
    )
    expect(blobs().filter((name) => name.endsWith('.incomplete'))).toHaveLength(1)
  })

  it('an address of the storage that has run out is asked for anew', async () => {
    first(shard, { kind: 'status', status: 403 }, 2)
    await pulled()
    expectWhole()
    expect(hub.asked(shard).filter(({ host }) => host === 'hub')).toHaveLength(3)
  })

  it('a file that changed between two pulls: the new one, whole', async () => {
    first(shard, { kind: 'cut', bytes: 100_000 }, 1000)
    const stop = new AbortController()
    const patience = { signal: stop.signal, stallSeconds: 5, pauseSeconds: 60 }
    const cut = pulled({ patience: { ...patience, onWait: () => stop.abort() } })
    await expect(cut).rejects.toThrow()
    hub.files = hub.files.map((file) =>
      file.path === shard ? { ...file, bytes: Buffer.from(file.bytes).fill(9, 0, 99) } : file,
    )
    hub.fault = () => null
    await pulled()
    for (const { path, bytes } of hub.files) {
      expect(readFileSync(join(snapshot(), path)).equals(bytes), path).toBe(true)
    }
  })
})

describe('what is refused before the first byte', () => {
  const refuse = (status: number, code: string) => {
    hub.fault = ({ method }) =>
      method === 'HEAD' || code !== 'GatedRepo'
        ? { kind: 'status', status, headers: headersOf(code) }
        : null
  }
  const headersOf = (code: string): Record<string, string> => {
    if (code === 'disabled') return { 'x-error-message': 'Access to this resource is disabled.' }
    return code === '' ? {} : { 'x-error-code': code }
  }

  it.each<[number, string, RegExp]>([
    [401, '', /no such model, or a private one: set HF_TOKEN/],
    [401, 'RepoNotFound', /no such model, or a private one: set HF_TOKEN/],
    [401, 'GatedRepo', /is gated \(401\); accept its terms at http.*some-org\/ring-tiny.*HF_TOKEN/],
    [403, 'GatedRepo', /is gated \(403\); accept its terms/],
    [404, 'RepoNotFound', /no such model at http/],
    [404, 'RevisionNotFound', /has no such revision/],
    [403, 'disabled', /was disabled by the hub \(403\)/],
    [410, '', /refuses with status 410/],
  ])('status %i %s', async (status, code, said) => {
    refuse(status, code)
    await expect(pulled()).rejects.toThrow(said)
    expect(existsSync(cache)).toBe(false)
    expect(hub.requests.filter(({ file, method }) => file !== null && method === 'GET')).toEqual([])
  })

  it('weights that are gated, though the card is not', async () => {
    hub.fault = ({ file, method }) =>
      method === 'HEAD' && shards.includes(file ?? '')
        ? { kind: 'status', status: 403, headers: headersOf('GatedRepo') }
        : null
    await expect(pulled()).rejects.toThrow(/is gated \(403\)/)
    expect(hub.requests.filter(({ file, method }) => file !== null && method === 'GET')).toEqual([])
  })

  it('a hub that sends in a circle', async () => {
    hub.fault = ({ path, method }) =>
      method === 'HEAD' ? { kind: 'status', status: 307, headers: { location: path } } : null
    await expect(pulled()).rejects.toThrow(/sends from one address to the next without end/)
  })

  it('a model that no drive can hold: how much it needs and how much is free', async () => {
    hub.files = hub.files.map((file) =>
      file.path === shard ? { ...file, sizeBytes: 2 ** 52 } : file,
    )
    await expect(pulled()).rejects.toThrow(
      /^no space: .* needs \d+ GB more and its drive has [\d.]+ GB free/,
    )
    expect(hub.asked(shard)).toEqual([])
  })

  it.each(['../out', 'a/../../out', '/etc/out', 'a//b', 'a\\b', 'a\nb', '.'])(
    'a name that leads elsewhere: %j',
    async (path) => {
      hub.files = [...hub.files, { path, bytes: Buffer.from('x'), isLarge: false }]
      await expect(pulled()).rejects.toThrow(/expected names inside the model's folder/)
      expect(existsSync(cache)).toBe(false)
    },
  )

  it('anything, where HF_HUB_OFFLINE is set', async () => {
    const offline = environment({ HF_HUB_OFFLINE: '1' })
    await expect(pulled({ environment: offline })).rejects.toThrow(/HF_HUB_OFFLINE is set/)
    expect(hub.requests).toEqual([])
  })

  it('a hub that is none', async () => {
    hub.fault = () => null
    const elsewhere = environment({ HF_ENDPOINT: 'ftp://hub' })
    await expect(pulled({ environment: elsewhere })).rejects.toThrow(/HF_ENDPOINT must be/)
  })
})

describe('the token', () => {
  it('goes to the hub, and never to the storage', async () => {
    await pulled({ environment: environment({ HF_TOKEN: 'secret' }) })
    const of = (host: string) => hub.requests.filter((one) => one.host === host)
    expect(new Set(of('hub').map((one) => one.authorization))).toEqual(new Set(['Bearer secret']))
    expect(of('storage').length).toBeGreaterThan(0)
    expect(new Set(of('storage').map((one) => one.authorization))).toEqual(new Set([null]))
  })

  it('goes on to what the hub sends to on its own host', async () => {
    await pulled({ environment: environment({ HF_TOKEN: 'secret' }), model: oldModel })
    const sentOn = hub.requests.filter(({ path }) => path.startsWith('/api/resolve-cache/'))
    expect(sentOn.length).toBeGreaterThan(0)
    expect(new Set(sentOn.map((one) => one.authorization))).toEqual(new Set(['Bearer secret']))
  })

  it('is found in its file', async () => {
    writeFileSync(join(folder, 'token'), 'kept\n')
    await pulled({ environment: environment({ HF_HOME: folder }) })
    expect(hub.requests[0]?.authorization).toBe('Bearer kept')
  })
})

describe('several drives', () => {
  it('share the large files; the snapshot finds them; they are not fetched again without --dir', async () => {
    const drives = ['a', 'b'].map((name) => join(folder, name))
    await pulled({ drives })
    expectWhole()
    const homes = shards.map((name) =>
      realpathSync(join(snapshot(), name)).slice(folder.length + 1),
    )
    expect(homes.map((home) => home[0]).sort()).toEqual(['a', 'a', 'b', 'b'])
    const { readBytes } = await pulled()
    expect(readBytes).toBe(0)
  })
})
