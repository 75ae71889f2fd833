// A backend in a shared library with slots in memory of its own: how it is found and refused, and that what
// comes out does not depend on where experts lie. The library is one for tests (test/native/delayed): the
// CPU's products, slots that are filled late by chance, and a check of everything that is asked of them.
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Engine } from '../dist/src/engine/engine.js'
import {
  addonPath,
  Control,
  Counter,
  createDevice,
  FaultKind,
  type Layout,
  type ReadFault,
} from '../native/index.js'
import { Tier } from '../src/cache/place.js'
import { chooseBackend, probeGpu } from '../src/engine/backend.js'
import { layoutOf, planMemory } from '../src/engine/layout.js'
import type { OpenWishes } from '../src/engine/open.js'
import { packTensors } from '../src/engine/tables.js'
import { openCheckpoint } from '../src/model/checkpoint.js'
import { command, lastObject, withFolder } from './command.js'
import { drive, driveOne, withModel } from './drive.js'
import { tinyGoldens } from './goldens.js'
import { requestOf } from './models.js'
import { fromRoot, ringTiny } from './paths.js'
import { chat as answerTo, asks, errorOf, figureOf, post, startServer, until } from './serving.js'
import { slotSuite } from './slots.suite.js'

const library = fromRoot('build/native/Release/ring_delayed.so')
const named = { RING_CUDA_LIBRARY: library }
const checkpoint = openCheckpoint(ringTiny)
const idsOf = (name: string) =>
  tinyGoldens.find((one) => one.golden.name === name)?.golden.ids ?? []
const long = idsOf('raw-prose-long')
const chat = idsOf('chat-add')
const sort = idsOf('chat-sort')
const total = (values: Float64Array) => values.reduce((sum, value) => sum + value, 0)

const variables = { ...named, RING_DELAY_US: '100', RING_DELAY_SEED: '5' }
beforeAll(() => {
  Object.assign(process.env, variables)
})
afterAll(() => {
  // One by one: native code would still see them behind another object.
  for (const name of Object.keys(variables)) delete process.env[name]
})

const tables = packTensors(checkpoint)
slotSuite({
  name: 'in the memory of a backend, reached through two rooms',
  tier: Tier.gpu,
  create: createDevice,
  tokens: long,
  layout(lockstep: boolean): Layout {
    const wishes = { sequences: 2, lockstep, contextTokens: 1024, threads: 2 }
    return layoutOf({
      checkpoint,
      files: checkpoint.files,
      tables,
      plan: planMemory(checkpoint.config, wishes, 2 ** 30),
      wishes,
      slots: 0,
      library,
      rooms: 2,
      control: new Int32Array(Control.cancel + 2),
      counters: new Float64Array(Counter.count),
    })
  },
})

/** A scored prompt, then drawn tokens: everything that came out, as text. */
function bits(wishes: OpenWishes, ids: readonly number[]): string {
  const request = requestOf(ids, { maxTokens: 24, topLogprobs: 4, routing: true })
  const { emissions, ending } = driveOne(ringTiny, { threads: 2, ...wishes }, request)
  expect(ending.message).toBe('')
  const weights = ending.scored?.weights ?? new Float32Array(0)
  return JSON.stringify([emissions, Buffer.from(weights.buffer).toString('hex')])
}

/** Without slots in RAM below, unless they are asked for. */
const onGpu = (share: number, more: OpenWishes = {}): OpenWishes => ({
  backend: 'cuda',
  expertVram: { share },
  expertRam: { bytes: 0 },
  threads: 2,
  ...more,
})

