// A saved profile of one model: how many tokens each expert served, so that a later run can pin or load
// first what is used most, and what was learnt of its routing. One JSON object with a checksum of itself.
// It may come from anywhere, so nothing of it is used before its size and every count have been checked,
// and a profile of another model is refused.
import { createHash } from 'node:crypto'
import { type Learnt, type Numbers, parseNumbers, printNumbers } from './learnt.js'
import { UseField } from './records.js'

/** Counts of the largest model, and what is learnt of it; more would not be a profile. */
export const profileBytesMost = 256 * 2 ** 20
const largestCount = 2 ** 53 - 1

/** Why a profile or a policy cannot be had, one sentence for a person. */
export interface Problem {
  readonly problem: string
}

/** What a profile is of. */
export interface ProfiledModel {
  readonly moeLayers: number
  /** In each layer. */
  readonly experts: number
  /** Text that two models do not share. */
  readonly model: string
}

export class Profile implements ProfiledModel {
  /** [expert of the model] tokens */
  readonly counts: Float64Array
  /** Arrays of those who learn, as they are now, or as they were saved. */
  learnt: Learnt = {}

  constructor(
    readonly moeLayers: number,
    readonly experts: number,
    readonly model = '',
  ) {
    this.counts = new Float64Array(moeLayers * experts)
  }

  /** Records [UseField.count]. */
  add(records: Int32Array): void {
    for (let at = 0; at < records.length; at += UseField.count) {
      const expert = records[at + UseField.expert] ?? 0
      this.counts[expert] = (this.counts[expert] ?? 0) + (records[at + UseField.tokens] ?? 0)
    }
  }

  /** Experts of the model that served any token, those that served most first. */
  hottest(): Int32Array {
    const used = Int32Array.from(this.counts.keys()).filter((expert) => this.#of(expert) > 0)
    return used.sort((one, other) => this.#of(other) - this.#of(one) || one - other)
  }

  print(): string {
    const { model, moeLayers, experts } = this
    const layers = Array.from({ length: moeLayers }, (_, layer) => [
      ...this.counts.subarray(layer * experts, (layer + 1) * experts),
    ])
    const lines = layers.map((counts) => `    ${JSON.stringify(counts)}`)
    const learnt = Object.entries(this.learnt).map(
      ([name, numbers]) => `    ${JSON.stringify(name)}: "${printNumbers(numbers)}"`,
    )
    const head = `"version": 2,\n  "model": ${JSON.stringify(model)}`
    const body = `{\n  ${head},\n  "tokens": [\n${lines.join(',\n')}\n  ],\n  "learnt": {\n${learnt.join(',\n')}\n  },\n  "checksum": `
    return `${body}"${checksumOf(body)}"\n}\n`
  }

  #of(expert: number): number {
    return this.counts[expert] ?? 0
  }
}

/** `file` is for the message. */
export function parseProfile(text: string, file: string, of: ProfiledModel): Profile | Problem {
  const refused = (what: string): Problem => ({ problem: `${file}: ${what}` })
  if (text.length > profileBytesMost) return refused('too large for an expert profile')
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch {
    return refused('expected an expert profile, found no JSON')
  }
  const { version, model, tokens, learnt, checksum } = fieldsOf(json)
  if (version !== 2 || !Array.isArray(tokens)) {
    return refused('expected an expert profile of version 2, found something else')
  }
  const { moeLayers, experts } = of
  const fits =
    model === of.model &&
    tokens.length === moeLayers &&
    tokens.every((layer) => Array.isArray(layer) && layer.length === experts)
  if (!fits) {
    return refused(
      `a profile of another model; this one has ${moeLayers} MoE layers of ${experts} experts, and its config is ${of.model}`,
    )
  }
  const profile = new Profile(moeLayers, experts, of.model)
  for (const [expert, count] of tokens.flat().entries()) {
    if (!isCount(count)) {
      const place = `layer ${Math.floor(expert / experts)}, expert ${expert % experts}`
      return refused(`${place}: expected a count of tokens`)
    }
    profile.counts[expert] = count
  }
  const body = text.slice(0, text.lastIndexOf('"checksum": ') + '"checksum": '.length)
  if (checksum !== checksumOf(body)) return refused('damaged: its checksum is another')
  const arrays = learntOf(learnt)
  if (arrays === null) return refused('what was learnt cannot be read')
  profile.learnt = arrays
  return profile
}

function learntOf(json: unknown): Learnt | null {
  if (typeof json !== 'object' || json === null) return null
  const arrays: [string, Numbers][] = []
  for (const [name, text] of Object.entries(json)) {
    const numbers = typeof text === 'string' ? parseNumbers(text, profileBytesMost) : null
    if (numbers === null) return null
    arrays.push([name, numbers])
  }
  return Object.fromEntries(arrays)
}

function checksumOf(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 32)
}

function fieldsOf(json: unknown): Readonly<Record<string, unknown>> {
  return typeof json === 'object' && json !== null ? { ...json } : {}
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && value >= 0 && value <= largestCount
}
