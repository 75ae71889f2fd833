// Reading ahead: what a guess is worth, whether looking ahead pays at all, and what comes of it in the
// slots of a real device: never other bits, whatever was guessed.
import { describe, expect, it } from 'vitest'
import { Counter } from '../native/index.js'
import type { Expert } from '../src/cache/place.js'
import type { OpenWishes } from '../src/engine/open.js'
import { openModel } from '../src/engine/open.js'
import type { Foresight } from '../src/prefetch/forecast.js'
import { Governor } from '../src/prefetch/governor.js'
import { Pace } from '../src/prefetch/pace.js'
import { Prefetch } from '../src/prefetch/prefetch.js'
import { Price } from '../src/prefetch/price.js'
import { AlwaysWrong, Oracle } from '../src/simulate/foretold.js'
import { drive } from './drive.js'
import { listen } from './foretold.js'
import { tinyGoldens } from './goldens.js'
import { requestOf } from './models.js'
import { ringTiny } from './paths.js'
import { randomFrom } from './random.js'

const second = {
  seconds: 1,
  demandSeconds: 0.6,
  driveBusySeconds: 0.8,
  bytesRead: 800,
  attendSeconds: 0.2,
  expertSeconds: 0.1,
}

describe('the pace', () => {
  it('is what the drive delivers while it reads, and the time in which nobody waits for it', () => {
    const pace = new Pace(4)
    expect([pace.bytesPerSecond, pace.idleBytesPerLayer]).toEqual([0, 0])
    for (let step = 0; step < 3; step += 1) pace.took(second)
    expect(pace.bytesPerSecond).toBeCloseTo(1000)
    expect(pace.idleBytesPerLayer).toBeCloseTo(100)
  })

  it('follows a drive that changes within some ten steps', () => {
    const pace = new Pace(4)
    for (let step = 0; step < 50; step += 1) pace.took(second)
    for (let step = 0; step < 30; step += 1) pace.took({ ...second, bytesRead: 400 })
    expect(pace.bytesPerSecond).toBeGreaterThan(490)
    expect(pace.bytesPerSecond).toBeLessThan(530)
  })
})

describe('a guess', () => {
  const offer = { probability: 0.9, idleReads: 1, queuedReads: 0, victimChance: 0.1 }

  it('is worth more the likelier it is, and nothing where it is unlikely', () => {
    const price = new Price()
    const gains = [0.3, 0.5, 0.7, 0.9, 1].map((probability) =>
      price.gain({ ...offer, probability }),
    )
    expect([...gains].sort((a, b) => a - b)).toEqual(gains)
    expect(gains[0]).toBeLessThan(0)
    expect(gains[2]).toBeGreaterThan(0)
    expect(gains[4]).toBe(1)
  })

  it('is worth only the part that fits into idle time, behind what is queued', () => {
    const price = new Price()
    const certain = { ...offer, probability: 1 }
    expect(price.gain({ ...certain, idleReads: 0.25 })).toBeCloseTo(0.25)
    expect(price.gain({ ...certain, idleReads: 2, queuedReads: 1.5 })).toBeCloseTo(0.5)
    expect(price.gain({ ...certain, queuedReads: 1 })).toBe(0)
    expect(price.gain({ ...certain, idleReads: 0 })).toBe(0)
  })

  it('is worth less where what gives way for it is wanted too, and behind a queue', () => {
    const price = new Price()
    expect(price.gain({ ...offer, victimChance: 0.9 })).toBeLessThan(price.gain(offer))
    const behind = { ...offer, idleReads: 3, queuedReads: 2 }
    expect(price.gain(behind)).toBeLessThan(price.gain({ ...offer, idleReads: 3 }))
  })

  it('becomes dear while more than a fifth is wasted, and cheap again when it is not', () => {
    const price = new Price()
    for (let turn = 0; turn < 50; turn += 1) price.settled(1, 1)
    const dear = price.ofBytes
    expect(dear).toBeGreaterThan(3)
    for (let turn = 0; turn < 250; turn += 1) price.settled(1, 0.05)
    expect(price.ofBytes).toBeLessThan(1)
  })
})

