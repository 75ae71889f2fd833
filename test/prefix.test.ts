// What a request takes from earlier ones: the same bits as without, for every cut; how much it takes;
// and that no block is ever lost, whatever ends a sequence. Over ring-tiny, and over numbers alone.
import { describe, expect, it } from 'vitest'
import { Control } from '../native/index.js'
import { KvBlocks, kvBlockTokens } from '../src/engine/kv.js'
import { Loop } from '../src/engine/loop.js'
import type { OpenModel, OpenWishes } from '../src/engine/open.js'
import { type PrefixNode, PrefixTree } from '../src/engine/prefix.js'
import { type Request, Sequence } from '../src/engine/sequence.js'
import { Dice } from './dice.js'
import { withModel } from './drive.js'
import { tinyGoldens } from './goldens.js'
import { requestOf } from './models.js'
import { ringTiny } from './paths.js'

const prose = tinyGoldens.find((one) => one.golden.name === 'raw-prose-long')?.golden.ids ?? []
const text = Array.from({ length: 200 }, (_, at) => prose[at % prose.length] ?? 0)
const wishes: OpenWishes = { kvType: 'f32', contextTokens: 512, sequences: 4 }

/** What a request gave: its tokens with their log-probabilities and rivals, to the bit. */
interface Answer {
  readonly bits: string
  readonly cached: number
  readonly reason: string
}

/** One loop for requests that come one after the other, or together. */
class Talk {
  readonly loop: Loop
  readonly #answers = new Map<number, { tokens: unknown[]; answer: Answer | null }>()

  constructor(readonly model: OpenModel) {
    this.loop = new Loop(model, {
      onToken: (slot, emission) => this.#of(slot).tokens.push(emission),
      onEnding: (slot, { reason, stats }) => {
        const one = this.#of(slot)
        one.answer = { bits: JSON.stringify(one.tokens), cached: stats.cachedTokens, reason }
      },
    })
  }

  add(slot: number, prompt: readonly number[], more: Partial<Request> = {}): void {
    this.#answers.set(slot, { tokens: [], answer: null })
    Atomics.store(this.model.control, Control.cancel + slot, 0)
    this.loop.add(slot, requestOf(prompt, { maxTokens: 6, topLogprobs: 5, ...more }))
  }

  end(slot: number): Answer {
    while (!this.loop.isIdle) this.loop.turn()
    const { answer } = this.#of(slot)
    if (answer === null) throw new Error(`request ${slot} never ended`)
    return answer
  }

  ask(prompt: readonly number[], more: Partial<Request> = {}): Answer {
    this.add(0, prompt, more)
    return this.end(0)
  }

  #of(slot: number) {
    const one = this.#answers.get(slot)
    if (one === undefined) throw new Error(`nobody asked ${slot}`)
    return one
  }
}

function talk<Result>(more: OpenWishes, use: (talk: Talk) => Result): Result {
  return withModel(ringTiny, { ...wishes, ...more }, (model) => use(new Talk(model)))
}

/** The bits that nothing known before gives. */
function alone(prompt: readonly number[], more: OpenWishes = {}): string {
  return talk({ ...more, reusesPrefixes: false }, (one) => one.ask(prompt).bits)
}