describe('the same bits as the processor gives', () => {
  const mapped = bits({ loadMode: 'mapped' }, chat)

  it.each([1, 0.5, 0.25].flatMap((share) => [[share, 'off'] as const, [share, 'on'] as const]))(
    'with slots for %d of the experts, look-ahead %s',
    (share, prefetch) => {
      expect(bits(onGpu(share, { prefetch, forecastEvery: 32 }), chat)).toBe(mapped)
    },
  )

  const late = {
    pace: { bytesPerSecond: 4e8, latencySeconds: 3e-4, depth: 8, jitter: 1, seed: 3 },
    chunkBytes: 16384,
  }

  it('with random evictions, and reads and copies that are late by chance', () => {
    const wishes = { policy: 'random:11', prefetch: 'on', reads: late } as const
    expect(bits(onGpu(0.1, wishes), chat)).toBe(mapped)
  })

  it.each([0.5, 0.25, 0.04].flatMap((share) => [0.3, 1].map((below) => [share, below] as const)))(
    'with slots for %d of the experts over RAM for %d, random evictions, late by chance',
    (share, below) => {
      const expertRam = { share: below }
      const wishes = { policy: 'random:7', prefetch: 'on', reads: late, expertRam } as const
      expect(bits(onGpu(share, wishes), chat)).toBe(mapped)
    },
  )

  it('with what later layers want read into RAM, and copied for the next', () => {
    const pace = { bytesPerSecond: 4e8, latencySeconds: 3e-4, depth: 8, jitter: 1, seed: 4 }
    const wishes = { prefetch: 'on', forecastEvery: 32, expertRam: { share: 0.5 } } as const
    expect(bits(onGpu(0.1, { ...wishes, reads: { pace } }), chat)).toBe(mapped)
  })

  it('of a sweep through fewer slots than a layer has experts', () => {
    const ids = Array.from({ length: 400 }, (_, index) => long[index % long.length] ?? 0)
    const whole = bits({ loadMode: 'mapped' }, ids)
    expect(bits(onGpu(0.05, { stepTokens: 130 }), ids)).toBe(whole)
    const below = { stepTokens: 130, expertRam: { share: 0.2 } }
    expect(bits(onGpu(0.05, below), ids)).toBe(whole)
  })

  it('of two sequences that share the slots', () => {
    const both = (wishes: OpenWishes) =>
      withModel(ringTiny, { ...wishes, sequences: 2 }, (model) =>
        drive(model, [requestOf(chat, { maxTokens: 16 }), requestOf(sort, { maxTokens: 16 })]).map(
          ({ emissions }) => emissions,
        ),
      )
    const alone = both({ loadMode: 'mapped' })
    expect(both(onGpu(0.1))).toEqual(alone)
    expect(both(onGpu(0.1, { expertRam: { share: 0.4 } }))).toEqual(alone)
  })

  // The backend runs layers that hit by itself, unless every layer is to be seen.
  it.each([1, 0.4])('and the cache hears the same, with slots for %d of the experts', (share) => {
    const heard = (lockstep: boolean) =>
      withModel(ringTiny, onGpu(share, { prefetch: 'off', policy: 'lru', lockstep }), (model) => {
        const [one] = drive(model, [requestOf(chat, { maxTokens: 16 })])
        const { requests, hits, misses, evictions } = model.counters.layers
        const counts = [requests, hits, misses, evictions].map((of) => Array.from(of))
        return { emissions: one?.emissions, counts }
      })
    const byThemselves = heard(false)
    expect(byThemselves).toEqual(heard(true))
    expect(byThemselves.counts[1]).not.toContain(0)
  })

  it('and what was copied and waited for is counted', () => {
    withModel(ringTiny, onGpu(0.25, { prefetch: 'off' }), (model) => {
      drive(model, [requestOf(chat, { maxTokens: 8 })])
      const { device, layers } = model.counters
      const { expertReadBytes, experts, tier } = model.experts
      expect(model.stage.device.describe()).toMatch(/^delayed, cpu, /)
      expect(tier).toBe('gpu')
      expect(device[Counter.slots_touched]).toBe(Math.round(experts / 4))
      expect(device[Counter.bytes_copied]).toBe(total(layers.misses) * expertReadBytes)
      expect(device[Counter.stall_copy_s]).toBeGreaterThan(0)
    })
  })
})

describe('slots in RAM below', () => {
  it('are copied from and not read again, and both are counted', () => {
    const wishes = onGpu(0.1, { prefetch: 'off', expertRam: { share: 1 } })
    withModel(ringTiny, wishes, (model) => {
      drive(model, [requestOf(chat, { maxTokens: 8 })])
      const { device, layers } = model.counters
      const { expertReadBytes, experts, slotsBelow } = model.experts
      expect(slotsBelow).toBe(experts)
      // Each at most once, and the others from RAM.
      expect(total(layers.misses)).toBeLessThanOrEqual(experts)
      expect(total(layers.hitsBelow)).toBeGreaterThan(0)
      const copies = total(layers.misses) + total(layers.hitsBelow)
      expect(device[Counter.bytes_copied]).toBe(copies * expertReadBytes)
      // What was read before all of that memory was touched may have passed it by.
      drive(model, [requestOf(chat, { maxTokens: 8 })])
      const again = total(layers.misses)
      drive(model, [requestOf(chat, { maxTokens: 8 })])
      expect(total(layers.misses)).toBe(again)
    })
  })
})