describe('a forecast', () => {
  const offer = { probability: 1, idleReads: 1, queuedReads: 0, victimChance: 0.1 }

  it('is believed as far as what it promised came true', () => {
    const price = new Price()
    expect(price.trust).toBe(1)
    for (let turn = 0; turn < 100; turn += 1) price.kept(0.8, turn % 5 < 2 ? 1 : 0)
    expect(price.trust).toBeGreaterThan(0.45)
    expect(price.trust).toBeLessThan(0.55)
    for (let turn = 0; turn < 200; turn += 1) price.kept(0.8, 1)
    expect(price.trust).toBe(1)
  })

  it('that is certain and always wrong is paid for some ten times, and tried again much later', () => {
    const price = new Price()
    let guesses = 0
    for (; price.gain(offer) > 0; guesses += 1) price.kept(1, 0)
    expect(guesses).toBeLessThan(10)
    let steps = 0
    for (; price.gain(offer) <= 0; steps += 1) price.pass()
    expect(steps).toBeGreaterThan(100)
  })
})

describe('the governor', () => {
  /** Steps that take so long with and without look-ahead, and vary. */
  function govern(governor: Governor, steps: number, on: number, off: number, spread = 0.2) {
    const random = randomFrom(4)
    let looked = 0
    for (let step = 0; step < steps; step += 1) {
      if (governor.isOn) looked += 1
      governor.took((governor.isOn ? on : off) * (1 + spread * (random() - 0.5)))
    }
    return looked / steps
  }

  it('switches look-ahead off where it loses, and looks again only now and then', () => {
    const governor = new Governor('auto')
    govern(governor, 400, 1.2, 1)
    expect(governor.verdict).toBe('off')
    expect(govern(governor, 640, 1.2, 1)).toBeLessThan(0.1)
    expect(governor.ratio?.speed).toBeCloseTo(1 / 1.2, 1)
  })

  it('keeps it on where it wins, with a look at the other way now and then', () => {
    const governor = new Governor('auto')
    govern(governor, 400, 0.8, 1)
    expect(governor.verdict).toBe('on')
    expect(govern(governor, 640, 0.8, 1)).toBeGreaterThan(0.9)
    expect(governor.ratio?.speed).toBeCloseTo(1 / 0.8, 1)
  })

  it('changes its mind when the machine changes', () => {
    const governor = new Governor('auto')
    govern(governor, 400, 0.8, 1)
    govern(governor, 6400, 1.3, 1)
    expect(governor.verdict).toBe('off')
    govern(governor, 12_800, 0.7, 1)
    expect(governor.verdict).toBe('on')
  })

  it('obeys whoever has decided already', () => {
    for (const mode of ['on', 'off'] as const) {
      const governor = new Governor(mode)
      const looked = govern(governor, 200, mode === 'on' ? 9 : 0.1, 1)
      expect([governor.verdict, looked]).toEqual([mode, mode === 'on' ? 1 : 0])
      expect(governor.ratio).toBeNull()
    }
  })
})

