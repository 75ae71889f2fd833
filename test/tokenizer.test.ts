/**
 * The tokenizer gives the ids that the independent reference gave, loses no character, and takes
 * no tokenizer.json that it could not follow exactly.
 */
import fs from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { ModelError } from '../src/model/error.js'
import { openTokenizer, type Tokenizer } from '../src/model/tokenizer.js'
import { awkwardText, randomFrom } from './random.js'

const RING_TINY = new URL('../models/ring-tiny/', import.meta.url).pathname
const GOLDENS = new URL('./fixtures/goldens/', import.meta.url).pathname

interface Golden {
  text: string
  ids: number[]
  greedy: { ids: number[]; text: string }
}

const goldens = fs.readdirSync(GOLDENS).filter((file) => /^(chat|raw)-.*\.json$/.test(file))
const golden = (file: string): Golden => JSON.parse(fs.readFileSync(join(GOLDENS, file), 'utf8'))
const tokenizer = openTokenizer(RING_TINY)

/** What each token of `text` stands for, control tokens included. */
function piecesOf(text: string, by: Tokenizer = tokenizer): string[] {
  return [...by.encode(text)].map((id) => by.decode([id], { keepSpecial: true }))
}

describe('against the reference', () => {
  it('finds the goldens', () => expect(goldens.length).toBe(12))

  it.each(goldens)('%s: encodes the prompt to the same ids', (file) => {
    const { text, ids } = golden(file)
    expect([...tokenizer.encode(text)]).toEqual(ids)
  })

  it.each(goldens)('%s: decodes the continuation to the same text', (file) => {
    const { greedy } = golden(file)
    expect(tokenizer.decode(greedy.ids, { keepSpecial: true })).toBe(greedy.text)
  })
})

describe('splitting by the pattern of the Ring family', () => {
  it.each([
    ["don't we'll I've", ['d', 'on', "'t", ' we', "'ll", ' I', "'", 've']],
    ["DON'T WE'LL", ['D', 'O', 'N', "'", 'T', ' W', 'E', "'", 'L', 'L']],
    ['12345', ['1', '2', '3', '4', '5']],
    ['a\n\n\nb', ['a', '\n\n', '\n', 'b']],
    ['x  y   z', ['x', ' ', ' y', '  ', ' z']],
    ['\tif (x)\r\n', ['\t', 'i', 'f', ' (', 'x', ')', '\r', '\n']],
    ['!!\n\nok', ['!', '!\n\n', 'ok']],
  ])('%j as the reference does', (text, pieces) => {
    expect(piecesOf(text)).toEqual(pieces)
  })

  it('takes contractions as one word in both cases', () => {
    const merges = ["' s", "' S", "' l", "'l l", "' L", "'L L"]
    const words = openFile(withMerges(merges))
    expect(piecesOf("x'sy", words)).toEqual(['x', "'s", 'y'])
    expect(piecesOf("x'Sy", words)).toEqual(['x', "'S", 'y'])
    expect(piecesOf("x'lly", words)).toEqual(['x', "'ll", 'y'])
    expect(piecesOf("x'LLy", words)).toEqual(['x', "'LL", 'y'])
  })

  it('never joins digits, not even where a merge would', () => {
    const digits = openFile(withMerges(['1 2', '12 3']))
    expect(piecesOf('123', digits)).toEqual(['1', '2', '3'])
  })
})

describe('tokens', () => {
  it('knows how many ids exist', () => expect(tokenizer.size).toBe(1024))

  it('turns the names of added tokens into their ids', () => {
    expect([...tokenizer.encode('<role>a</role><think>')]).toEqual([1019, 97, 1020, 1022])
    expect(tokenizer.idOf('<think>')).toBe(1022)
    expect(tokenizer.idOf('no such token')).toBeNull()
  })

  it('adds no begin and no end token', () => expect(tokenizer.encode('')).toHaveLength(0))

  it('tells control tokens from think tags and words', () => {
    expect([1019, 1021, 1022, 1023, 97].map((id) => tokenizer.isSpecial(id))).toEqual([
      true,
      true,
      false,
      false,
      false,
    ])
  })

  it('leaves control tokens out of text unless asked', () => {
    expect(tokenizer.decode([1022, 97, 1021])).toBe('<think>a')
    expect(tokenizer.decode([1022, 97, 1021], { keepSpecial: true })).toBe('<think>a<|role_end|>')
  })

  it('gives the raw bytes of parts of characters', () => {
    expect([...tokenizer.bytesOf(240)]).toEqual([0xf0])
    expect([...tokenizer.bytesOf(32)]).toEqual([0x20])
    expect(new TextDecoder().decode(tokenizer.bytesOf(1021))).toBe('<|role_end|>')
  })

  it.each([1024, 2 ** 31, -1])('has no bytes for id %d, which does not exist', (id) => {
    expect(tokenizer.bytesOf(id)).toHaveLength(0)
    expect(tokenizer.isSpecial(id)).toBe(false)
    expect(tokenizer.decode([97, id, 98])).toBe('ab')
  })
})

