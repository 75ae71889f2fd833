// The published models that can be planned for without a file of theirs: what their configs say is part of
// this program. A config that lies on the drive, in a folder or alone, goes before. Weights are not looked
// at, and nothing is fetched.
import { statSync } from 'node:fs'
import { basename, join } from 'node:path'
import { type ModelConfig, parseConfig, readConfig } from '../model/config.js'
import { ModelError } from '../model/error.js'
import { parseObject } from '../model/json.js'
import { locateModel } from '../model/locate.js'
import { readText } from '../model/window.js'

export interface PlannedModel {
  readonly name: string
  readonly config: ModelConfig
  /** Where what is planned with was found, for people. */
  readonly facts: string
  /** The folder on whose drive the weights lie; null: they are not there yet. */
  readonly folder: string | null
}

const configBytesMost = 16 * 2 ** 20

/** Per-channel FP8, as the published 1T checkpoints announce it. */
const channelFp8 = {
  quant_method: 'compressed-tensors',
  config_groups: {
    group_0: { weights: { num_bits: 8, type: 'float', strategy: 'channel', symmetric: true } },
  },
}

interface Published {
  /** Its config, in the folder of published ones. */
  readonly file: string
  readonly isFp8?: boolean
  /** Positions, where they are others than in that config. */
  readonly context?: number
}

const published: Readonly<Record<string, Published>> = {
  'inclusionAI/Ring-1T': { file: 'ring-1t' },
  'inclusionAI/Ring-1T-FP8': { file: 'ring-1t', isFp8: true },
  'inclusionAI/Ring-1T-preview': { file: 'ring-1t', context: 32768 },
  'inclusionAI/Ring-1T-preview-FP8': { file: 'ring-1t', isFp8: true, context: 32768 },
  'inclusionAI/Ling-1T': { file: 'ring-1t', context: 32768 },
  'inclusionAI/Ling-1T-FP8': { file: 'ring-1t', isFp8: true, context: 32768 },
  'inclusionAI/Ring-flash-2.0': { file: 'ring-flash' },
  'inclusionAI/Ling-flash-2.0': { file: 'ring-flash' },
  'inclusionAI/Ring-mini-2.0': { file: 'ring-mini' },
  'inclusionAI/Ling-mini-2.0': { file: 'ring-mini' },
}

/**
 * The model of a folder, of a config.json, in the local cache, or by its published name. `configs`: the
 * folder of published configs. Throws ModelError saying what there is.
 */
export function plannedModel(model: string, configs: string): PlannedModel {
  const path = statSync(model, { throwIfNoEntry: false })
  if (path?.isFile()) {
    const config = parseConfig(readText(model, configBytesMost), basename(model))
    return { name: basename(model), config, facts: 'a config', folder: null }
  }
  const known = published[model]
  try {
    const folder = locateModel(model)
    const name = path?.isDirectory() ? basename(folder) : model
    return { name, config: readConfig(folder), facts: 'its config.json', folder }
  } catch (error) {
    if (known !== undefined) return publishedModel(model, known, configs)
    if (!(error instanceof ModelError) || path !== undefined) throw error
    throw new ModelError(
      `MODEL: expected a folder, a config.json, or one of ${Object.keys(published).join(', ')}, found ${model}`,
    )
  }
}

function publishedModel(name: string, known: Published, configs: string): PlannedModel {
  const file = `${known.file}.json`
  const raw = parseObject(readText(join(configs, file), configBytesMost), file)
  const text = JSON.stringify({
    ...raw,
    ...(known.isFp8 === true ? { quantization_config: channelFp8 } : {}),
    ...(known.context === undefined ? {} : { max_position_embeddings: known.context }),
  })
  return { name, config: parseConfig(text, file), facts: 'the published config', folder: null }
}
