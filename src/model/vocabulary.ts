/**
 * What tokenizer.json holds, checked before anything is computed with it: the pieces of a BPE
 * vocabulary with their ids, the merges, the added tokens, and the stages around them. It must not
 * know how text is encoded. The file comes from strangers and the encoder behind it skips what it
 * does not understand, so stages it would get silently wrong are refused here by name.
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { occursInText, SYMBOL_OF_BYTE } from './bytelevel.js'
import { ModelError, shown } from './error.js'
import { isRecord, parseObject } from './json.js'
import { readText } from './window.js'

/** Ring-1T's file has 7.7 MB. */
const FILE_BYTES_MAX = 64 * 2 ** 20
/** Ids from here on are refused: no model has so many, and tables are as long as the largest id. */
const ID_LIMIT = 2 ** 24
const ID_RANGE = `a whole number from 0 to ${ID_LIMIT - 1}`
/** Characters of JSON in one stage; the longest pattern in use has some 500. */
const STAGE_CHARS_MAX = 2 ** 16
/** Stages the encoder follows faithfully, by section of the file. */
const STAGES: Readonly<Record<string, readonly string[]>> = {
  normalizer: ['NFC', 'NFD', 'NFKC', 'NFKD', 'Lowercase', 'Strip', 'Prepend', 'Replace'],
  pre_tokenizer: ['Split', 'ByteLevel', 'Digits', 'Metaspace', 'WhitespaceSplit'],
  decoder: ['ByteLevel', 'ByteFallback', 'Fuse', 'Metaspace', 'Replace', 'Strip'],
}

/** A token that stands in text under its own name; `special` ones are control, shown to nobody. */
interface AddedToken {
  readonly id: number
  readonly content: string
  readonly special: boolean
}

/** A checked tokenizer.json. */
export interface Vocabulary {
  /** The string of each id, in the file's own alphabet; undefined where an id is not used. */
  readonly pieces: readonly (string | undefined)[]
  readonly ids: ReadonlyMap<string, number>
  readonly added: ReadonlyMap<number, AddedToken>
  /** Whether pieces are written in the byte alphabet (see bytelevel.ts). */
  readonly isByteLevel: boolean
  /** The file's content with unknown keys left out, for the encoder. */
  readonly definition: Readonly<Record<string, unknown>>
}

/** Reads FOLDER/tokenizer.json. Throws ModelError when it is missing, damaged, absurd or no BPE. */
export function readVocabulary(folder: string): Vocabulary {
  const path = join(folder, 'tokenizer.json')
  if (!existsSync(path)) {
    throw new ModelError(
      `text needs tokenizer.json in ${folder}, which has none; score with token ids works without`,
    )
  }
  return parseVocabulary(readText(path, FILE_BYTES_MAX))
}

function parseVocabulary(text: string): Vocabulary {
  const file = parseObject(text, 'tokenizer.json')
  const model = bpeModel(file.model)
  const added = addedTokens(file.added_tokens)
  const { pieces, ids } = numbered(model.vocab, added)
  const stages = {
    normalizer: stage('normalizer', file.normalizer),
    pre_tokenizer: stage('pre_tokenizer', file.pre_tokenizer),
    decoder: stage('decoder', file.decoder),
  }
  const isByteLevel = hasStage(stages.decoder, 'ByteLevel')
  if (isByteLevel !== hasStage(stages.pre_tokenizer, 'ByteLevel')) {
    fail('ByteLevel', 'in both pre_tokenizer and decoder or in neither', 'it in one of them')
  }
  if (isByteLevel) checkAlphabet(ids)
  checkMerges(model.merges, ids)
  return {
    pieces,
    ids,
    added: new Map(added.map((token) => [token.id, token])),
    isByteLevel,
    // Without a post-processor no begin or end token is ever added: that is the template's part.
    definition: { ...stages, model, added_tokens: file.added_tokens ?? [], post_processor: null },
  }
}

function fail(what: string, expected: string, found: string): never {
  throw new ModelError(`tokenizer.json: ${what} must be ${expected}, found ${found}`)
}

interface BpeModel {
  readonly type: 'BPE'
  readonly vocab: Record<string, unknown>
  readonly merges: readonly (readonly [string, string])[]
  readonly unk_token: string | null
  readonly fuse_unk: boolean
  readonly byte_fallback: boolean
  readonly ignore_merges: boolean
}

function bpeModel(model: unknown): BpeModel {
  if (!isRecord(model)) fail('model', 'an object', shown(model))
  if (model.type !== 'BPE') fail('model.type', '"BPE"', shown(model.type))
  for (const affix of ['continuing_subword_prefix', 'end_of_word_suffix']) {
    if (model[affix] !== undefined && model[affix] !== null && model[affix] !== '') {
      fail(`model.${affix}`, 'empty', shown(model[affix]))
    }
  }
  if (!isRecord(model.vocab)) fail('model.vocab', 'an object', shown(model.vocab))
  if (!Array.isArray(model.merges)) fail('model.merges', 'a list', shown(model.merges))
  const unknown = model.unk_token ?? null
  if (unknown !== null && typeof unknown !== 'string') {
    fail('model.unk_token', 'a string or null', shown(unknown))
  }
  return {
    type: 'BPE',
    vocab: model.vocab,
    merges: model.merges.map(mergePair),
    unk_token: unknown,
    fuse_unk: model.fuse_unk === true,
    byte_fallback: model.byte_fallback === true,
    ignore_merges: model.ignore_merges === true,
  }
}

