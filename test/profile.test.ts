// Profiles of which experts are used: saved by one run, the ground of the policy `pinned` in the next,
// and refused in one sentence where they cannot be had or written.
import { mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { Engine } from '../dist/src/engine/engine.js'
import { Counter } from '../native/index.js'
import type { Learnt } from '../src/cache/learnt.js'
import type { Expert } from '../src/cache/place.js'
import { type Profile, parseProfile } from '../src/cache/profile.js'
import { SlotCache } from '../src/cache/slotcache.js'
import type { OpenWishes } from '../src/engine/open.js'
import { profiledModel, writeProfile } from '../src/engine/profilefile.js'
import { openCheckpoint } from '../src/model/checkpoint.js'
import { command, copyOfTiny, type Ended, lastObject, withFolder } from './command.js'
import { drive, withModel } from './drive.js'
import { tinyGoldens } from './goldens.js'
import { requestOf } from './models.js'
import { ringTiny } from './paths.js'

const ids = tinyGoldens[0]?.golden.ids ?? []
const moeLayers = 5
const asked = ['run', '-q', '--json', '-p', 'What is 37 + 48?', '-n', '20']

function read(file: string): Profile {
  const found = parseProfile(
    readFileSync(file, 'utf8'),
    file,
    profiledModel(openCheckpoint(ringTiny)),
  )
  if ('problem' in found) throw new Error(found.problem)
  return found
}

function expectRefusal({ status, stdout, stderr }: Ended, said: RegExp): void {
  expect(stderr).toMatch(said)
  expect(stderr).toMatch(/^ring-offload: [^\n]+\n$/)
  expect([status, stdout]).toEqual([1, ''])
}

describe('--save-profile', () => {
  it('counts the tokens of each expert as --routing tells them, whatever the load mode', async () => {
    await withFolder(async (folder) => {
      const input = `${JSON.stringify({ id: 1, tokens: ids })}\n`
      const counts = new Float64Array(moeLayers * 32)
      for (const mode of ['mapped', 'direct']) {
        const file = join(folder, `${mode}.json`)
        const words = ['score', '-q', '-i', '-', '-o', '-', '--routing', '--load-mode', mode]
        const end = await command([...words, '--save-profile', file], { input })
        const { routing } = lastObject(end) as { routing: { experts: number[][][] } }
        counts.fill(0)
        for (const [layer, positions] of routing.experts.entries()) {
          for (const index of positions.flat()) {
            counts[layer * 32 + index] = (counts[layer * 32 + index] ?? 0) + 1
          }
        }
        expect([...read(file).counts]).toEqual([...counts])
      }
      // Nothing is left beside them.
      expect(readdirSync(folder).sort()).toEqual(['direct.json', 'mapped.json'])
    })
  })

  it('replaces what lay there, also of a talk, over all of its rounds', async () => {
    await withFolder(async (folder) => {
      const file = join(folder, 'profile.json')
      const sums: number[] = []
      writeFileSync(file, 'something else')
      for (const [words, input] of [
        [['run', '-p', '1+1=?', '-n', '2'], ''],
        [['chat', '-n', '2'], '1+1=?\n2+2=?\n'],
      ] as const) {
        const end = await command([...words, '--save-profile', file], { input })
        expect(end.status).toBe(0)
        sums.push(read(file).counts.reduce((sum, tokens) => sum + tokens, 0))
      }
      const [run = 0, chat = 0] = sums
      expect(run % (4 * moeLayers)).toBe(0)
      expect(run).toBeGreaterThan(0)
      // Two tokens of thinking are no answer, so no round's prompt holds another's. What the second begins
      // with like the first is not computed again.
      const known = (2 * run - chat) / (4 * moeLayers)
      expect(Number.isInteger(known)).toBe(true)
      expect(known).toBeGreaterThan(0)
      expect(chat).toBeGreaterThan(run)
    })
  })

  it('is refused at the start where no file can be', async () => {
    await withFolder(async (folder) => {
      const gone = join(folder, 'gone', 'profile.json')
      expectRefusal(
        await command([...asked, '--save-profile', gone]),
        /--save-profile .*cannot be w/,
      )
      expectRefusal(await command([...asked, '--save-profile', folder]), /found a folder/)
      expectRefusal(await command([...asked, '--save-profile', '/dev/null']), /pipe or device/)
    })
  })

  it('is told when it cannot be written in the end; the answer was given all the same', async () => {
    await withFolder(async (folder) => {
      const place = join(folder, 'place')
      mkdirSync(place)
      const engine = await Engine.open(ringTiny, { saveProfile: join(place, 'profile.json') })
      const generation = engine.generate(requestOf(ids, { maxTokens: 2 }))
      expect((await generation.ending).reason).toBe('length')
      rmSync(place, { recursive: true })
      symlinkSync(join(folder, 'nowhere'), place)
      await expect(engine.close()).rejects.toThrow(
        /--save-profile .*profile\.json: cannot be written/,
      )
    })
  })
})

describe('--profile', () => {
  it('is what the policy pinned goes by, and the answer is the same', async () => {
    await withFolder(async (folder) => {
      const file = join(folder, 'profile.json')
      const direct = [...asked, '--load-mode', 'direct', '--expert-ram', '50%']
      const saved = lastObject(await command([...direct, '--save-profile', file]))
      const pinned = await command([...direct, '--policy', 'pinned', '--profile', file])
      expect(pinned.stderr).toBe('')
      const object = lastObject(pinned)
      expect(object.tokens).toEqual(saved.tokens)
      expect(object.experts).toMatchObject({ hits_by: 'slots', slots: { ram: 80 } })
    })
  })

  it('is refused when it is missing, damaged, or of another model', async () => {
    await withFolder(async (folder) => {
      const file = join(folder, 'profile.json')
      const pinned = ['--load-mode', 'direct', '--policy', 'pinned', '--profile', file]
      const attempt = (model: string[] = []) =>
        command(['run', ...model, '-q', '-p', 'x', '-n', '1', ...pinned])
      expectRefusal(await attempt(), /profile\.json: file not found/)
      writeFileSync(file, '{"version": 2, "tokens": [[')
      expectRefusal(
        await attempt(),
        /--profile: profile\.json: expected an expert profile.*no JSON/,
      )
      expect(
        (await command(['run', '-q', '-p', 'x', '-n', '1', '--save-profile', file])).status,
      ).toBe(0)
      expect((await attempt()).status).toBe(0)
      const other = copyOfTiny(folder)
      const config = join(other, 'config.json')
      writeFileSync(config, `${readFileSync(config, 'utf8')}\n`)
      expectRefusal(await attempt([other]), /--profile: profile\.json: a profile of another model/)
    })
  })

  it('is wanted by --policy pinned, and has no effect on mapped experts, which is said', async () => {
    const pinned = await command([...asked, '--load-mode', 'direct', '--policy', 'pinned'])
    expectRefusal(pinned, /--policy: the policy pinned needs a saved profile.*--profile/)
    const idle = await command(['run', '-p', 'x', '-n', '1', '--profile', 'p.json'])
    expect(idle.stderr).toContain('--profile has no effect while all experts are mapped')
    expect(idle.status).toBe(0)
  })
})

describe('what was learnt', () => {
  const slots = {
    loadMode: 'direct',
    expertRam: { share: 0.25 },
    prefetch: 'on',
    threads: 2,
  } as const
  const pace = { bytesPerSecond: 1e9, latencySeconds: 1e-4, depth: 16, jitter: 0, seed: 1 }

  /** The arrays as they are now. */
  const copied = (learnt: Learnt = {}): object =>
    Object.fromEntries(Object.entries(learnt).map(([name, numbers]) => [name, [...numbers]]))

  /** Generates, and returns what the engine's thread would keep. */
  function learn(more: OpenWishes) {
    return withModel(
      ringTiny,
      { ...slots, forecastEvery: 16, reads: { pace }, ...more },
      (model) => {
        const requests = drive(model, [requestOf(ids, { maxTokens: 60 })])
        if (model.stage.profile) writeProfile(more, model.stage.profile)
        return { tokens: requests[0]?.emissions, learnt: copied(model.stage.profile?.learnt) }
      },
    )
  }

  it('is what the next run begins with, and the answer is the same', async () => {
    await withFolder(async (folder) => {
      const file = join(folder, 'profile.json')
      const first = learn({ saveProfile: file })
      expect(Object.keys(first.learnt)).toContain('forecast.weights')
      expect(Object.keys(first.learnt)).toContain('eviction.weights')
      const next = { ...slots, profile: file, saveProfile: join(folder, 'next.json') }
      const recalled = withModel(ringTiny, next, ({ stage }) => copied(stage.profile?.learnt))
      expect(recalled).toEqual(first.learnt)
      expect(learn({ profile: file }).tokens).toEqual(first.tokens)
    })
  })

  it('fills free slots before anybody asks, with what was used most', async () => {
    await withFolder(async (folder) => {
      const file = join(folder, 'profile.json')
      learn({ saveProfile: file })
      withModel(ringTiny, { ...slots, reads: { pace }, profile: file }, (model) => {
        const { cache } = model.stage
        if (!(cache instanceof SlotCache)) throw new Error('experts have slots here')
        const hottest = [...read(file).hottest()] as Expert[]
        while (model.warmth?.turn()) model.stage.device.poll(new Int32Array(0), 1)
        while (cache.guesses > 0) model.warmth?.turn()
        const held = hottest.filter((expert) => cache.holds(expert))
        expect(held).toEqual(hottest.slice(0, 40))
        const bytes = model.counters.device[Counter.bytes_wanted] ?? 0
        expect(bytes).toBeGreaterThanOrEqual(40 * model.experts.expertReadBytes * 0.9)
      })
    })
  })

  it('is kept for each model without being asked for, and left alone when it is damaged', async () => {
    await withFolder(async (folder) => {
      const remember = join(folder, 'profiles')
      expect(withModel(ringTiny, { ...slots, remember }, ({ note }) => note)).toBeNull()
      learn({ remember })
      const [name = ''] = readdirSync(remember)
      const file = join(remember, name)
      expect(withModel(ringTiny, { ...slots, remember }, ({ warmth }) => warmth)).not.toBeNull()
      const text = readFileSync(file, 'utf8')
      // One more digit in the first count.
      const damaged = text.replace('\n    [', '\n    [1')
      writeFileSync(file, damaged)
      withModel(ringTiny, { ...slots, remember }, ({ note, warmth }) => {
        expect(note).toMatch(/^what earlier runs learnt is not used: .*damaged/)
        expect(warmth).toBeNull()
      })
      learn({ remember })
      expect(withModel(ringTiny, { ...slots, remember }, ({ note }) => note)).toBeNull()
    })
  })
})