describe('what is read ahead', () => {
  const shape = { moeLayers: 4, experts: 8, topK: 2, groups: 1, groupsKept: 1, distances: [1, 2] }

  /** Foresight of one expert in each layer, as likely as given. */
  function prefetchOf(
    chances: Record<number, number>,
    held: readonly number[] = [],
    below: readonly number[] = [],
  ) {
    const probabilities = new Float32Array(8)
    const foresight: Foresight = {
      begin: () => {},
      used: () => {},
      early: (layer) => foresight.prior(layer),
      prior: (layer) => {
        probabilities.fill(0)
        probabilities[layer] = chances[layer] ?? 0
        return probabilities
      },
    }
    const asked: { guesses: number[]; unlikely: number[] }[] = []
    const slots = {
      guesses: 0,
      spare: () => {},
      holds: (expert: Expert) => held.includes(expert),
      isGuess: (expert: Expert) => held.includes(expert),
      victimChance: () => 0.1,
      isBelow: (expert: Expert) => below.includes(expert),
      copiesAhead: 0,
      copyVictimChance: () => 0.1,
      ahead: (guesses: Int32Array, unlikely: Int32Array) => {
        asked.push({ guesses: [...guesses], unlikely: [...unlikely] })
        return guesses
      },
    }
    const prefetch = new Prefetch(shape, foresight, slots, 'on', 100)
    prefetch.begin(Int32Array.of(1))
    // Half of the second nothing is copied, which is half a copy for each layer.
    const copies = below.length === 0 ? {} : { copyBusySeconds: 0.5, bytesCopied: 200 }
    prefetch.end({ ...second, ...copies }, 0, 0)
    prefetch.begin(Int32Array.of(1))
    return { prefetch, asked }
  }

  it('is of the layers at the distances that scores reach, near ones first', () => {
    const { prefetch, asked } = prefetchOf({ 1: 0.95, 2: 0.95, 3: 0.95 })
    prefetch.ahead(0, false)
    prefetch.ahead(1, false)
    prefetch.ahead(3, false)
    // One layer's idle time is one read: what is queued leaves room for one more, two layers ahead.
    expect(asked.map(({ guesses }) => guesses)).toEqual([
      [8 + 1, 16 + 2],
      [16 + 2, 24 + 3],
    ])
  })

  it('is of the first layer before any score, by what is known beforehand', () => {
    const { prefetch, asked } = prefetchOf({ 0: 0.9, 1: 0.9 })
    prefetch.first()
    expect(asked).toEqual([{ guesses: [0], unlikely: [] }])
  })

  it('is nothing that lies in a slot, or that is not likely enough', () => {
    const { prefetch, asked } = prefetchOf({ 1: 0.99, 2: 0.3 }, [8 + 1])
    prefetch.ahead(0, false)
    expect(asked).toEqual([])
  })

  it('copies what the next layer wants of the tier below, and of later layers nothing', () => {
    const inRam = [8 + 1, 16 + 2]
    const { prefetch, asked } = prefetchOf({ 1: 0.95, 2: 0.95 }, inRam, inRam)
    prefetch.ahead(0, false)
    expect(asked).toEqual([{ guesses: [8 + 1], unlikely: [] }])
  })

  it('is called back when it has become unlikely', () => {
    const { prefetch, asked } = prefetchOf({ 1: 0.02 }, [8 + 1])
    prefetch.ahead(0, false)
    expect(asked).toEqual([{ guesses: [], unlikely: [8 + 1] }])
  })
})

const chat = tinyGoldens.find((one) => one.golden.name === 'chat-add')?.golden.ids ?? []

/** Everything drawn, as text, and what was used in every step, with a foresight made from that. */
function generated(wishes: OpenWishes, foresight: Foresight | null = null) {
  const model = openModel(ringTiny, { threads: 2, ...wishes }, foresight)
  try {
    const truth = listen(model)
    const request = requestOf(chat, { maxTokens: 40, topLogprobs: 4, routing: true })
    const [driven] = drive(model, [request])
    expect(driven?.ending.message).toBe('')
    const counters = [...model.counters.device]
    const { ahead, aheadHits, aheadWasted } = model.counters.layers
    const sum = (values: Float64Array) => values.reduce((total, value) => total + value, 0)
    return {
      bits: JSON.stringify([driven?.emissions, [...(driven?.ending.scored?.weights ?? [])]]),
      truth,
      counts: { ahead: sum(ahead), hits: sum(aheadHits), wasted: sum(aheadWasted) },
      bytesAhead: counters[Counter.bytes_ahead] ?? 0,
    }
  } finally {
    model.close()
  }
}

describe('the same bits', () => {
  const pace = { bytesPerSecond: 2e8, latencySeconds: 1e-4, depth: 16, jitter: 1, seed: 3 }
  const direct = (share: number, prefetch: 'on' | 'off' | 'auto'): OpenWishes => ({
    loadMode: 'direct',
    expertRam: { share },
    prefetch,
    reads: { pace, chunkBytes: 16384 },
  })
  const mapped = generated({ loadMode: 'mapped' })

  it.each([0.1, 0.25, 0.5])(
    'with look-ahead off, on, right and wrong, with slots for %d',
    (share) => {
      const off = generated(direct(share, 'off'))
      expect([off.bits, off.counts.ahead]).toEqual([mapped.bits, 0])
      const on = generated(direct(share, 'on'))
      expect(on.bits).toBe(mapped.bits)
      expect(on.counts.ahead).toBeGreaterThan(0)
      const right = generated(direct(share, 'on'), new Oracle(32, mapped.truth))
      expect(right.bits).toBe(mapped.bits)
      expect(right.counts.ahead).toBeGreaterThan(20)
      expect(right.counts.wasted).toBe(0)
      expect(right.bytesAhead).toBeGreaterThan(0)
      const wrong = generated(direct(share, 'on'), new AlwaysWrong(32, mapped.truth))
      expect(wrong.bits).toBe(mapped.bits)
      expect(wrong.counts.ahead).toBeGreaterThan(0)
      expect(wrong.counts.hits).toBe(0)
    },
  )
})