describe('a request behind others', () => {
  it.each(['f32', 'bf16'] as const)(
    'gives the bits that it gives alone, wherever its prompt leaves theirs, with KV as %s',
    (kvType) => {
      const cuts = [1, 31, 32, 33, 63, 64, 65, 100, 150]
      const prompts = cuts.map((cut) => [...text.slice(0, cut), 7, 9, ...text.slice(cut, cut + 9)])
      const expected = prompts.map((prompt) => alone(prompt, { kvType }))
      talk({ kvType }, (one) => {
        one.ask(text)
        for (const [at, prompt] of prompts.entries()) {
          const { bits, cached } = one.ask(prompt)
          expect(bits).toBe(expected[at])
          expect(cached).toBeGreaterThanOrEqual(cuts[at] ?? Number.NaN)
        }
      })
    },
  )

  it('computes the last token of a prompt that is known whole', () => {
    for (const length of [64, 65, 90]) {
      talk({}, (one) => {
        const first = one.ask(text.slice(0, length))
        const second = one.ask(text.slice(0, length))
        expect(second).toEqual({ ...first, cached: length - 1 })
        expect(first.cached).toBe(0)
      })
    }
  })

  it('goes on from what another one has drawn', () => {
    const prompt = text.slice(0, 40)
    talk({}, (one) => {
      const drawn = JSON.parse(one.ask(prompt, { maxTokens: 30 }).bits) as { token: number }[]
      const longer = [...prompt, ...drawn.map(({ token }) => token), 5, 6]
      const { bits, cached } = one.ask(longer)
      expect(cached).toBe(prompt.length + drawn.length - 1)
      expect(bits).toBe(alone(longer))
    })
  })

  it('takes nothing where every token of its prompt is to be told of', () => {
    talk({}, (one) => {
      one.ask(text)
      expect(one.ask(text, { score: true }).cached).toBe(0)
      expect(one.ask(text, { routing: true }).cached).toBe(0)
      expect(one.ask(text).cached).toBe(text.length - 1)
    })
  })

  it('has the bits that it has alone after what it knew was forgotten', () => {
    // Room for one of these and a little more: each drives out much of the one before.
    const others = [3, 4, 5].map((first) => [first, ...text.slice(0, 150)])
    const expected = alone(text)
    talk({ contextTokens: 256, sequences: 1 }, (one) => {
      one.ask(text)
      for (const other of others) one.ask(other)
      const { bits, cached } = one.ask(text)
      expect(bits).toBe(expected)
      expect(cached).toBeLessThan(text.length - kvBlockTokens)
    })
  })
})

describe('requests in work together', () => {
  it('compute a common beginning once, and give the bits that each gives alone', () => {
    const ends = [[7], [8, 9], [7], []]
    const prompts = ends.map((end) => [...text.slice(0, 160), ...end])
    const expected = prompts.map((prompt) => alone(prompt))
    talk({ stepTokens: 48 }, (one) => {
      for (const [slot, prompt] of prompts.entries()) one.add(slot, prompt)
      const answers = prompts.map((_, slot) => one.end(slot))
      expect(answers.map(({ bits }) => bits)).toEqual(expected)
      expect(answers.map(({ cached }) => cached)).toEqual([0, 160, 160, 128])
    })
  })

  it('go on when the one that computed for them is cancelled', () => {
    const expected = alone(text)
    talk({ stepTokens: 48 }, (one) => {
      one.add(0, text)
      one.add(1, text)
      one.loop.turn()
      Atomics.store(one.model.control, Control.cancel, 1)
      const second = one.end(1)
      expect(one.end(0).reason).toBe('cancelled')
      expect(second.bits).toBe(expected)
      expect(second.cached).toBe(kvBlockTokens)
    })
  })
})

/** A tree over blocks of numbers: every copy and every full block is written down and checked. */
class Numbers {
  readonly running = new Set<Sequence>()
  readonly tree: PrefixTree
  /** [block][token] what a block holds. */
  readonly held: Int32Array[]

  constructor(readonly total: number) {
    this.held = Array.from({ length: total }, () => new Int32Array(kvBlockTokens).fill(-1))
    this.tree = new PrefixTree(new KvBlocks(total), (from, to, tokens) => {
      this.held[to]?.set(this.held[from]?.subarray(0, tokens) ?? [])
    })
  }

  admit(prompt: readonly number[], more: number): Sequence | null {
    const sequence = new Sequence(0, requestOf(prompt, { maxTokens: more }), true)
    if (!this.tree.admit(sequence)) return null
    this.running.add(sequence)
    this.check(sequence)
    return sequence
  }

