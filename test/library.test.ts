// The library as a program uses it: what it gives, what it refuses, how it ends. That it draws what the
// command draws is the point; how tokens are drawn is tested elsewhere.
import { afterAll, beforeAll, describe, expect, expectTypeOf, it } from 'vitest'
import {
  type Answer,
  Engine,
  EngineError,
  type Reply,
  type Settings,
  type Talking,
  type TextPiece,
  type Token,
} from '../dist/src/library.js'
import type { DrawFlags, SharedFlags, TalkFlags } from '../src/cli/flags.js'
import { command, lastObject } from './command.js'
import { edge, ringTiny } from './paths.js'

const question = 'What is 37 + 48?'

/** Long enough to be ended before its end. */
const endless = { predict: 1500, logitBias: { 1018: -Infinity, 1021: -Infinity } }

let engine: Engine

beforeAll(async () => {
  engine = await Engine.open(ringTiny, { profile: 'none', parallel: 2 })
})

afterAll(async () => {
  await engine.close()
})

describe('an answer', () => {
  it('is that of `run`: as pieces, as tokens and as a whole', async () => {
    const ran = lastObject(await command(['run', '-q', '--json', '-p', question]))
    const pieces: TextPiece[] = []
    for await (const piece of engine.chat(question)) pieces.push(piece)
    const said = (kind: TextPiece['kind']) =>
      pieces.flatMap((piece) => (piece.kind === kind ? [piece.text] : [])).join('')
    expect([said('reasoning'), said('text')]).toEqual([ran.reasoning, ran.text])
    expect(pieces.length).toBeGreaterThan(3)

    const ids: number[] = []
    for await (const { id, logprob } of engine.chat(question).tokens()) {
      ids.push(id)
      expect(logprob).toBeLessThanOrEqual(0)
    }
    expect(ids).toEqual(ran.tokens)

    const whole = await engine.chat(question).whole()
    expect(whole).toMatchObject({ text: '85', reasoning: ran.reasoning, finishReason: 'stop' })
    expect(whole.tokens).toEqual(ran.tokens)
    expect(whole.stats.completionTokens).toBe(ids.length)
  })

  it('to raw text is that of `run --raw`', async () => {
    const words = ['run', '--raw', '-q', '--json', '-p', 'To be or', '-n', '20']
    const ran = lastObject(await command(words))
    const { text, reasoning, finishReason } = await engine
      .generate('To be or', { predict: 20 })
      .whole()
    expect([text, reasoning, finishReason]).toEqual([ran.text, '', 'length'])
  })

  it('is drawn as its settings say, by the same seed the same', async () => {
    const drawn = async (seed: number) => {
      const settings = { temp: 1, topP: 0.95, seed, predict: 24 }
      return (await engine.generate('To be', settings).whole()).text
    }
    expect(await drawn(1)).toBe(await drawn(1))
    expect(await drawn(1)).not.toBe(await drawn(2))
  })

  it('thinks as it is told to', async () => {
    const brief = await engine.chat(question, { reasoningBudget: 4 }).whole()
    expect(engine.encode(brief.reasoning).length).toBeLessThanOrEqual(4)
    const none = await engine.chat(question, { think: 'off' }).whole()
    expect(none.reasoning).toBe('')
  })

  it('is to all messages', async () => {
    const messages = [
      { role: 'user', content: 'What is 5 + 6?' },
      { role: 'assistant', content: '11' },
      { role: 'user', content: question },
    ] as const
    const { stats } = await engine.chat(messages, { predict: 1 }).whole()
    const alone = await engine.chat(question, { predict: 1 }).whole()
    expect(stats.promptTokens).toBeGreaterThan(alone.stats.promptTokens)
    const led = await engine.chat(question, { predict: 1, system: 'Be brief.' }).whole()
    expect(led.stats.promptTokens).toBeGreaterThan(alone.stats.promptTokens)
  })

  it('may be read in two ways, one after the other', async () => {
    const reply = engine.chat(question)
    const seen: string[] = []
    for await (const { text } of reply) seen.push(text)
    const { reasoning, text } = await reply.whole()
    expect(`${reasoning}${text}`).toBe(seen.join(''))
  })
})

describe('an answer that is ended early', () => {
  it('by leaving the loop: what came is there', async () => {
    const reply = engine.generate('To be', endless)
    const seen: number[] = []
    for await (const { id } of reply.tokens()) if (seen.push(id) === 3) break
    const { tokens, finishReason } = await reply.whole()
    expect(finishReason).toBe('cancelled')
    expect(tokens.slice(0, 3)).toEqual(seen)
    expect(tokens.length).toBeLessThan(endless.predict)
  })

  it('by cancel', async () => {
    const reply = engine.generate('To be', endless)
    reply.cancel()
    expect(await reply.whole()).toMatchObject({ finishReason: 'cancelled' })
  })

  it('by a signal: its reason is thrown, before, meanwhile, and not after', async () => {
    const reason = new Error('enough')
    const before = engine.generate('To be', { ...endless, signal: AbortSignal.abort(reason) })
    await expect(before.whole()).rejects.toBe(reason)

    const stop = new AbortController()
    const meanwhile = engine.generate('To be', { ...endless, signal: stop.signal })
    const read = async () => {
      for await (const _ of meanwhile) stop.abort(reason)
    }
    await expect(read()).rejects.toBe(reason)

    const late = new AbortController()
    const after = engine.chat(question, { signal: late.signal })
    await after.whole()
    late.abort(reason)
    expect(await after.whole()).toMatchObject({ text: '85' })
  })

  it('leaves its place to others', async () => {
    const replies = Array.from({ length: 4 }, () => engine.generate('To be', endless))
    for (const reply of replies) reply.cancel()
    expect(await engine.chat(question).whole()).toMatchObject({ text: '85' })
  })
})

