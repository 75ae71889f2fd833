// Figures of a server at work: ten minutes of 32 clients (RING_LOAD_SECONDS says another time), what HTTP
// adds to a token, and what a long prompt leaves of a stream that runs.
import { afterAll, beforeAll, describe, it } from 'vitest'
import { Engine } from '../dist/src/engine/engine.js'
import { openTokenizer } from '../dist/src/model/tokenizer.js'
import { note, percentile, spread } from './figure.js'
import { requestOf } from './models.js'
import { ringTiny } from './paths.js'
import { load } from './serveload.js'
import { eventsOf, figureOf, post, type Running, startServer, until } from './serving.js'
import { type Widened, widened } from './widened.js'

it('32 clients', async () => {
  const seconds = Number(process.env.RING_LOAD_SECONDS ?? 600)
  const { done, faults, healthMs, bareMs, before, after, residentBytes } = await load(seconds, 1)
  const what = `32 clients, ${seconds} s, ring-tiny`
  const counts = Object.entries(done).map(([kind, count]) => `${count} ${kind}`)
  note(
    `${what}: requests that were not answered as they should`,
    `${faults.length} ${faults[0] ?? ''} beside ${counts.join(', ')}`,
    '0',
    faults.length === 0,
  )
  const [p50, p99] = [0.5, 0.99].map((share) => percentile(healthMs, share))
  note(
    `${what}: p99 of /health, ms`,
    `${p99?.toFixed(1)}, median ${p50?.toFixed(1)}, n=${healthMs.length}; a server that does nothing ${percentile(bareMs, 0.99).toFixed(1)}`,
    '100',
    (p99 ?? Number.NaN) < 100,
  )
  note(
    `${what}: sequences, blocks and files held afterwards as before`,
    `${JSON.stringify(before)}, ${JSON.stringify(after)}`,
    'equal',
    JSON.stringify(before) === JSON.stringify(after),
  )
  const quarter = Math.floor(residentBytes.length / 4)
  const mebibytes = (from: number) =>
    percentile(residentBytes.slice(from, from + quarter), 0.5) / 2 ** 20
  const [second, last] = [mebibytes(quarter), mebibytes(residentBytes.length - quarter)]
  note(
    `${what}: resident set of the last quarter over that of the second`,
    `${(last / second).toFixed(3)} (${second.toFixed(0)} MiB, ${last.toFixed(0)} MiB)`,
    '1.05',
    last / second <= 1.05,
  )
})

/** Microseconds of a token, drawn straight from an engine and through a server with one like it. */
async function pairs(folder: string, tokens: number, expertRam?: string) {
  const tokenizer = openTokenizer(folder)
  const share = expertRam === undefined ? undefined : { share: Number.parseFloat(expertRam) / 100 }
  const wishes = { sequences: 1, sampleable: tokenizer.size, expertRam: share }
  const engine = await Engine.open(folder, wishes)
  const open = () => Engine.open(folder, wishes)
  const server = await startServer({ folder, parallel: 1, deadlineMs: 600_000, open })
  try {
    const prompt = [...tokenizer.encode('Hello!')]
    const direct = async () => {
      const times: number[] = []
      const generation = engine.generate(requestOf(prompt, { maxTokens: tokens }))
      for await (const _ of generation) times.push(performance.now())
      return microsecondsEach(times)
    }
    const served = async () => microsecondsEach(await timesOfStream(server, prompt, tokens))
    await direct()
    await served()
    const both: { direct: number; served: number }[] = []
    for (let at = 0; at < 9; at += 1) both.push({ direct: await direct(), served: await served() })
    return both
  } finally {
    await Promise.all([engine.close(), server.close()])
  }
}

async function timesOfStream({ url }: Running, prompt: readonly number[], tokens: number) {
  const body = { prompt, temperature: 0, ignore_eos: true, stream: true, max_tokens: tokens }
  const times: number[] = []
  for await (const event of eventsOf(await post(`${url}/v1/completions`, body))) {
    if (event.startsWith('{')) times.push(performance.now())
  }
  return times
}

function microsecondsEach(times: readonly number[]): number {
  return (((times.at(-1) ?? 0) - (times[0] ?? 0)) / (times.length - 1)) * 1000
}

it('what the server adds to a token', async () => {
  const both = await pairs(ringTiny, 1000)
  const added = spread(
    both.map(({ direct, served }) => served - direct),
    0,
  )
  const alone = spread(
    both.map(({ direct }) => direct),
    0,
  )
  note(
    'ring-tiny: microseconds that the server, and its client, add to a token',
    `${added.text}; without ${alone.text}`,
    'none given',
    Number.isFinite(added.median),
  )
})

describe('on the widened model at 25 %', () => {
  let model: Widened
  beforeAll(async () => {
    model = await widened()
  })
  afterAll(() => model.remove())

  it('one stream', async () => {
    const both = await pairs(model.folder, 64, '25%')
    const ratio = spread(
      both.map(({ direct, served }) => served / direct),
      3,
    )
    note(
      '4 GB model, 25 %: time of a token through the server over without',
      ratio.text,
      '1.03',
      ratio.median <= 1.03,
    )
  })

  it('a stream while a long prompt arrives', async () => {
    const wishes = { sequences: 2, expertRam: { share: 0.25 } }
    const open = () => Engine.open(model.folder, wishes)
    const server = await startServer({
      folder: model.folder,
      parallel: 2,
      deadlineMs: 3_600_000,
      open,
    })
    try {
      const ratios: number[] = []
      for (let at = 0; at < 5; at += 1) ratios.push(await keptSpeed(server, at))
      const kept = spread(ratios, 3)
      note(
        '4 GB model, 25 %: speed that a stream keeps while a prompt of 1,500 tokens is read',
        kept.text,
        '0.25',
        kept.median >= 0.25,
      )
    } finally {
      await server.close()
    }
  })
})

/** Of a stream's tokens a second, the share left from the arrival of a prompt to its first token. */
async function keptSpeed(server: Running, seed: number): Promise<number> {
  const times: number[] = []
  const leaving = new AbortController()
  const body = {
    prompt: [5, 6, 7],
    temperature: 0,
    ignore_eos: true,
    stream: true,
    max_tokens: 500,
  }
  const { signal } = leaving
  const response = await post(`${server.url}/v1/completions`, body, { signal })
  const reading = (async () => {
    for await (const _ of eventsOf(response)) times.push(performance.now())
  })().catch(() => {})
  await until(async () => times.length > 40)
  const begin = performance.now()
  const before = times.length
  const prompt = Array.from({ length: 1500 }, (_, at) => (at * 31 + seed * 7) % 900)
  await post(`${server.url}/v1/completions`, { prompt, max_tokens: 1, temperature: 0 })
  const end = performance.now()
  const during = times.filter((time) => time > begin && time <= end).length / (end - begin)
  leaving.abort()
  await reading
  await until(async () => (await figureOf(server.url, 'ring_num_requests_running')) === 0)
  const alone = (before - 8) / ((times[before - 1] ?? 0) - (times[7] ?? 0))
  return during / alone
}