describe('round trips', () => {
  it('gives back any text, character by character', () => {
    const random = randomFrom(1)
    for (let round = 0; round < 500; round++) {
      const text = awkwardText(random, 20)
      expect(tokenizer.decode(tokenizer.encode(text), { keepSpecial: true })).toBe(text)
    }
  })

  it('writes unpaired surrogates as U+FFFD', () => {
    expect(tokenizer.decode(tokenizer.encode('a\ud83cb'))).toBe('a\ufffdb')
  })

  it('keeps what a clean-up of spaces would change', () => {
    expect(tokenizer.decode(tokenizer.encode("it 's ok ."))).toBe("it 's ok .")
  })
})

describe('a tokenizer whose decoder is not byte-level', () => {
  const metaspace = { type: 'Metaspace', replacement: '▁', prepend_scheme: 'never' }
  const words = openFile({
    model: { type: 'BPE', vocab: { '▁': 0, a: 1, '▁a': 2 }, merges: ['▁ a'] },
    pre_tokenizer: metaspace,
    decoder: metaspace,
  })

  it('decodes a whole text by the rules of its file', () => {
    expect([...words.encode('a a')]).toEqual([1, 2])
    expect(words.decode([1, 2])).toBe('a a')
  })

  it('takes as bytes of a token what it decodes to alone, so without the leading space', () => {
    expect(new TextDecoder().decode(words.bytesOf(2))).toBe('a')
  })
})

