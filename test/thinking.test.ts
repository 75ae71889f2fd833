/** Reasoning and answer come apart at the tags, however the output is cut into parts. */
import { describe, expect, it } from 'vitest'
import { promptEndsInsideThinking, ThinkingSplitter } from '../src/model/thinking.js'
import { pick, randomFrom } from './random.js'

/** What the splitter says to these parts, parts of one kind joined. */
function split(parts: string[], startsInside = false): { reasoning: string; text: string } {
  const splitter = new ThinkingSplitter({ startsInside })
  const said = { reasoning: '', text: '' }
  for (const piece of [...parts.flatMap((part) => splitter.push(part)), ...splitter.end()]) {
    expect(piece.text).not.toBe('')
    if (piece.kind === 'reasoning') expect(said.text).toBe('')
    said[piece.kind] += piece.text
  }
  return said
}

describe('ThinkingSplitter', () => {
  it.each<[string, string, string, string]>([
    ['thinks between the tags', '<think>\n6>7\n</think>\n13', '6>7', '13'],
    ['drops whitespace before the opening tag', ' \n<think>a</think>b', 'a', 'b'],
    ['drops one line break after the opening tag', '<think>\n\n a</think>b', '\n a', 'b'],
    ['drops a CR LF after the opening tag', '<think>\r\na</think>b', 'a', 'b'],
    ['drops all whitespace around the closing tag', '<think>a \n\n</think> \n\n  b', 'a', 'b'],
    ['keeps whitespace within both parts', '<think>a \n b</think>c \n d \n', 'a \n b', 'c \n d \n'],
    ['takes output without the opening tag as text', '\n a</think>b', '', '\n a</think>b'],
    ['takes a late opening tag as text', 'a<think>b</think>', '', 'a<think>b</think>'],
    [
      'takes tags in the answer as text',
      '<think>a</think>b<think>c</think>',
      'a',
      'b<think>c</think>',
    ],
    [
      'takes an opening tag in the reasoning as reasoning',
      '<think>a<think>b</think>c',
      'a<think>b',
      'c',
    ],
    ['has neither where both are empty', '<think>\n\n</think>\n\n', '', ''],
    ['gives reasoning that never ends whole', '<think>a </thin', 'a </thin', ''],
    ['gives whitespace at the end of such reasoning', '<think>a \n', 'a \n', ''],
    ['gives an unfinished opening tag as text', ' <thin', '', ' <thin'],
    ['gives bare whitespace as text', ' \n', '', ' \n'],
    ['has nothing for nothing', '', '', ''],
  ])('%s', (_, output, reasoning, text) => {
    expect(split([output])).toEqual({ reasoning, text })
  })

  it.each<[string, string, string, string]>([
    ['thinks at once', 'a</think>b', 'a', 'b'],
    ['drops one line break where it begins', '\na</think>b', 'a', 'b'],
    ['drops a repeated opening tag', '\n<think>\na</think>b', 'a', 'b'],
    ['gives reasoning that never ends whole', ' a', ' a', ''],
    ['gives an unfinished opening tag as reasoning', '<thi', '<thi', ''],
    ['gives a lone CR as reasoning', '\r', '\r', ''],
    ['knows an answer without reasoning', '</think>\n\nb', '', 'b'],
  ])('started inside: %s', (_, output, reasoning, text) => {
    expect(split([output], true)).toEqual({ reasoning, text })
  })

  it('shows reasoning and answer as they come, and holds back only what may be a tag', () => {
    const splitter = new ThinkingSplitter({ startsInside: false })
    expect(splitter.push('<think>a')).toEqual([{ kind: 'reasoning', text: 'a' }])
    expect(splitter.push(' <')).toEqual([])
    expect(splitter.push('b')).toEqual([{ kind: 'reasoning', text: ' <b' }])
    expect(splitter.push('</thi')).toEqual([])
    expect(splitter.push('nk> c')).toEqual([{ kind: 'text', text: 'c' }])
    expect(splitter.push(' <')).toEqual([{ kind: 'text', text: ' <' }])
    expect(splitter.end()).toEqual([])
  })

  it('says the same however the output is cut', () => {
    const random = randomFrom(4)
    const bits = [
      '<think>',
      '</think>',
      '\n',
      ' ',
      '\r',
      '<',
      '</',
      '<th',
      'ink>',
      'a',
      'b c',
      '🎉',
    ]
    for (let round = 0; round < 3000; round++) {
      const count = Math.floor(random() * 10)
      const output = Array.from({ length: count }, () => pick(random, bits)).join('')
      const startsInside = random() < 0.5
      const parts = cut(output, random)
      expect(split(parts, startsInside), JSON.stringify(parts)).toEqual(
        split([output], startsInside),
      )
      expect(split([...output], startsInside)).toEqual(split([output], startsInside))
    }
  })

  it('takes 100,000 blank tokens in a moment', () => {
    const splitter = new ThinkingSplitter({ startsInside: true })
    for (let i = 0; i < 100_000; i++) splitter.push(i === 9 ? 'a' : '\n')
    expect(splitter.end()).toHaveLength(1)
  })
})

describe('promptEndsInsideThinking', () => {
  it.each<[string, boolean]>([
    ['<role>ASSISTANT</role><think>\n', true],
    ['<role>ASSISTANT</role><think>', true],
    ['<role>ASSISTANT</role>', false],
    ['<role>ASSISTANT</role><think>\n\n</think>\n\n', false],
    ['', false],
  ])('%j: %s', (prompt, inside) => expect(promptEndsInsideThinking(prompt)).toBe(inside))
})

function cut(text: string, random: () => number): string[] {
  const parts: string[] = []
  for (let at = 0; at < text.length; ) {
    const length = Math.floor(random() * 4)
    parts.push(text.slice(at, at + length))
    at += length
  }
  return parts
}
