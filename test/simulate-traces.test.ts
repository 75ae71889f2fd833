// Traces as the simulator reads them: the same routing that the engine's reader finds, in pieces, and
// one sentence for whatever is no trace.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { halfOf } from '../src/engine/half.js'
import { readTrace } from '../src/engine/trace.js'
import { ModelError } from '../src/model/error.js'
import { type GeneratedShape, generate } from '../src/simulate/generate.js'
import { type Routing, walk } from '../src/simulate/routing.js'
import { ScoreReader } from '../src/simulate/scores.js'
import { readRouting } from '../src/simulate/source.js'
import { withFolder } from './command.js'
import { fixtures } from './paths.js'

const recorded = join(fixtures, 'traces/ring-tiny.trace')
const qwen = join(fixtures, 'traces/public/qwen.route.csv')

function written(text: string | Buffer): Promise<Routing> {
  return withFolder(async (folder) => {
    const path = join(folder, 'some.trace')
    writeFileSync(path, text)
    return readRouting(path)
  })
}

/** The trace format, with scores and one look-ahead that nobody reads. */
function traceOf(routing: Routing): Buffer {
  const { layers, experts, topK, sequences, ids, scores } = routing
  if (scores?.kind !== 'memory') throw new Error('expected generated routing')
  const header = {
    version: 1,
    model: 'made',
    layers,
    experts,
    top_k: topK,
    id_bytes: 2,
    scores: 'f16',
    ahead: [1],
    sequences: sequences.map(({ tokens, prompt }) => ({ tokens, prompt, label: 'x' })),
  }
  const records = ids.length / topK
  const body = new Uint16Array(records * (topK + 2 * experts)).fill(halfOf(0.25))
  for (let record = 0; record < records; record += 1) {
    const at = record * (topK + 2 * experts)
    body.set(ids.subarray(record * topK, (record + 1) * topK), at)
    body.set(scores.halves.subarray(record * experts, (record + 1) * experts), at + topK)
  }
  return Buffer.concat([Buffer.from(`${JSON.stringify(header)}\n`), Buffer.from(body.buffer)])
}

