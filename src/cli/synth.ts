// `synth`: a model of any config with random weights. A tokenizer comes from beside the config, or, if
// the vocabulary has room for its ids, from the bundled model; a shape can do without one.
import { existsSync, statSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { parseObject } from '../model/json.js'
import { synth as synthesised } from '../model/synth.js'
import { openTokenizer } from '../model/tokenizer.js'
import { readText } from '../model/window.js'
import { companionsIn, refuseUsedFolder, writeModel } from './newmodel.js'
import type { SynthFlags } from './newmodelflags.js'
import { findModel } from './source.js'

const CONFIG_BYTES_LIMIT = 16 * 2 ** 20

/** Returns the exit status; throws for everything that a person is to be told. */
export async function synth(place: string, out: string, flags: SynthFlags): Promise<number> {
  refuseUsedFolder(out)
  const isFolder = existsSync(place) && statSync(place).isDirectory()
  const path = isFolder ? join(place, 'config.json') : place
  const raw = parseObject(readText(path, CONFIG_BYTES_LIMIT), basename(path))
  const checkpoint = synthesised(raw, flags)
  return await writeModel(out, checkpoint, companionsOf(dirname(path), raw.vocab_size), flags)
}

function companionsOf(folder: string, vocabulary: unknown): string[] {
  if (existsSync(join(folder, 'tokenizer.json'))) return companionsIn(folder)
  const bundled = findModel(undefined).folder
  return openTokenizer(bundled).size <= Number(vocabulary) ? companionsIn(bundled) : []
}
