// The engine on the main thread: requests, cancelling, refusals, failures. Over the built program,
// because a thread is started from a file that Node runs.
import { copyFileSync, mkdtempSync, readdirSync, rmSync, truncateSync } from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Engine, type Generation } from '../dist/src/engine/engine.js'
import type { Emission } from '../dist/src/engine/loop.js'
import { greedy } from '../src/engine/sampling.js'
import { tinyGoldens } from './goldens.js'
import { requestOf } from './models.js'
import { ringTiny } from './paths.js'

const goldens = tinyGoldens.map((one) => one.golden)

async function tokensOf(generation: Generation): Promise<number[]> {
  const tokens: number[] = []
  for await (const { token } of generation) tokens.push(token)
  return tokens
}

async function emissionsOf(generation: Generation): Promise<Emission[]> {
  const emissions: Emission[] = []
  for await (const emission of generation) emissions.push(emission)
  return emissions
}

describe('an engine', () => {
  let engine: Engine
  beforeAll(async () => {
    engine = await Engine.open(ringTiny, { sequences: 3, kvType: 'f32' })
  })
  afterAll(async () => {
    await engine.close()
  })

  it('says what it opened', () => {
    expect(engine.facts.device).toMatch(/^cpu, \w+, \d+ threads?$/)
    expect(engine.facts.config.layers).toBe(6)
    expect(engine.facts.plan.contextTokens).toBe(2048)
  })

  it('answers more requests than it has room for, each as if it were alone', async () => {
    const answers = await Promise.all(
      goldens.map((golden) => tokensOf(engine.generate(requestOf(golden.ids, { maxTokens: 24 })))),
    )
    for (const [index, golden] of goldens.entries()) {
      const tie = golden.greedy.margin.findIndex((margin) => margin < 1e-2)
      const certain = Math.min(24, tie < 0 ? 24 : tie)
      expect(answers[index]?.slice(0, certain)).toEqual(golden.greedy.ids.slice(0, certain))
    }
  })

  it('ends at a stop id, which is the last token', async () => {
    const [golden] = goldens
    const stop = golden?.greedy.ids[5] ?? -1
    const first = golden?.greedy.ids.indexOf(stop) ?? -1
    const generation = engine.generate(
      requestOf(golden?.ids ?? [], { maxTokens: 30, stopIds: [stop] }),
    )
    expect(await tokensOf(generation)).toEqual(golden?.greedy.ids.slice(0, first + 1))
    expect((await generation.ending).reason).toBe('stop')
  })

  it('goes on from tokens that were drawn before as if it had never ended', async () => {
    const sampling = { ...greedy, temperature: 1, topP: 0.95, seed: 77n }
    const penalties = { frequencyPenalty: 0.7, presencePenalty: 0.4, repetitionPenalty: 1.1 }
    const request = requestOf(goldens[0]?.ids ?? [], {
      ...{ maxTokens: 40, topLogprobs: 2, sampling: { ...sampling, ...penalties } },
    })
    const whole = await emissionsOf(engine.generate(request))
    expect(whole).toHaveLength(40)
    for (const count of [1, 17, 39]) {
      const drawnBefore = Int32Array.from(whole.slice(0, count), ({ token }) => token)
      const rest = engine.generate({ ...request, drawnBefore })
      expect(await emissionsOf(rest)).toEqual(whole.slice(count))
      expect((await rest.ending).reason).toBe('length')
    }
    const drawnBefore = Int32Array.from(whole, ({ token }) => token)
    expect(() => engine.generate({ ...request, drawnBefore })).toThrow(
      /40 tokens were drawn before/,
    )
  })

  it('counts what it did', async () => {
    const generation = engine.generate(requestOf(goldens[0]?.ids ?? [], { maxTokens: 6 }))
    await tokensOf(generation)
    const { reason, stats } = await generation.ending
    expect(reason).toBe('length')
    expect(stats.promptTokens).toBe(goldens[0]?.ids.length)
    expect(stats.completionTokens).toBe(6)
    expect(stats.firstTokenSeconds).toBeGreaterThan(0)
    expect(stats.decodeSeconds).toBeGreaterThan(0)
    expect(stats.expertRequests).toBe(5 * 5 * 4) // five draws after the first, five layers, top 4
  })

  it('cancels a request in work, and one that still waits', async () => {
    const endless = requestOf(goldens[0]?.ids ?? [], { maxTokens: 1900 })
    const generations = Array.from({ length: 5 }, () => engine.generate(endless))
    for (const generation of generations) generation.cancel()
    for (const generation of generations) {
      await tokensOf(generation)
      expect((await generation.ending).reason).toBe('cancelled')
    }
    expect((await tokensOf(engine.generate(requestOf([5, 6], { maxTokens: 3 })))).length).toBe(3)
  })

  it('refuses a prompt that does not fit, or that is empty, in one sentence', () => {
    const over = requestOf(new Array(2000).fill(5), { maxTokens: 49 })
    expect(() => engine.generate(over)).toThrow(/2000 tokens .* context holds 2048/)
    expect(() => engine.generate(requestOf([]))).toThrow(/prompt is empty/)
  })

  it('draws only what the mask allows, and fails clearly when that is nothing', async () => {
    const allowed = new Uint32Array(32)
    allowed[0] = 1 << 7
    const prompt = goldens[0]?.ids ?? []
    const seven = engine.generate(requestOf(prompt, { maxTokens: 4, allowed }))
    expect(await tokensOf(seven)).toEqual([7, 7, 7, 7])
    const none = engine.generate(requestOf(prompt, { maxTokens: 4, allowed: new Uint32Array(32) }))
    expect(await tokensOf(none)).toEqual([])
    expect((await none.ending).message).toMatch(/no token may be drawn/)
  })
})

describe('an engine whose model fails it', () => {
  it('is not opened, and the reason is one sentence', async () => {
    await expect(Engine.open(join(ringTiny, 'nowhere'))).rejects.toThrow(/config\.json/)
  })

  it('fails its requests when a shard is cut short under it, and then closes', async () => {
    const folder = mkdtempSync(join(os.tmpdir(), 'ring-engine-'))
    try {
      for (const file of readdirSync(ringTiny))
        copyFileSync(join(ringTiny, file), join(folder, file))
      const engine = await Engine.open(folder, { sequences: 2 })
      truncateSync(join(folder, 'model-00002-of-00004.safetensors'), 40_000)
      const generations = [1, 2, 3].map(() =>
        engine.generate(requestOf(goldens[0]?.ids ?? [], { maxTokens: 50 })),
      )
      const ends = await Promise.allSettled(generations.map((generation) => generation.ending))
      const said = ends.map((end) =>
        end.status === 'fulfilled' ? `${end.value.reason}: ${end.value.message}` : `${end.reason}`,
      )
      expect(said[0]).toMatch(/^failed: .*model-00002.* cannot be read at byte/)
      for (const text of said) expect(text).toMatch(/model-00002.* cannot be read at byte/)
      expect(() => engine.generate(requestOf([5]))).toThrow(/cannot be read at byte/)
      await engine.close()
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
})