describe('a recorded trace', () => {
  it('gives what the reader of the engine gives', () => {
    const routing = readRouting(recorded)
    const trace = readTrace(recorded)
    const { layers, experts, topK } = trace
    expect(routing).toMatchObject({ model: trace.model, layers, experts, topK, scores: null })
    expect(routing.sequences).toEqual(
      trace.sequences.map(({ first, tokens, prompt }) => ({ first, tokens, prompt })),
    )
    const own = new Uint16Array(topK)
    for (const sequence of trace.sequences) {
      for (let token = 0; token < sequence.tokens; token += 1) {
        for (const layer of layers.keys()) {
          trace.expertsOf(sequence, token, layer, own)
          const at = ((sequence.first + token) * layers.length + layer) * topK
          expect(routing.ids.subarray(at, at + topK)).toEqual(own)
        }
      }
    }
  })

  it('longer than is read at once comes back whole, with its scores', async () => {
    const shape: GeneratedShape = {
      layers: 20,
      experts: 300,
      topK: 5,
      sequences: 2,
      tokens: 120,
      prompt: 3,
    }
    const made = generate(11, shape)
    const bytes = traceOf(made)
    expect(bytes.length).toBeGreaterThan(5 * 2 ** 20)
    await withFolder(async (folder) => {
      const path = join(folder, 'long.trace')
      writeFileSync(path, bytes)
      const read = readRouting(path)
      expect(read.ids).toEqual(made.ids)
      expect(read.sequences).toEqual(made.sequences)
      const readers = [read, made].map(
        ({ scores }) =>
          new ScoreReader(scores ?? { kind: 'memory', halves: new Uint16Array() }, 20, 300),
      )
      for (const [token, layer] of [
        [0, 0],
        [119, 19],
        [239, 7],
      ] as const) {
        const [fromFile, fromMemory] = readers.map((reader) => {
          const scores = new Float32Array(300)
          reader.read(token, layer, scores)
          return scores
        })
        expect(fromFile).toEqual(fromMemory)
        expect(Math.max(...(fromFile ?? []))).toBeGreaterThan(0.4)
      }
      for (const reader of readers) reader.close()
    })
  })

  it('is refused, with its file named, unless everything fits', async () => {
    const good = readFileSync(recorded)
    const end = good.indexOf(0x0a)
    const header = JSON.parse(good.toString('utf8', 0, end))
    const body = good.subarray(end + 1)
    const changed = (change: object) =>
      Buffer.concat([Buffer.from(`${JSON.stringify({ ...header, ...change })}\n`), body])
    const refused: [Buffer | string, RegExp][] = [
      ['', /expected a routing trace, found something else/],
      ['PK\u0003', /expected a routing trace/],
      ['{"version":1', /expected a JSON header line, found none/],
      ['{"version":1\n', /expected a JSON header line, found "\{/],
      [good.subarray(0, -1), /expected \d+ bytes of records after the header, found \d+/],
      [changed({ version: 2 }), /header: version must be 1, found 2/],
      [changed({ experts: 70_000 }), /header: experts must be a whole number/],
      [changed({ layers: [] }), /header: layers must be a list/],
      [changed({ sequences: [{ tokens: 2 ** 24, prompt: 0, label: '' }] }), /expected \d+ bytes/],
      [changed({ experts: 7 }), /record \d+ names expert \d+ of 7/],
    ]
    for (const [bytes, why] of refused) {
      const error = await written(bytes).catch((thrown: unknown) => thrown)
      expect(error).toBeInstanceOf(ModelError)
      expect(String(error)).toMatch(why)
      expect(String(error)).toMatch(/some\.trace: /)
    }
  })
})

const comment = '# model=m n_layer=2 n_expert=9 n_expert_used=2\n'
const titles = 'turn,phase,step,layer,slot,expert,weight\n'

describe('a trace of commas', () => {
  it('is of as many layers, experts and tokens as it says', () => {
    const routing = readRouting(qwen)
    expect(routing).toMatchObject({ experts: 128, topK: 6 })
    expect(routing.layers).toHaveLength(48)
    expect(routing.sequences).toEqual([{ first: 0, tokens: 156, prompt: 28 }])
    expect([...routing.ids.subarray(0, 6)]).toEqual([49, 19, 58, 29, 16, 70])
  })

  it('has a sequence for each turn, whatever the order of its lines', async () => {
    const lines = ['1,0,0,3,0,7', '0,1,0,3,0,5', '0,0,1,3,0,4', '1,1,9,3,0,8', '0,0,0,3,0,2']
    const routing = await written(`${comment}${titles}${lines.join('\r\n')}\r\n`)
    expect(routing.layers).toEqual([3])
    expect(routing.sequences).toEqual([
      { first: 0, tokens: 3, prompt: 2 },
      { first: 3, tokens: 2, prompt: 1 },
    ])
    expect([...routing.ids]).toEqual([2, 4, 5, 7, 8])
  })

  it('walks a prompt layer by layer, token by token, and skips what has no lines', async () => {
    const lines = ['0,0,0,0,0,1', '0,0,1,0,0,2', '0,0,1,1,0,3', '0,1,0,0,0,4', '0,1,0,1,0,5']
    const routing = await written(`${comment}${titles}${lines.join('\n')}`)
    const visits: [number, number, boolean][] = []
    walk(routing, ({ moeLayer, wanted, isPrompt }) => {
      visits.push([moeLayer, wanted[0] ?? -1, isPrompt])
    })
    expect(visits).toEqual([
      [0, 1, true],
      [0, 2, true],
      [1, 9 + 3, true],
      [0, 4, false],
      [1, 9 + 5, false],
    ])
  })

  it('is refused, with its line named, unless everything fits', async () => {
    const refused: [string, RegExp][] = [
      ['turn,phase\n', /line 1: expected turn,phase,step,layer,slot,expert, found/],
      [`${comment}${titles}`, /expected lines of routing, found none/],
      [`${titles}0,0,0,0,0,0\n`, /line 2: names expert 0 of 0/],
      [`${comment}${titles}0,0,0,0,0,9\n`, /line 3: names expert 9 of 9/],
      [`${comment}${titles}0,2,0,0,0,1\n`, /line 3: expected a phase, found "2"/],
      [`${comment}${titles}0,0,0,0,0\n`, /line 3: expected a expert|line 3: expected an? expert/],
      [`${comment}${titles}0,0,-1,0,0,1\n`, /line 3: expected a step, found "-1"/],
      [`${comment}${titles}0,0,0,0,2000,1\n`, /at most 1024 layers and 1024 experts a token/],
      [`${comment}${titles}0,0,0,0,1000,1\n`, /expected a line for most ranks/],
      [`# n_expert=99999\n${titles}`, /at most 65535 experts/],
      [`#${'x'.repeat(2 ** 21)}`, /expected lines, found none that ends/],
    ]
    for (const [text, why] of refused) {
      const error = await written(text).catch((thrown: unknown) => thrown)
      expect(error).toBeInstanceOf(ModelError)
      expect(String(error)).toMatch(why)
      expect(String(error)).toMatch(/some\.trace: /)
    }
  })
})
