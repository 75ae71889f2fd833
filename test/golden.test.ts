// Right numbers: every golden of the independent reference, on ring-tiny and on the edge checkpoints,
// through the same begin/advance loop that serves people. Bounds are those the reference states: a
// router choice may differ only where its margin is below the bound, a drawn token only where the
// gap between the best two is.
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { OpenWishes } from '../src/engine/open.js'
import {
  continuation,
  differenceAt,
  firstCauses,
  flips,
  lastDifference,
  score,
  weightDifference,
} from './agreement.js'
import { edgeGoldens, type GoldenCase, tinyGoldens } from './goldens.js'
import { fromRoot } from './paths.js'

const bounds = { logits: 2e-3, routerMargin: 1e-4, greedyMargin: 1e-2 }
const bf16Bounds = { routerMargin: 5e-3, logprob: 0.1 }

function checkF32({ model, golden }: GoldenCase, wishes: OpenWishes = {}): void {
  const scored = score(model, golden, 'f32', wishes)
  for (const { margin } of flips(scored, golden)) expect(margin).toBeLessThan(bounds.routerMargin)
  expect(weightDifference(scored, golden)).toBeLessThan(1e-3)
  for (let token = 0; token < golden.ids.length; token += 1) {
    expect(differenceAt(scored, golden, token)).toBeLessThan(bounds.logits)
  }
  expect(lastDifference(scored, golden)).toBeLessThan(bounds.logits)
}

describe('goldens, KV in F32', () => {
  for (const one of [...tinyGoldens, ...edgeGoldens]) {
    it(`${one.title}: experts, weights and log-probabilities are the reference's`, () => {
      checkF32(one)
    })
    it(`${one.title}: continues greedily as the reference, up to a near tie`, () => {
      const { ours, certain } = continuation(one, bounds.greedyMargin)
      expect(certain).toBeGreaterThan(0)
      expect(ours.slice(0, certain)).toEqual(one.golden.greedy.ids.slice(0, certain))
    })
  }
})

describe('goldens, every instruction set', () => {
  afterEach(() => {
    delete process.env.RING_ISA
  })
  for (const isa of ['portable', 'avx2', 'avx512', 'avx512vbmi']) {
    it(`${isa} gives the reference's numbers on every edge checkpoint`, (context) => {
      process.env.RING_ISA = isa
      for (const one of edgeGoldens) {
        try {
          checkF32(one)
        } catch (error) {
          if (String(error).includes('RING_ISA')) context.skip(`this processor has no ${isa}`)
          throw error
        }
      }
    })
  }
})

function checkBf16({ model, golden }: GoldenCase, wishes: OpenWishes = {}): void {
  const scored = score(model, golden, 'bf16', wishes)
  const found = flips(scored, golden)
  for (const { margin } of firstCauses(found)) expect(margin).toBeLessThan(bf16Bounds.routerMargin)
  const firstFlip = Math.min(golden.ids.length, ...found.map((flip) => flip.token))
  for (let token = 0; token < firstFlip; token += 1) {
    expect(differenceAt(scored, golden, token)).toBeLessThan(bf16Bounds.logprob)
  }
}

describe('goldens, KV in BF16', () => {
  for (const one of tinyGoldens) {
    it(`${one.title}: routes as the reference but for near ties, and agrees before the first`, () => {
      checkBf16(one)
    })
  }
})

// The kernels that a GPU runs, on the processor: what they compute, not how fast.
describe('goldens, CUDA emulated', () => {
  beforeEach(() => {
    process.env.RING_CUDA_LIBRARY = fromRoot('build/native/Release/ring_cuda_emulated.so')
  })
  afterEach(() => {
    delete process.env.RING_CUDA_LIBRARY
    delete process.env.RING_CUDA_KERNELS
  })
  const wishes: OpenWishes = { backend: 'cuda' }
  for (const one of edgeGoldens) {
    it(`${one.title}: the plain kernels give the reference's numbers`, () => {
      process.env.RING_CUDA_KERNELS = 'plain'
      checkF32(one, wishes)
    })
    // Its layers run without the host as soon as their experts have slots.
    it(`${one.title}: and a text goes on as there, up to a near tie`, () => {
      process.env.RING_CUDA_KERNELS = 'plain'
      const { ours, certain } = continuation(one, bounds.greedyMargin, wishes)
      expect(ours.slice(0, certain)).toEqual(one.golden.greedy.ids.slice(0, certain))
    })
  }
  // The longest takes a minute of a busy machine.
  for (const one of tinyGoldens.filter(({ golden }) => golden.ids.length < 200)) {
    it(`${one.title}: those on tensor cores agree with it up to a near tie`, () => {
      checkBf16(one, wishes)
    })
  }
})
