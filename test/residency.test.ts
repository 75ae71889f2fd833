// Hits of mapped experts: what counts is whether an expert's pages lay in memory when its layer routed.
// Over a checkpoint of holes, of which no page has been read before.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { parseConfig } from '../src/model/config.js'
import { drive, withModel } from './drive.js'
import { hollowFor, inTemporaryFolder, writeHollow } from './hollow.js'
import { requestOf } from './models.js'
import { ringTiny } from './paths.js'

const total = (values: Float64Array) => values.reduce((sum, value) => sum + value, 0)

/** ring-tiny's shape with experts of 768 KiB, so that no read of one brings in another. */
function writeHoles(folder: string): string {
  const json = JSON.parse(readFileSync(join(ringTiny, 'config.json'), 'utf8'))
  json.moe_intermediate_size = 512
  delete json.quantization_config
  const config = parseConfig(JSON.stringify(json), 'config.json')
  const place = ({ expert }: { expert: number }) =>
    expert < 0 ? 'dense.safetensors' : 'experts.safetensors'
  return writeHollow(hollowFor(json, config, 'bf16', place), folder)
}

describe('mapped experts', () => {
  it.each([
    ['without a budget', {}],
    ['with one, which is advice', { expertRam: { share: 0.5 } }],
  ])('miss once and hit from then on, %s', (_, budget) => {
    inTemporaryFolder((folder) => {
      const wishes = { loadMode: 'mapped', threads: 2, ...budget } as const
      withModel(writeHoles(folder), wishes, (model) => {
        const { requests, hits, misses } = model.counters.layers
        // Zeros route every token of a layer to the same four experts.
        drive(model, [requestOf([5, 6, 7], { maxTokens: 3 })])
        expect([...requests]).toEqual(Array(5).fill(3 * 4))
        expect(total(hits) + total(misses)).toBe(total(requests))
        expect([...misses]).toEqual(Array(5).fill(4))
      })
    })
  })
})
