// The golden files as tests read them. They come from an independent reference (tools/train).
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { edge, edgeNames, fixtures, ringTiny } from './paths.js'

export interface Golden {
  readonly name: string
  readonly ids: number[]
  readonly text?: string
  /** Per position the 20 largest logits. */
  readonly top20: { ids: number[]; values: number[] }[]
  /** margin: how much a choice score must move to change the set. */
  readonly router: { layer: number; ids: number[][]; weights: number[][]; margin: number[] }[]
  readonly greedy: { ids: number[]; margin: number[]; text?: string }
  readonly lastLogits: Float32Array
}

export interface GoldenCase {
  readonly title: string
  readonly model: string
  readonly golden: Golden
}

function read(folder: string, file: string): Golden {
  const json = JSON.parse(readFileSync(join(folder, file), 'utf8')) as Omit<Golden, 'lastLogits'>
  const npy = readFileSync(join(folder, file.replace(/json$/, 'last_logits.npy')))
  const start = 10 + npy.readUInt16LE(8) // magic, version, header length, header
  const lastLogits = new Float32Array((npy.length - start) / 4)
  for (let index = 0; index < lastLogits.length; index += 1) {
    lastLogits[index] = npy.readFloatLE(start + 4 * index)
  }
  return { ...json, lastLogits }
}

const goldensFolder = join(fixtures, 'goldens')

export const tinyGoldens: GoldenCase[] = readdirSync(goldensFolder)
  .filter((file) => /^(chat|raw)-.*\.json$/.test(file))
  .map((file) => {
    const golden = read(goldensFolder, file)
    return { title: `ring-tiny ${golden.name}`, model: ringTiny, golden }
  })

export const edgeGoldens: GoldenCase[] = edgeNames.map((name) => ({
  title: `edge ${name}`,
  model: edge(name),
  golden: read(edge(name), 'golden.json'),
}))