describe('a read that fails', () => {
  const { experts: perLayer, topK, firstMoeLayer } = checkpoint.config

  it('fails who needs it and nobody else, and leaves no room behind', () => {
    const wanted = (ids: readonly number[]) => {
      const request = requestOf(ids, { maxTokens: 12, routing: true })
      const { scored } = driveOne(ringTiny, { loadMode: 'mapped' }, request).ending
      // Of the first layer that has experts.
      return new Set(scored?.experts.subarray(0, (ids.length + 11) * topK))
    }
    const ofSort = wanted(sort)
    const only = [...wanted(chat)].find((expert) => !ofSort.has(expert)) ?? perLayer
    const up = checkpoint.layers[firstMoeLayer]?.experts[only]?.up
    if (up === undefined) throw new Error('both want the same experts')
    const offset = up.offset + Math.floor((up.rows * up.columns) / 2)
    const fault: ReadFault = {
      ...{ kind: FaultKind.error, file: up.file, offset, bytes: 1 },
      ...{ times: -1, delaySeconds: 0 },
    }
    const request = (ids: readonly number[]) => requestOf(ids, { maxTokens: 12 })
    const alone = driveOne(ringTiny, { loadMode: 'mapped', threads: 2 }, request(sort))
    const wishes = onGpu(0.1, { sequences: 2, prefetch: 'off', reads: { faults: [fault] } })
    for (const bytes of [0, 2 ** 24]) failsAlone({ ...wishes, expertRam: { bytes } })

    function failsAlone(of: OpenWishes): void {
      withModel(ringTiny, of, (model) => {
        // More often than there are rooms.
        for (let round = 0; round < model.experts.rooms + 2; round += 1) {
          const [failing] = drive(model, [requestOf(chat, { maxTokens: 1 })])
          expect(failing?.ending.message).toMatch(/safetensors: cannot be read at byte \d+: Input/)
        }
        const [failing, good] = drive(model, [request(chat), request(sort)])
        expect(failing?.ending.reason).toBe('failed')
        expect(good?.emissions).toEqual(alone.emissions)
      })
    }
  })
})

describe('a GPU that has less memory than it said', () => {
  it('has fewer slots, which is told, or is refused where that is not half of them', () => {
    const opened = (slots: string) => {
      process.env.RING_DELAY_SLOTS = slots
      try {
        return withModel(ringTiny, onGpu(0.5), (model) => {
          const [driven] = drive(model, [requestOf(chat, { maxTokens: 4 })])
          return { slots: model.experts.slots, note: model.note, reason: driven?.ending.reason }
        })
      } finally {
        delete process.env.RING_DELAY_SLOTS
      }
    }
    // 80, 72, 64.
    const note = 'the GPU has less memory left than it said: 64 experts have a slot, not 80'
    const told = expect.stringContaining(note)
    expect(opened('70')).toMatchObject({ slots: 64, note: told, reason: 'length' })
    expect(() => opened('30')).toThrow('the delayed backend has memory for 30 slots')
  })
})

describe('a GPU that is lost', () => {
  it('fails what was in work; the server opens the engine again and answers', async () => {
    process.env.RING_DELAY_LOST_AT = '300'
    const open = () => Engine.open(ringTiny, { backend: 'cuda', sequences: 1 })
    const server = await startServer({ parallel: 1, open })
    try {
      const url = `${server.url}/v1/chat/completions`
      const endless = { messages: asks('Hello!'), ignore_eos: true, temperature: 0 }
      const failed = await post(url, endless)
      expect(failed.status).toBe(500)
      expect((await errorOf(failed)).message).toMatch(/memory of the delayed backend is lost/)
      const told = await post(url, endless)
      expect([500, 503]).toContain(told.status)
      await until(async () => (await fetch(`${server.url}/health`)).status === 200)
      const answer = await answerTo(server.url, { messages: asks('12+9=?') })
      expect(answer.choices[0]?.message.content).toBe('21')
      expect(await figureOf(server.url, 'ring_engine_restarts_total')).toBe(1)
    } finally {
      delete process.env.RING_DELAY_LOST_AT
      await server.close()
    }
  })
})

