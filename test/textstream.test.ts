/** A stream shows whole characters as soon as they are whole, and in all what decoding at once shows. */
import { describe, expect, it } from 'vitest'
import { TextStream } from '../src/model/textstream.js'
import { openTokenizer } from '../src/model/tokenizer.js'
import { awkwardText, randomFrom } from './random.js'

const tokenizer = openTokenizer(new URL('../models/ring-tiny/', import.meta.url).pathname)

function streamed(ids: Iterable<number>): string[] {
  const stream = new TextStream(tokenizer)
  return [...Array.from(ids, (id) => stream.push(id)), stream.end()]
}

describe('TextStream', () => {
  it('holds the bytes of an emoji until the last one', () => {
    expect(streamed(tokenizer.encode('🎉!'))).toEqual(['', '', '', '🎉', '!', ''])
  })

  it('says U+FFFD when the sequence ends within a character', () => {
    expect(streamed([97, 0xf0, 0x9f])).toEqual(['a', '', '', '\ufffd'])
  })

  it('says U+FFFD for a broken character as soon as the next one begins', () => {
    expect(streamed([0xf0, 97])).toEqual(['', '\ufffda', ''])
  })

  it('shows no control token, not even between the bytes of a character', () => {
    expect(streamed([0xc3, 1021, 0xa9, 1019])).toEqual(['', '', 'é', '', ''])
  })

  it('shows think tags', () => expect(streamed([1022, 1023]).join('')).toBe('<think></think>'))

  it('is as new after its end', () => {
    const stream = new TextStream(tokenizer)
    expect([stream.push(0xf0), stream.end(), stream.push(97), stream.end()]).toEqual([
      '',
      '\ufffd',
      'a',
      '',
    ])
  })

  it('equals decoding at once for any text', () => {
    const random = randomFrom(2)
    for (let round = 0; round < 300; round++) {
      const ids = tokenizer.encode(awkwardText(random, 20))
      expect(streamed(ids).join('')).toBe(tokenizer.decode(ids))
    }
  })

  it('equals decoding at once for any ids, those beyond the vocabulary included', () => {
    const random = randomFrom(3)
    for (let round = 0; round < 500; round++) {
      // Half of them lone bytes, so that most characters are broken or split over tokens.
      const ids = Array.from({ length: 30 }, () =>
        Math.floor(random() * (random() < 0.5 ? 256 : 1100)),
      )
      expect(streamed(ids).join('')).toBe(tokenizer.decode(ids))
    }
  })
})