/** One merge, written as "left right" or, in newer files, as ["left", "right"]. */
function mergePair(merge: unknown, rank: number): readonly [string, string] {
  const parts: unknown = typeof merge === 'string' ? merge.split(' ') : merge
  if (Array.isArray(parts) && parts.length === 2) {
    const [left, right]: unknown[] = parts
    if (typeof left === 'string' && typeof right === 'string' && left !== '' && right !== '') {
      return [left, right]
    }
  }
  return fail(`model.merges[${rank}]`, 'two pieces', shown(merge))
}

function addedTokens(list: unknown): AddedToken[] {
  if (list === undefined || list === null) return []
  if (!Array.isArray(list)) fail('added_tokens', 'a list', shown(list))
  return list.map((token: unknown, index) => {
    const name = `added_tokens[${index}]`
    if (!isRecord(token)) fail(name, 'an object', shown(token))
    const { id, content } = token
    if (typeof content !== 'string' || content === '') {
      fail(`${name}.content`, 'text', shown(content))
    }
    if (!isId(id)) fail(`${name}.id`, ID_RANGE, shown(id))
    return { id, content, special: token.special === true }
  })
}

function isId(id: unknown): id is number {
  return typeof id === 'number' && Number.isInteger(id) && id >= 0 && id < ID_LIMIT
}

/**
 * Both directions between strings and ids. An added token may stand in the vocabulary too, under
 * the same id; every other repetition, of a string or of an id, is refused.
 */
function numbered(vocab: Record<string, unknown>, added: readonly AddedToken[]) {
  const ids = new Map<string, number>()
  const pieces: (string | undefined)[] = []
  const enter = (piece: string, id: number) => {
    const known = ids.get(piece)
    if (known !== undefined && known !== id) {
      fail(`token ${shown(piece)}`, 'one id', `${known} and ${id}`)
    }
    const owner = pieces[id]
    if (owner !== undefined && owner !== piece) {
      fail(`id ${id}`, 'of one token', `${shown(owner)} and ${shown(piece)}`)
    }
    ids.set(piece, id)
    pieces[id] = piece
  }
  for (const piece of Object.keys(vocab)) {
    const id = vocab[piece]
    if (!isId(id)) fail(`model.vocab[${shown(piece)}]`, ID_RANGE, shown(id))
    enter(piece, id)
  }
  if (ids.size === 0) fail('model.vocab', 'filled', 'no token')
  for (const token of added) enter(token.content, token.id)

  // A few unused ids happen; a table of mostly unused ones is a damaged or hostile file.
  if (pieces.length > 2 * ids.size + 1024) {
    fail('the largest id', `near the number of tokens (${ids.size})`, String(pieces.length - 1))
  }
  return { ids, pieces }
}

/** The encoder drops what it cannot spell without a word, so every byte of text needs a token. */
function checkAlphabet(ids: ReadonlyMap<string, number>): void {
  const missing = SYMBOL_OF_BYTE.findIndex((symbol, byte) => occursInText(byte) && !ids.has(symbol))
  if (missing >= 0) {
    fail('model.vocab', 'able to spell every byte', `no token for byte ${missing}`)
  }
}

function checkMerges(merges: BpeModel['merges'], ids: ReadonlyMap<string, number>): void {
  for (const [left, right] of merges) {
    const missing = [left, right, left + right].find((piece) => !ids.has(piece))
    if (missing !== undefined) {
      fail(`merge ${shown(`${left} ${right}`)}`, 'of known tokens', `no token ${shown(missing)}`)
    }
  }
}

/** A stage of text processing, or null: known types only, of sane size. */
function stage(section: string, value: unknown): Record<string, unknown> | null {
  if (value === undefined || value === null) return null
  if (!isRecord(value)) fail(section, 'an object or null', shown(value))
  let chars: number
  try {
    chars = JSON.stringify(value).length
  } catch {
    chars = Infinity // nested deeper than the stack is
  }
  if (chars > STAGE_CHARS_MAX) {
    fail(section, `at most ${STAGE_CHARS_MAX} characters of JSON`, String(chars))
  }
  for (const step of stepsOf(value)) checkStep(section, step)
  return value
}

/** The steps of a stage in order, nested sequences unfolded. */
function stepsOf(stage: unknown): Record<string, unknown>[] {
  if (!isRecord(stage)) return []
  if (stage.type !== 'Sequence') return [stage]
  const steps = stage.normalizers ?? stage.pretokenizers ?? stage.decoders
  return Array.isArray(steps) ? steps.flatMap(stepsOf) : []
}

function hasStage(stage: Record<string, unknown> | null, type: string): boolean {
  return stepsOf(stage).some((step) => step.type === type)
}

function checkStep(section: string, step: Record<string, unknown>): void {
  const known = STAGES[section] ?? []
  if (typeof step.type !== 'string' || !known.includes(step.type)) {
    fail(`${section}.type`, `one of ${[...known, 'Sequence'].join(', ')}`, shown(step.type))
  }
  if (step.type === 'Split' || step.type === 'Replace') {
    const pattern = isRecord(step.pattern) ? (step.pattern.Regex ?? step.pattern.String) : undefined
    if (typeof pattern !== 'string') {
      fail(`${section} ${step.type}.pattern`, 'a Regex or a String', shown(pattern))
    }
  }
  if (step.type === 'Split') {
    const isFaithful =
      step.behavior === 'Removed' || (step.behavior === 'Isolated' && step.invert !== true)
    if (!isFaithful) {
      fail('pre_tokenizer Split.behavior', 'Isolated or Removed', shown(step.behavior))
    }
  }
}