  /** Computes up to `count` tokens; the ones beyond the prompt are drawn. */
  compute(sequence: Sequence, count: number): void {
    this.tree.follow(sequence)
    for (let step = 0; step < count && sequence.computed < sequence.tokens.length; step += 1) {
      const at = sequence.computed
      if (at === sequence.length) sequence.accept(at % 7)
      const block = sequence.blocks[Math.floor(at / kvBlockTokens)] ?? -1
      const row = this.held[block]
      if (row === undefined) throw new Error(`block ${block} is none`)
      row[at % kvBlockTokens] = sequence.tokens[at] ?? -1
      sequence.computed += 1
      this.tree.grow(sequence)
    }
    this.check(sequence)
  }

  release(sequence: Sequence): void {
    this.running.delete(sequence)
    this.tree.release(sequence)
  }

  /** Every token that counts as computed lies where the sequence reads it. */
  check(sequence: Sequence): void {
    for (let at = 0; at < sequence.computed; at += 1) {
      const block = sequence.blocks[Math.floor(at / kvBlockTokens)] ?? -1
      if (this.held[block]?.[at % kvBlockTokens] !== sequence.tokens[at])
        throw new Error(`block ${block} does not hold token ${at}`)
    }
  }

  /** Free, remembering and used blocks are all that there are. */
  count(): void {
    const used = new Set([...this.running].flatMap(({ blocks }) => blocks))
    expect(this.tree.free + used.size).toBe(this.total)
  }
}

describe('the tree', () => {
  it('holds what it says, loses no block and makes nobody wait, over 3000 dice', () => {
    const dice = new Dice(20_261_128)
    const numbers = new Numbers(24)
    let waits = 0
    let reused = 0
    for (let round = 0; round < 3000; round += 1) {
      const running = [...numbers.running]
      const one = running[dice.below(Math.max(1, running.length))]
      if (dice.below(3) === 0 || one === undefined) {
        // Few first tokens, so that prompts leave each other everywhere.
        const prompt = Array.from({ length: 1 + dice.below(150) }, (_, at) =>
          at % 40 === 39 ? dice.below(2) : at % 5,
        )
        const more = dice.below(40)
        const room = numbers.tree.free
        const sequence = numbers.admit(prompt, more)
        const wanted = Math.ceil((prompt.length + more) / kvBlockTokens)
        if (sequence === null) expect(room).toBeLessThan(wanted)
        if (sequence === null) waits += 1
        else reused += sequence.cached
      } else if (dice.below(4) === 0) numbers.release(one)
      else numbers.compute(one, 1 + dice.below(50))
      for (const sequence of numbers.running) numbers.check(sequence)
      numbers.count()
    }
    expect(waits).toBeGreaterThan(50)
    expect(reused).toBeGreaterThan(3000)
  })

  it('forgets the least recently used end first, and no beginning before its ends', () => {
    const forgotten: PrefixNode[] = []
    const kv = new KvBlocks(6)
    const tree = new PrefixTree(
      kv,
      () => {},
      (node) => forgotten.push(node),
    )
    const run = (prompt: number[]) => {
      const sequence = new Sequence(0, requestOf(prompt), true)
      expect(tree.admit(sequence)).toBe(true)
      sequence.computed = prompt.length
      tree.grow(sequence)
      tree.release(sequence)
      return sequence.cached
    }
    const of = (first: number, blocks: number) =>
      Array.from({ length: blocks * kvBlockTokens }, (_, at) => (at === 0 ? first : 1))
    run(of(10, 3))
    run(of(20, 2))
    expect(run(of(10, 1))).toBe(kvBlockTokens - 1) // touches only the first block of three
    run(of(30, 2)) // finds one block free, and drives out one: the last of the three
    for (const { isKept, parent } of forgotten) if (isKept) expect(parent?.isKept).toBe(true)
    const kept = forgotten.filter(({ isKept }) => isKept).map(({ tokens }) => tokens[0])
    expect(kept).toEqual([10, 1, 20, 1, 30, 1])
  })
})
