// Calls of tools in an answer: what is one and what is text, however the answer is cut, and which tokens
// belong to the text. Cuts come from a fixed seed.
import { describe, expect, it } from 'vitest'
import { openTokenizer, type Tokenizer } from '../src/model/tokenizer.js'
import { CallFinder } from '../src/serve/calls.js'
import { AnswerReader, type Delta } from '../src/serve/reader.js'
import { Dice } from './dice.js'
import { ringTiny } from './paths.js'

const names = ['add', 'look.up']
const open = '<tool_call>\n'
const close = '\n</tool_call>'
const add = '{"name": "add", "arguments": {"a": 1, "b": [2, "}"]}}'
const addCall = { name: 'add', arguments: '{"a": 1, "b": [2, "}"]}' }

/** Texts joined where they follow each other, and calls, of an answer that comes in these parts. */
function found(parts: readonly string[], begun = '', isSingle = false) {
  const finder = new CallFinder({ names, begun, ended: '', isSingle })
  const given = [...parts.flatMap((part) => finder.push(part)), ...finder.end()]
  const all: (string | object)[] = []
  for (const part of given) {
    const last = all.at(-1)
    if (part.kind === 'call') all.push(part.call)
    else if (typeof last === 'string') all[all.length - 1] = last + part.text
    else all.push(part.text)
  }
  return all
}

describe('an answer with calls', () => {
  it('gives them apart from the text, without the white space around them', () => {
    const answer = `One moment.\n\n${open}${add}${close}\n${open}${add}${close}\nDone. `
    expect(found([answer])).toEqual(['One moment.', addCall, addCall, 'Done. '])
    expect(found([`${open}${add}${close}\n`])).toEqual([addCall])
  })

  it('keeps the arguments as they were written, every digit', () => {
    const given = '{ "id": 12345678901234567890, "x": 1e400 }'
    const call = `{"arguments": ${given} , "name": "look.up", "arg": {"arguments": 1}}`
    expect(found([`<tool_call>${call}</tool_call>`])).toEqual([
      { name: 'look.up', arguments: given },
    ])
  })

  it('may write the arguments as text, or have none', () => {
    expect(found([`${open}{"name": "add", "arguments": "{\\"a\\": 1}"}${close}`])).toEqual([
      { name: 'add', arguments: '{"a": 1}' },
    ])
    expect(found([`${open}{"name": "add"}${close}`])).toEqual([{ name: 'add', arguments: '{}' }])
  })

  it('may have the closing tag inside a text', () => {
    const given = '{"t": "\\"</tool_call>"}'
    expect(found([`${open}{"name": "add", "arguments": ${given}}${close}`])).toEqual([
      { name: 'add', arguments: given },
    ])
  })

  it.each([
    ['no JSON', `${open}{"name": "add", ${close}`],
    ['a name that is not offered', `${open}{"name": "rm", "arguments": {}}${close}`],
    ['no name', `${open}{"arguments": {}}${close}`],
    ['arguments that are a list', `${open}{"name": "add", "arguments": [1]}${close}`],
    ['arguments that are other text', `${open}{"name": "add", "arguments": "a"}${close}`],
    ['no end', `${open}${add}</tool_cal`],
    ['a text without end', `${open}{"name": "add${close} and so on`],
    ['only half a tag', 'a < b \n<tool_'],
    ['nothing but white space', ' \n '],
  ])('is text where a call has %s', (_what, text) => {
    expect(found([`Well: ${text}`])).toEqual([`Well: ${text}`])
    expect(found([text])).toEqual([text])
  })

  it('goes on with a call that the prompt has begun', () => {
    const begun = '<tool_call>\n{"name": "'
    expect(found(['add", "argu', `ments": {}}${close}`], begun)).toEqual([
      { name: 'add', arguments: '{}' },
    ])
    expect(found(['I would rather not.'], begun)).toEqual([`${begun}I would rather not.`])
  })

  it('ends with its first call where only one is wanted', () => {
    expect(found([`a${open}${add}${close}b${open}${add}${close}`], '', true)).toEqual([
      'a',
      addCall,
    ])
  })

  it('is the same however it is cut', () => {
    const dice = new Dice(23)
    const blocks = [open, close, add, '{"name": "rm"}', 'text', '"', ' \n', '<tool', '</tool_call>']
    let calls = 0
    for (let round = 0; round < 600; round += 1) {
      const right = dice.below(2) === 0 ? `${open}${add}${close}` : ''
      const text = Array.from({ length: 6 }, () => dice.pick(blocks)).join('') + right
      const parts: string[] = []
      for (let rest = text; rest !== ''; ) {
        const length = 1 + dice.below(9)
        parts.push(rest.slice(0, length))
        rest = rest.slice(length)
      }
      const whole = found([text])
      calls += whole.filter((part) => typeof part === 'object').length
      expect(found(parts)).toEqual(whole)
    }
    expect(calls).toBeGreaterThan(100)
  })
})

