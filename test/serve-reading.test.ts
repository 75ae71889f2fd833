// From drawn tokens to pieces of an answer: stop texts, reasoning and the places of tokens, however the
// text is cut. Cuts come from a fixed seed.
import { describe, expect, it } from 'vitest'
import { openTokenizer } from '../src/model/tokenizer.js'
import { AnswerReader, type Delta } from '../src/serve/reader.js'
import { StopFinder } from '../src/serve/stops.js'
import { Dice } from './dice.js'
import { ringTiny } from './paths.js'

describe('stop texts', () => {
  /** What is given of a text that comes in these parts. */
  function given(parts: readonly string[], stops: readonly string[]): string {
    const finder = new StopFinder(stops)
    const pieces = parts.map((part) => finder.push(part))
    return pieces.join('') + finder.end()
  }

  it('are found across parts, the earliest first, and what only begins like one is given', () => {
    expect(given(['abc', 'STO', 'P', 'def'], ['STOP'])).toBe('abc')
    expect(given(['abcSTO', 'Rdef'], ['STOP'])).toBe('abcSTORdef')
    expect(given(['abcSTO'], ['STOP'])).toBe('abcSTO')
    expect(given(['one two three'], ['three', 'two'])).toBe('one ')
    expect(given(['aaab'], ['aab'])).toBe('a')
    expect(given(['xSTOP'], [])).toBe('xSTOP')
  })

  it('are held back no longer than they must be', () => {
    const finder = new StopFinder(['STOP', '\n\n'])
    expect(finder.push('line S')).toBe('line ')
    expect(finder.push('T')).toBe('')
    expect(finder.push('A\n')).toBe('STA')
    expect(finder.push('x')).toBe('\nx')
    expect(finder.found).toBe(null)
    expect(finder.push('\n\ny')).toBe('')
    expect(finder.found).toBe('\n\n')
  })

  it('end the same text at the same place, however it is cut', () => {
    const dice = new Dice(11)
    for (let round = 0; round < 400; round += 1) {
      const text = Array.from({ length: 30 }, () => dice.pick(['a', 'b', '\n'])).join('')
      const stops = Array.from({ length: 1 + dice.below(3) }, () =>
        Array.from({ length: 1 + dice.below(5) }, () => dice.pick(['a', 'b', '\n'])).join(''),
      )
      const ends = stops.map((stop) => text.indexOf(stop)).filter((at) => at >= 0)
      const expected = ends.length === 0 ? text : text.slice(0, Math.min(...ends))
      const parts: string[] = []
      for (let rest = text; rest !== ''; ) {
        const length = 1 + dice.below(6)
        parts.push(rest.slice(0, length))
        rest = rest.slice(length)
      }
      expect(given(parts, stops)).toBe(expected)
    }
  })
})

describe('the reader of an answer', () => {
  const tokenizer = openTokenizer(ringTiny)
  const end = tokenizer.idOf('<|role_end|>') ?? -1

  function read(text: string, stops: readonly string[] = [], thinking = true) {
    const reader = new AnswerReader(tokenizer, {
      thinking: thinking ? { startsInside: false } : null,
      calls: null,
      stopIds: [end],
      stops,
    })
    const deltas: Delta[] = []
    for (const token of [...tokenizer.encode(text), end]) {
      deltas.push(...reader.push({ token, logprob: -1, top: [] }))
      if (reader.isStopped) break
    }
    deltas.push(...reader.end())
    const of = (kind: 'reasoning' | 'text') =>
      deltas.flatMap((delta) => (delta.kind === kind ? [delta] : []))
    const texts = (kind: 'reasoning' | 'text') =>
      of(kind)
        .map(({ text }) => text)
        .join('')
    const tokens = (kind: 'reasoning' | 'text') =>
      tokenizer.decode(of(kind).flatMap((delta) => delta.tokens.map(({ token }) => token)))
    return { reader, texts, tokens }
  }

  it('gives every token to the part that its text is in, tags to the reasoning', () => {
    const { texts, tokens, reader } = read('<think>\nHm, grün.\n</think>\n\nGrün: ✓.')
    expect(texts('reasoning')).toBe('Hm, grün.')
    expect(texts('text')).toBe('Grün: ✓.')
    expect(tokens('reasoning').trim()).toBe('<think>\nHm, grün.\n</think>')
    expect(tokens('text')).toBe('Grün: ✓.')
    expect(reader.reasoningTokens).toBe(
      tokenizer.encode('<think>\nHm, grün.\n</think>').length + lineBreaks(tokenizer),
    )
  })

  it('counts an empty thought as reasoning, and plain white space as answer', () => {
    expect(read('<think>\n\n</think>\n\nYes').tokens('text')).toBe('Yes')
    expect(read('  Yes').tokens('text')).toBe('  Yes')
    expect(read('  Yes').texts('text')).toBe('  Yes')
    expect(read('<think>x</think>y', [], false).texts('text')).toBe('<think>x</think>y')
  })

  it('gives the tokens before a stop text and no other', () => {
    const { texts, tokens, reader } = read('one two three four', ['three'])
    expect(texts('text')).toBe('one two ')
    // A token may reach into the stop text, but begins before it.
    expect('one two three'.startsWith(tokens('text'))).toBe(true)
    expect(tokens('text').length).toBeGreaterThanOrEqual('one two '.length)
    expect(tokens('text').length).toBeLessThan('one two three'.length)
    expect(reader.isStopped).toBe(true)
  })

  it('gives all that was held back when the answer ends in the middle', () => {
    expect(read('abc ST', ['STOP']).texts('text')).toBe('abc ST')
    expect(read('<think>\nunfinished </thi').texts('reasoning')).toBe('unfinished </thi')
  })
})

/** Tokens of the blank lines between a thought and an answer: they are nobody's text. */
function lineBreaks(tokenizer: ReturnType<typeof openTokenizer>): number {
  return tokenizer.encode('\n\n').length
}
