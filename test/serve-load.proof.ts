// Figures of a server under the load of 32 clients of all kinds. Takes ten minutes and a half;
// RING_LOAD_SECONDS says another time. All else of the server is in serve.proof.ts.
import { it } from 'vitest'
import { note, percentile, remark } from './figure.js'
import { load } from './serveload.js'

it('32 clients', async () => {
  const seconds = Number(process.env.RING_LOAD_SECONDS ?? 600)
  const result = await load(seconds, 1)
  const { done, faults, healthMs, bareMs, before, after, residentBytes, heapBytes, loopMs } = result
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
  const delays = (name: 'p50' | 'p99' | 'max') => loopMs.map((second) => second[name])
  remark(
    `${what}: delay of the main thread's loop, ms`,
    `median ${percentile(delays('p50'), 0.5).toFixed(1)}; p99 of a second: the middle one ${percentile(delays('p99'), 0.5).toFixed(1)}, of 99 of 100 seconds ${percentile(delays('p99'), 0.99).toFixed(1)}; most ${Math.max(...delays('max')).toFixed(1)}; n=${loopMs.length} seconds`,
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
  // What a collection has left; between two of them there is as much garbage as the heap finds room for.
  const least = (from: number) => Math.min(...heapBytes.slice(from, from + quarter)) / 2 ** 20
  remark(
    `${what}: least heap of the main thread in use, MiB`,
    `${[0, 1, 2, 3].map((at) => least(at * quarter).toFixed(1)).join(', ')} in the four quarters`,
  )
})