describe('a file from a stranger', () => {
  it('may be missing where only token ids are used', () => {
    inFolder((folder) => {
      expect(() => openTokenizer(folder)).toThrow(
        new ModelError(
          `text needs tokenizer.json in ${folder}, which has none; score with token ids works without`,
        ),
      )
    })
  })

  it('is refused beyond 64 MB', () => {
    inFolder((folder) => {
      fs.writeFileSync(join(folder, 'tokenizer.json'), '')
      fs.truncateSync(join(folder, 'tokenizer.json'), 64 * 2 ** 20 + 1)
      expect(() => openTokenizer(folder)).toThrow(/expected at most 67108864 bytes/)
    })
  })

  it('is refused when it is a folder', () => {
    inFolder((folder) => {
      fs.mkdirSync(join(folder, 'tokenizer.json'))
      expect(() => openTokenizer(folder)).toThrow(ModelError)
    })
  })

  it('is refused when it is cut short', () => {
    const text = fs.readFileSync(join(RING_TINY, 'tokenizer.json'), 'utf8')
    expect(() => openText(text.slice(0, text.length / 2))).toThrow(/^tokenizer.json: expected JSON/)
  })

  it.each<[string, (file: TokenizerFile) => void, string]>([
    [
      'another model',
      (f) => set(f.model, 'type', 'Unigram'),
      'model.type must be "BPE", found "Unigram"',
    ],
    [
      'no vocabulary',
      (f) => set(f.model, 'vocab', null),
      'model.vocab must be an object, found null',
    ],
    [
      'a word suffix',
      (f) => set(f.model, 'end_of_word_suffix', '</w>'),
      'model.end_of_word_suffix must be empty',
    ],
    [
      'a negative id',
      (f) => set(f.model.vocab, 'a', -1),
      'model.vocab["a"] must be a whole number from 0',
    ],
    [
      'a fractional id',
      (f) => set(f.model.vocab, 'a', 0.5),
      'model.vocab["a"] must be a whole number',
    ],
    [
      'an id beyond 2^24',
      (f) => set(f.model.vocab, 'a', 2 ** 24),
      'model.vocab["a"] must be a whole number',
    ],
    [
      'a lonely large id',
      (f) => set(f.model.vocab, 'zz', 1e7),
      'the largest id must be near the number',
    ],
    ['an id taken twice', (f) => set(f.model.vocab, 'zz', 98), 'id 98 must be of one token'],
    [
      'a string with two ids',
      (f) => set(f.model.vocab, '<think>', 1024),
      'token "<think>" must be one id',
    ],
    [
      'an added token without text',
      (f) => set(f.added_tokens[0], 'content', ''),
      'added_tokens[0].content must be text',
    ],
    [
      'an added token on a taken id',
      (f) => set(f.added_tokens[0], 'id', 97),
      'id 97 must be of one token',
    ],
    [
      'a merge of three',
      (f) => set(f.model.merges, 0, 'a b c'),
      'model.merges[0] must be two pieces',
    ],
    [
      'a merge into nothing',
      (f) => set(f.model.merges, 0, 'Q Q'),
      'merge "Q Q" must be of known tokens',
    ],
    [
      'a byte without token',
      (f) => rename(f.model.vocab, '!', 'zz'),
      'model.vocab must be able to spell every byte, found no token for byte 33',
    ],
    [
      'an endless stage',
      (f) => set(f, 'pre_tokenizer', { type: 'FixedLength', length: 0 }),
      'pre_tokenizer.type must be one of',
    ],
    [
      'a split it would get wrong',
      (f) => set(f.pre_tokenizer.pretokenizers[0], 'behavior', 'MergedWithNext'),
      'pre_tokenizer Split.behavior must be Isolated or Removed',
    ],
    [
      'a split without pattern',
      (f) => set(f.pre_tokenizer.pretokenizers[0], 'pattern', {}),
      'pre_tokenizer Split.pattern must be',
    ],
    [
      'a pattern that is none',
      (f) => set(f.pre_tokenizer.pretokenizers[0], 'pattern', { Regex: '(' }),
      'cannot be used: Invalid regular expression',
    ],
    [
      'an absurd stage',
      (f) => set(f, 'normalizer', { type: 'Prepend', prepend: 'x'.repeat(2 ** 16) }),
      'normalizer must be at most 65536 characters',
    ],
    [
      'half a byte level',
      (f) => set(f, 'decoder', null),
      'ByteLevel must be in both pre_tokenizer and decoder',
    ],
  ])('is refused with %s', (_, damage, message) => {
    const file = ringTinyFile()
    damage(file)
    expect(() => openFile(file)).toThrow(ModelError)
    expect(() => openFile(file)).toThrow(`tokenizer.json: ${message}`)
  })

  it('may write its merges as pairs', () => {
    const file = ringTinyFile()
    file.model.merges = file.model.merges.map((merge) => String(merge).split(' '))
    expect([...openFile(file).encode(golden('raw-mixed.json').text)]).toEqual(
      golden('raw-mixed.json').ids,
    )
  })

  it('may leave a few ids unused, which then have no bytes', () => {
    const file = ringTinyFile()
    set(file.model.vocab, 'zz', 1030)
    const opened = openFile(file)
    expect(opened.size).toBe(1031)
    expect(opened.bytesOf(1027)).toHaveLength(0)
  })
})

/** A model folder for as long as `use` runs. */
function inFolder<Result>(use: (folder: string) => Result): Result {
  const folder = fs.mkdtempSync(join(os.tmpdir(), 'ring-'))
  try {
    return use(folder)
  } finally {
    fs.rmSync(folder, { recursive: true })
  }
}

function openText(text: string): Tokenizer {
  return inFolder((folder) => {
    fs.writeFileSync(join(folder, 'tokenizer.json'), text)
    return openTokenizer(folder)
  })
}

function openFile(content: object): Tokenizer {
  return openText(JSON.stringify(content))
}

interface TokenizerFile {
  model: { vocab: Record<string, number>; merges: unknown[] }
  added_tokens: object[]
  pre_tokenizer: { pretokenizers: object[] }
}

function ringTinyFile(): TokenizerFile {
  return JSON.parse(fs.readFileSync(join(RING_TINY, 'tokenizer.json'), 'utf8'))
}

/** The file of ring-tiny with other merges and no more pieces than they need. */
function withMerges(merges: string[]): TokenizerFile {
  const file = ringTinyFile()
  const pieces = [...Object.keys(file.model.vocab).slice(0, 256)]
  for (const merge of merges) pieces.push(merge.replace(' ', ''))
  file.model.merges = merges
  file.model.vocab = Object.fromEntries(pieces.map((piece, id) => [piece, id]))
  file.added_tokens = []
  return file
}

function set(target: object | undefined, key: string | number, value: unknown): void {
  if (target === undefined) throw new RangeError(`nothing to change for ${key}`)
  Object.assign(target, { [key]: value })
}

function rename(vocab: Record<string, number>, from: string, to: string): void {
  set(vocab, to, vocab[from])
  delete vocab[from]
}