describe('the door', () => {
  it('says in a sentence why a library cannot be used', async () => {
    await withFolder(async (folder) => {
      const text = join(folder, 'text.so')
      writeFileSync(text, 'no library')
      const reasonOf = (path: string) => probeGpu({ RING_CUDA_LIBRARY: path })
      expect(reasonOf(join(folder, 'gone.so'))).toMatch(/gone\.so: there is no such file$/)
      expect(reasonOf('gone.so')).toBe('gone.so: there is no such file')
      expect(reasonOf(text)).toMatch(/text\.so cannot be opened: [^/]/)
      expect(reasonOf(addonPath)).toMatch(/holds no compute backend$/)
      expect(reasonOf(library)).toMatchObject({ library, probe: { problem: '' } })
    })
  })

  it('is told to be shut by a library, as it is, and by one of another version', async () => {
    const said = async (environment: Readonly<Record<string, string>>) => {
      const words = ['run', '-q', '-p', 'Hi', '--backend', 'cuda']
      const { status, stderr } = await command(words, { environment: { ...named, ...environment } })
      expect(status).toBe(1)
      return stderr
    }
    const reason = 'no NVIDIA driver is installed'
    const [old, shut] = await Promise.all([
      said({ RING_DELAY_VERSION: '1' }),
      said({ RING_DELAY_REASON: reason }),
    ])
    expect(old).toMatch(/--backend cuda: .*is of version 1, this program of \d+; build again\n$/)
    expect(shut).toBe(`ring-offload: --backend cuda: ${reason}\n`)
  })

  it('falls back to the processor by itself, and says why only where there is a GPU', async () => {
    await withFolder(async (folder) => {
      const gone = { RING_CUDA_LIBRARY: join(folder, 'gone.so') }
      const silent = chooseBackend('auto', gone, folder)
      expect(silent).toEqual({ gpu: null, note: null })
      const card = join(folder, 'sys/bus/pci/devices/0000:01:00.0')
      mkdirSync(card, { recursive: true })
      writeFileSync(join(card, 'vendor'), '0x10de\n')
      writeFileSync(join(card, 'class'), '0x040300\n')
      expect(chooseBackend('auto', gone, folder).note).toBe(null)
      writeFileSync(join(card, 'class'), '0x030200\n')
      expect(chooseBackend('auto', gone, folder).note).toMatch(/^the GPU is not used: .*gone\.so/)
      expect(chooseBackend('cpu', gone, folder).note).toBe(null)
      expect(chooseBackend('auto', named, folder).gpu?.library).toBe(library)
    })
  })

  it('is open to `run`, which reports where experts lie, and told of by `inspect`', async () => {
    const budgets = ['--expert-vram', '50%', '--expert-ram', '75%']
    const words = ['run', '-p', '12+9=?', '--backend', 'cuda', ...budgets, '--json']
    const [ran, inspected] = await Promise.all([
      command(words, { environment: named }),
      command(['inspect', '--json'], { environment: named }),
    ])
    expect(ran.stderr).toMatch(
      /GPU memory: 80 of 160 experts have a slot .*; in memory slots for 56 \(.* and room for 64 on/,
    )
    const report = lastObject(ran)
    expect(report).toMatchObject({ backend: 'cuda', load_mode: 'direct' })
    expect(report.experts).toMatchObject({ slots: { gpu: 80, ram: 56 } })
    expect(report.experts).not.toMatchObject({ hits: { gpu: 0 } })
    expect(lastObject(inspected).machine).toMatchObject({
      cuda: { problem: null, name: 'a memory with delays' },
    })
    expect(lastObject(inspected).gpu_fit).toMatchObject({
      ...{ problem: null, experts: 160, head_in_ram: false, mlps_in_ram: 0 },
    })
  })
})
