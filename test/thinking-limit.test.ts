// An end to thinking: what the engine draws until it, at it and after it.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Engine } from '../dist/src/engine/engine.js'
import type { Request } from '../dist/src/engine/sequence.js'
import { openTemplate } from '../dist/src/model/template.js'
import { thinkingTagsOf } from '../dist/src/model/thinkingtags.js'
import { openTokenizer } from '../dist/src/model/tokenizer.js'
import { greedy } from '../src/engine/sampling.js'
import { ringTiny } from './paths.js'

const tokenizer = openTokenizer(ringTiny)
const tags = thinkingTagsOf(tokenizer) ?? { open: -1, close: -1 }
const question = [{ role: 'user' as const, content: 'What is 37 + 48?' }]
const prompt = openTemplate(ringTiny).render(question, { addGenerationPrompt: true })

let engine: Engine
beforeAll(async () => {
  engine = await Engine.open(ringTiny, { sequences: 2, sampleable: tokenizer.size })
})
afterAll(() => engine.close())

/** Tokens drawn for the question, each with its log-probability. */
async function drawn(wishes: Partial<Request>, said = prompt) {
  const generation = engine.generate({
    prompt: tokenizer.encode(said),
    maxTokens: 40,
    stopIds: engine.facts.config.eosIds,
    sampling: greedy,
    topLogprobs: 1,
    score: false,
    routing: false,
    ...wishes,
  })
  const emissions = []
  for await (const emission of generation) emissions.push(emission)
  return {
    emissions,
    tokens: emissions.map(({ token }) => token),
    ending: await generation.ending,
  }
}

const limited = (budget: number, startsInside = false) => ({
  thinking: { budget, tags, startsInside },
})

describe('a limit of thinking', () => {
  it('changes nothing where the model ends in time', async () => {
    const free = await drawn({})
    const thought = free.tokens.indexOf(tags.close) - 1
    expect(free.tokens[0]).toBe(tags.open)
    expect(thought).toBeGreaterThan(10)
    expect((await drawn(limited(thought))).emissions).toEqual(free.emissions)
    expect((await drawn(limited(thought - 1))).tokens).not.toEqual(free.tokens)
  })

  it.each([0, 1, 7])('of %d tokens: as many as without, then the closing tag', async (budget) => {
    const free = await drawn({})
    const { tokens, emissions, ending } = await drawn(limited(budget))
    expect(tokens.slice(0, 1 + budget)).toEqual(free.tokens.slice(0, 1 + budget))
    expect(tokens[1 + budget]).toBe(tags.close)
    expect(tokens.lastIndexOf(tags.close)).toBe(1 + budget)
    // What the model itself thinks of that tag there: it would have gone on.
    const forced = emissions[1 + budget]
    expect(forced?.logprob).toBeLessThan(forced?.top[0]?.[1] ?? Number.NaN)
    expect(ending.reason).toBe('stop')
  })

  it('counts from the start where the prompt begins the thought', async () => {
    const begun = `${prompt}<think>\n`
    const free = await drawn({}, begun)
    const { tokens } = await drawn(limited(5, true), begun)
    expect(tokens.slice(0, 5)).toEqual(free.tokens.slice(0, 5))
    expect(tokens[5]).toBe(tags.close)
    expect((await drawn(limited(0, true), begun)).tokens[0]).toBe(tags.close)
  })

  it('leaves drawn tokens and their seeds as they are until then', async () => {
    const sampling = { ...greedy, temperature: 1, seed: 7n, presencePenalty: 0.5 }
    const free = await drawn({ sampling })
    const { tokens } = await drawn({ sampling, ...limited(4) })
    expect(free.tokens[0]).toBe(tags.open)
    expect(tokens.slice(0, 5)).toEqual(free.tokens.slice(0, 5))
    expect(tokens[5]).toBe(tags.close)
    expect((await drawn({ sampling, ...limited(4) })).tokens).toEqual(tokens)
  })

  it('is kept where biases, penalties or a mask would forbid the tag', async () => {
    const biases = [[tags.close, Number.NEGATIVE_INFINITY]] as const
    const sampling = { ...greedy, biases, frequencyPenalty: 2, repetitionPenalty: 1.5 }
    const allowed = new Uint32Array(32).fill(2 ** 32 - 1)
    allowed[tags.close >> 5] = 0x7fff_ffff & ~(1 << (tags.close & 31))
    const { tokens } = await drawn({ sampling, allowed, ...limited(3) })
    expect(tokens.indexOf(tags.close)).toBe(tokens.indexOf(tags.open) + 4)
  })

  it('does not reach the sequences beside it', async () => {
    const alone = await drawn({})
    const [beside, cut] = await Promise.all([drawn({}), drawn(limited(3))])
    expect(beside.emissions).toEqual(alone.emissions)
    expect(cut.tokens[4]).toBe(tags.close)
  })

  it('is none of an answer that does not begin with a thought', async () => {
    const thoughtless = `${prompt}<think>\n\n</think>\n`
    const free = await drawn({}, thoughtless)
    expect(free.tokens[0]).not.toBe(tags.open)
    expect((await drawn(limited(0), thoughtless)).emissions).toEqual(free.emissions)
  })
})

describe('the tags', () => {
  it('are known only where each is one token', () => {
    expect(thinkingTagsOf({ idOf: (tag) => (tag === '<think>' ? 1 : 2) })).toEqual({
      open: 1,
      close: 2,
    })
    expect(thinkingTagsOf({ idOf: (tag) => (tag === '<think>' ? 1 : null) })).toBe(null)
  })
})