describe('a model', () => {
  it('says what it is and what was done', async () => {
    expect(engine.facts).toMatchObject({ model: 'ring-tiny', layers: 6, experts: 160 })
    const { requests } = engine.stats()
    await engine.chat(question).whole()
    expect(engine.stats().requests).toBeGreaterThanOrEqual(requests)
    expect(engine.decode(engine.encode('To be or not'))).toBe('To be or not')
  })

  it('is the bundled one where none is named, opened as the settings say, and told of', async () => {
    const lines: string[] = []
    const settings: Settings = { expertRam: '25%', ctxSize: 256, threads: 1, profile: 'none' }
    const small = await Engine.open(undefined, { ...settings, log: (line) => lines.push(line) })
    try {
      expect(small.facts).toMatchObject({ contextTokens: 256, expertSlots: 40, loadMode: 'direct' })
      expect(lines[0]).toMatch(/^ring-tiny on cpu.*1 thread.*context 256/)
      expect(await small.chat(question).whole()).toMatchObject({ text: '85' })
    } finally {
      await small.close()
    }
  })

  it('does not listen to variables, which are for the command line', async () => {
    process.env.RING_CTX_SIZE = 'many'
    try {
      await using small = await Engine.open(undefined, { ctxSize: 128, profile: 'none' })
      expect(small.facts.contextTokens).toBe(128)
    } finally {
      delete process.env.RING_CTX_SIZE
    }
  })

  it('that is closed ends what is in work and answers no more', async () => {
    const closing = await Engine.open(undefined, { profile: 'none' })
    const running = closing.generate('To be', endless)
    const waiting = closing.generate('To be', endless)
    await closing[Symbol.asyncDispose]()
    for (const reply of [running, waiting]) {
      expect(await reply.whole()).toMatchObject({ finishReason: 'cancelled' })
    }
    expect(() => closing.chat(question)).toThrow(new EngineError('the engine is closed'))
    await closing.close()
  })
})

describe('what cannot be is an EngineError with one sentence', () => {
  it.each<[string, string, object, RegExp]>([
    ['a model that is nowhere', 'no/where', {}, /"no\/where"/],
    ['a folder that is no model', '.', {}, /config\.json/],
    ['no tokenizer', edge('bf16'), {}, /tokenizer\.json/],
    ['a share that is none', ringTiny, { expertRam: 'half' }, /--expert-ram.*such as 96GiB/],
    ['a context beyond the model', ringTiny, { ctxSize: 4096 }, /--ctx-size 4096.*2048/],
    ['a setting that is none', ringTiny, { threadz: 2 }, /unknown option '--threadz.*--threads/],
    ['a policy that is none', ringTiny, { expertRam: '25%', policy: 'best' }, /--policy/],
  ])('%s', async (_title, model, settings, said) => {
    const error = await Engine.open(model, settings).catch((thrown: unknown) => thrown)
    expect(error).toBeInstanceOf(EngineError)
    expect((error as EngineError).message).toMatch(said)
    expect((error as EngineError).message).not.toMatch(/\n|internal error/)
  })

  it.each<[string, object, RegExp]>([
    ['a temperature below 0', { temp: -1 }, /--temp.*from 0 to 100/],
    ['a setting that is none', { maxTokens: 4 }, /unknown option '--max-tokens/],
    ['more than the context holds', { predict: 4096 }, /4096 more are asked for.*2048/],
    ['a bias for no token', { logitBias: { 5000: 1 } }, /--logit-bias 5000=1/],
  ])('%s', (_title, talking, said) => {
    expect(() => engine.chat(question, talking)).toThrow(EngineError)
    expect(() => engine.chat(question, talking)).toThrow(said)
  })

  it('a prompt longer than the context', () => {
    const chat = () => engine.chat('1'.repeat(3000))
    expect(chat).toThrow(EngineError)
    expect(chat).toThrow(/^the prompt has 30\d\d tokens, and the context holds 2048/)
  })
})

describe('types', () => {
  it('say what is given', () => {
    expectTypeOf(engine.chat).returns.toEqualTypeOf<Reply>()
    expectTypeOf<Reply>().toExtend<AsyncIterable<TextPiece>>()
    expectTypeOf<ReturnType<Reply['tokens']>>().toEqualTypeOf<AsyncIterable<Token>>()
    expectTypeOf<Awaited<ReturnType<Reply['whole']>>>().toEqualTypeOf<Answer>()
    expectTypeOf<Answer['finishReason']>().toEqualTypeOf<'stop' | 'length' | 'cancelled'>()
    expectTypeOf<Engine>().toExtend<AsyncDisposable>()
    expectTypeOf(Engine.open).parameters.toEqualTypeOf<
      [model?: string | undefined, settings?: Settings | undefined]
    >()
  })

  it('name flags and nothing else', () => {
    type Named = Exclude<keyof Settings, 'log' | 'parallel'>
    expectTypeOf<Named>().toExtend<keyof SharedFlags>()
    expectTypeOf<Exclude<keyof Talking, 'signal'>>().toEqualTypeOf<keyof (DrawFlags & TalkFlags)>()
  })
})