describe('the tokens of an answer with calls', () => {
  const tokenizer = openTokenizer(ringTiny)

  function read(tokens: Iterable<number>, stops: readonly string[] = [], of = tokenizer) {
    const reader = new AnswerReader(of, {
      thinking: { startsInside: false },
      calls: { names, begun: '', ended: '', isSingle: false },
      stopIds: [],
      stops,
    })
    const deltas: Delta[] = []
    for (const token of tokens) {
      deltas.push(...reader.push({ token, logprob: -1, top: [] }))
      if (reader.isStopped) break
    }
    deltas.push(...reader.end())
    const texts = deltas.flatMap((delta) => (delta.kind === 'text' ? [delta] : []))
    return {
      reader,
      calls: deltas.filter(({ kind }) => kind === 'call').length,
      text: texts.map(({ text }) => text).join(''),
      tokens: of.decode(texts.flatMap((delta) => delta.tokens.map(({ token }) => token))),
    }
  }

  it('are those of its text', () => {
    const text = `<think>\nadd\n</think>\n\nSo be it: ${open}${add}${close}\nDone.`
    const { calls, text: given, tokens } = read(tokenizer.encode(text))
    expect(calls).toBe(1)
    expect(given).toBe('So be it:Done.')
    expect(tokens.replace(/\s/g, '')).toBe('Sobeit:Done.')
  })

  it('end before a stop text also in what was held back for a call', () => {
    const text = `Well: ${open}{"name": "rm", "arguments": {"a": "one two three"}}${close}`
    const { calls, text: given, tokens, reader } = read(tokenizer.encode(text), ['two'])
    expect(calls).toBe(0)
    expect(reader.stop).toBe('two')
    expect(given).toBe(text.slice(0, text.indexOf('two')))
    // A token may reach into the stop text, but begins before it.
    expect(tokens.startsWith(given)).toBe(true)
    expect(text.startsWith(tokens)).toBe(true)
    expect(tokens.length).toBeLessThanOrEqual(given.length + 'two'.length)
  })

  it('are not searched for stop texts within a call', () => {
    const text = `Well. ${open}${add}${close}\nThe end.`
    const { calls, text: given } = read(tokenizer.encode(text), ['"b"', 'end'])
    expect(calls).toBe(1)
    expect(given).toBe('Well.The ')
  })

  it('may be tags that the tokenizer counts among its control tokens', () => {
    const ids = { '<tool_call>': tokenizer.size, '</tool_call>': tokenizer.size + 1 }
    const special: Tokenizer = {
      size: tokenizer.size + 2,
      encode: (text) => tokenizer.encode(text),
      bytesOf: (id) => tokenizer.bytesOf(id),
      isSpecial: (id) => id >= tokenizer.size || tokenizer.isSpecial(id),
      decode: (all, options) => tokenizer.decode(all, options),
      idOf: (text) => (text in ids ? ids[text as keyof typeof ids] : tokenizer.idOf(text)),
    }
    const tokens = [ids['<tool_call>'], ...tokenizer.encode(add), ids['</tool_call>']]
    const { calls, text } = read(tokens, [], special)
    expect(calls).toBe(1)
    expect(text).toBe('')
  })
})
