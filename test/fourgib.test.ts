// One file longer than 4 GiB: tensors that lie across 2 and 4 GiB are read whole and from the right
// place, into slots, into resident memory and through maps. The weights are those of ring-tiny, but
// for marks: bytes at the borders that were changed. Between them lie holes. The same weights in
// small files say what must come out.
import { closeSync, mkdtempSync, openSync, rmSync, statSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { OpenWishes } from '../src/engine/open.js'
import { openCheckpoint } from '../src/model/checkpoint.js'
import { widen } from '../src/model/widen.js'
import { dtypeBytes, type NewCheckpoint, type NewTensor, planShards } from '../src/model/writer.js'
import { withModel } from './drive.js'
import { tinyGoldens } from './goldens.js'
import { type Continuation, continuation } from './logits.js'
import { ringTiny } from './paths.js'
import { written } from './written.js'

const gibibyte = 2 ** 30
/** Shards of so many bytes: all tensors lie in one. */
const wholeBytes = 2 ** 40
const folder = mkdtempSync(join(tmpdir(), 'ring-'))
afterAll(() => rmSync(folder, { recursive: true }))

/** A hole before one tensor, so long that a place in that tensor or in one after it lies at `at`. */
interface Crossing {
  readonly at: number
  readonly holeBefore: string
  readonly tensor: string
  readonly index: number
}

const experts = 'model.layers.3.mlp.experts'
const matrixBytes = 128 * 256
const embeddingBytes = 1024 * 256 * 2

/** An expert's matrix lies across the place. */
function across(tensor: string, bytes: number, at: number): Crossing {
  return { at, holeBefore: tensor, tensor, index: bytes / 2 }
}

const layouts: readonly [title: string, crossings: readonly Crossing[]][] = [
  [
    'experts',
    [
      across(`${experts}.11.up_proj.weight`, matrixBytes, 2 * gibibyte),
      across(`${experts}.20.down_proj.weight`, matrixBytes, 4 * gibibyte),
    ],
  ],
  [
    'scales and dense weights',
    [
      {
        at: 2 * gibibyte,
        holeBefore: `${experts}.14.down_proj.weight_scale_inv`,
        tensor: `${experts}.15.gate_proj.weight_scale_inv`,
        index: 0,
      },
      across('model.word_embeddings.weight', embeddingBytes, 4 * gibibyte),
    ],
  ],
]

const ways: readonly [title: string, wishes: OpenWishes][] = [
  ['mapped', { loadMode: 'mapped' }],
  ['mapped, with a budget', { loadMode: 'mapped', expertRam: { share: 0.25 } }],
  ...(['automatic', 'uring', 'threads', 'buffered'] as const).map((rung): [string, OpenWishes] => [
    `in slots, read by ${rung}`,
    { loadMode: 'direct', expertRam: { share: 0.25 }, reads: { rung } },
  ]),
]

const long = tinyGoldens.find((one) => one.golden.name === 'raw-prose-long')?.golden.ids ?? []
/** So many tokens want every expert, and the last two are the rows around the embedding's middle. */
const prompt = [...long, 511, 512]

function outcome(model: string, wishes: OpenWishes): Continuation {
  return withModel(model, { threads: 2, ...wishes }, (opened) => continuation(opened, prompt, 4))
}

describe.each(layouts)('across 2 and 4 GiB: %s', (title, crossings) => {
  const plain = widen(openCheckpoint(ringTiny), { hidden: 1, expert: 1 })
  const tensors = withHoles(plain.tensors, crossings)
  const places = placesIn(tensors)
  const marks = crossings.flatMap(({ at }) => [at - 1, at]).map((at) => markAt(places, at))
  const model = join(folder, title)
  let file = ''
  let expected: Continuation

  beforeAll(async () => {
    const small = join(folder, `${title}, small`)
    await written(small, marked(plain, marks))
    await written(model, marked({ ...plain, tensors }, marks), wholeBytes)
    file = openCheckpoint(model).files[0]?.path ?? ''
    expected = outcome(small, { loadMode: 'mapped' })
  })

  it('one file, longer than 4 GiB, takes some megabytes of disk', () => {
    const { size, blocks } = statSync(file)
    expect(size).toBeGreaterThan(4 * gibibyte)
    expect(blocks * 512).toBeLessThan(64e6)
    expect(openCheckpoint(model).files).toHaveLength(1)
  })

  it.each(ways)('%s: the same logits as from small files', (_title, wishes) => {
    expect(outcome(model, wishes)).toEqual(expected)
  })

  it.each(ways.slice(0, 3))('%s: each byte at a border counts', (_title, wishes) => {
    for (const mark of marks) {
      writeByte(file, mark.at, mark.original)
      expect(outcome(model, wishes).logits, `byte ${mark.at}`).not.toEqual(expected.logits)
      writeByte(file, mark.at, markByte)
    }
  })
})

/** The tensors with holes among them, when all lie in one file. */
function withHoles(tensors: readonly NewTensor[], crossings: readonly Crossing[]): NewTensor[] {
  const holes = crossings.map(({ holeBefore }): NewTensor => {
    const dtype = tensors.find(({ name }) => name === holeBefore)?.dtype ?? 'F32'
    // Tensors of a type lie in the order of their names.
    return { name: holeBefore.slice(0, -1), dtype, shape: [8], pieces: null }
  })
  const stretch = () => {
    for (const [index, { at, tensor, index: wanted }] of crossings.entries()) {
      const hole = holes[index]
      const now = placesIn([...tensors, ...holes]).get(tensor)
      if (hole === undefined || now === undefined) throw new Error(`${tensor} is not there`)
      const [elements = 0] = hole.shape
      const missing = (at - wanted - now.begin) / dtypeBytes[hole.dtype]
      holes[index] = { ...hole, shape: [elements + missing] }
    }
  }
  // More digits of a hole's size make the header longer, which moves everything; the second time only
  // the 8 bytes that a header may be filled up with can move it.
  stretch()
  stretch()
  return [...tensors, ...holes]
}

interface Extent {
  readonly tensor: NewTensor
  readonly begin: number
  readonly end: number
}

/** Where each tensor lies when all are in one file. */
function placesIn(tensors: readonly NewTensor[]): Map<string, Extent> {
  const [shard] = planShards(tensors, wholeBytes)
  if (shard === undefined) throw new Error('no file')
  const header: Record<string, { data_offsets?: number[] }> = JSON.parse(
    shard.header.toString('utf8', 8),
  )
  const extent = (tensor: NewTensor): [string, Extent] => {
    const [begin = 0, end = 0] = header[tensor.name]?.data_offsets ?? []
    const body = shard.header.length
    return [tensor.name, { tensor, begin: body + begin, end: body + end }]
  }
  return new Map(tensors.map(extent))
}

/** A byte that is changed: in the long file, and in the tensor that holds it. */
interface Mark {
  readonly at: number
  readonly name: string
  readonly index: number
  readonly original: number
}

/** As FP8, and as any byte of a BF16 or F32 number: finite, and unlike what it replaces. */
const markByte = 0x48

function markAt(places: Map<string, Extent>, at: number): Mark {
  const found = [...places.values()].find(({ begin, end }) => begin <= at && at < end)
  if (found === undefined) throw new Error(`nothing lies at ${at}`)
  const { tensor, begin } = found
  const original = bytesOf(tensor)[at - begin] ?? markByte
  if (original === markByte) throw new Error(`${tensor.name} has the mark already`)
  return { at, name: tensor.name, index: at - begin, original }
}

function marked({ config, tensors }: NewCheckpoint, marks: readonly Mark[]): NewCheckpoint {
  const one = (tensor: NewTensor): NewTensor => {
    const own = marks.filter(({ name }) => name === tensor.name)
    if (own.length === 0) return tensor
    const bytes = bytesOf(tensor)
    for (const { index } of own) bytes[index] = markByte
    return { ...tensor, pieces: () => [bytes] }
  }
  return { config, tensors: tensors.map(one) }
}

function bytesOf({ name, pieces }: NewTensor): Buffer {
  if (pieces === null) throw new Error(`${name} is a hole`)
  const copies: Buffer[] = []
  for (const piece of pieces()) copies.push(Buffer.from(piece))
  return Buffer.concat(copies)
}

function writeByte(path: string, at: number, byte: number): void {
  const descriptor = openSync(path, 'r+')
  writeSync(descriptor, Uint8Array.of(byte), 0, 1, at)
  closeSync(descriptor)
}
