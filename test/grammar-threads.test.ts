// The threads that follow grammars, real ones over the bundled model's vocabulary: masks, what is refused,
// and that a schema which breaks the library costs nobody else anything.
import { afterEach, describe, expect, it } from 'vitest'
import { type GrammarSeat, ring, toldTo } from '../dist/src/engine/grammarseat.js'
import { GrammarThreads, type Seated } from '../dist/src/engine/grammarthreads.js'
import { readConfig } from '../dist/src/model/config.js'
import { openTokenizer } from '../dist/src/model/tokenizer.js'
import { ringTiny } from './paths.js'
import { until } from './serving.js'

const config = readConfig(ringTiny, {})
const tokenizer = openTokenizer(ringTiny)
const yes = JSON.stringify({ enum: ['yes'] })
const no = JSON.stringify({ enum: ['no'] })
/** The library ends over it. */
const broken = JSON.stringify({ type: 'string', pattern: '(' })

let threads: GrammarThreads
afterEach(() => threads.close())

const wake = new Int32Array(new SharedArrayBuffer(4))
function sit(schema: string): Seated {
  return threads.sit(schema, config, 16, wake)
}

/** Ids that may follow what was told. */
async function allowed({ words, mask }: GrammarSeat): Promise<number[]> {
  await until(async () => Atomics.load(words, 1) === Atomics.load(words, 0))
  return Array.from({ length: config.vocabulary }, (_, id) => id).filter(
    (id) => (((mask[id >> 5] ?? 0) >> (id & 31)) & 1) === 1,
  )
}

function tell(seat: GrammarSeat, token: number): void {
  const told = toldTo(seat)
  seat.tokens[told] = token
  Atomics.store(seat.words, 0, told + 1)
  ring(seat.bell)
}

/** Follows a grammar of one text to its end, by any way that it allows. */
async function written(seat: GrammarSeat): Promise<string> {
  const ids: number[] = []
  for (;;) {
    const [first] = await allowed(seat)
    if (first === undefined) throw new Error('nothing may follow')
    if (config.eosIds.includes(first)) return tokenizer.decode(ids)
    ids.push(first)
    tell(seat, first)
  }
}

describe('grammar threads', () => {
  it('follow several sequences, each its own grammar', async () => {
    threads = new GrammarThreads(ringTiny)
    const seats = [yes, no, yes].map((schema) => sit(schema).seat)
    const texts = await Promise.all(seats.map(written))
    expect(texts).toEqual(['"yes"', '"no"', '"yes"'])
  })

  it('say of a schema whether an answer can be held to it', async () => {
    threads = new GrammarThreads(ringTiny)
    expect(await threads.tried(yes, config)).toBe(null)
    expect(await threads.tried(broken, config)).toBe('cannot be followed by this server')
    expect(await threads.tried(no, config)).toBe(null)
    expect(threads.trying).toBe(0)
  })

  it('go on with a sequence in another thread where one was broken by somebody else', async () => {
    threads = new GrammarThreads(ringTiny)
    const { seat } = sit(yes)
    const [first = -1] = await allowed(seat)
    tell(seat, first)
    // More of them than threads, so that whoever follows is hit.
    const failures = await Promise.all([1, 2, 3].map(() => threads.tried(broken, config)))
    expect(new Set(failures)).toEqual(new Set(['cannot be followed by this server']))
    expect(await allowed(seat)).not.toEqual([])
    expect(Atomics.load(seat.words, 2)).toBe(0)
  })

  it('refuse a sequence whose token its grammar excludes, and not the others', async () => {
    threads = new GrammarThreads(ringTiny)
    const [wrong, right] = [sit(yes).seat, sit(yes).seat]
    const mask = await allowed(wrong)
    const excluded = Array.from({ length: 100 }, (_, id) => id + 20).find(
      (id) => !mask.includes(id),
    )
    tell(wrong, excluded ?? -1)
    await until(async () => Atomics.load(wrong.words, 2) === 1)
    expect(await written(right)).toBe('"yes"')
  })

  it('refuse what is asked after they were closed, and leave nobody waiting', async () => {
    threads = new GrammarThreads(ringTiny)
    const asked = threads.tried(yes, config)
    await threads.close()
    expect([null, 'cannot be followed by this server']).toContain(await asked)
    expect(await threads.tried(yes, config)).toBe('cannot be followed by this server')
    expect(Atomics.load(sit(yes).seat.words, 2)).toBe(1)
  })
})
