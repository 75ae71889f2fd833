// A saved profile: how many tokens each expert served, so that a later run can pin what is used most.
// One JSON object. It may come from anywhere, so nothing of it is used before its size and every count
// have been checked, and a profile of another model is refused.
import { UseField } from './records.js'

/** Digits and a comma for every expert of the largest model, and more would not be one. */
const largestBytes = 64 * 2 ** 20
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

  print(): string {
    const { model, moeLayers, experts } = this
    const layers = Array.from({ length: moeLayers }, (_, layer) => [
      ...this.counts.subarray(layer * experts, (layer + 1) * experts),
    ])
    const lines = layers.map((counts) => `    ${JSON.stringify(counts)}`)
    const head = `"version": 1,\n  "model": ${JSON.stringify(model)}`
    return `{\n  ${head},\n  "tokens": [\n${lines.join(',\n')}\n  ]\n}\n`
  }
}

/** `file` is for the message. */
export function parseProfile(text: string, file: string, of: ProfiledModel): Profile | Problem {
  if (text.length > largestBytes) return { problem: `${file}: too large for an expert profile` }
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch {
    return { problem: `${file}: expected an expert profile, found no JSON` }
  }
  const { version, model, tokens } = fieldsOf(json)
  if (version !== 1 || !Array.isArray(tokens)) {
    return { problem: `${file}: expected an expert profile of version 1, found something else` }
  }
  const { moeLayers, experts } = of
  const fits =
    model === of.model &&
    tokens.length === moeLayers &&
    tokens.every((layer) => Array.isArray(layer) && layer.length === experts)
  if (!fits) {
    return {
      problem: `${file}: a profile of another model; this one has ${moeLayers} MoE layers of ${experts} experts, and its config is ${of.model}`,
    }
  }
  const profile = new Profile(moeLayers, experts, of.model)
  for (const [expert, count] of tokens.flat().entries()) {
    if (!isCount(count)) {
      const place = `layer ${Math.floor(expert / experts)}, expert ${expert % experts}`
      return { problem: `${file}: ${place}: expected a count of tokens` }
    }
    profile.counts[expert] = count
  }
  return profile
}

function fieldsOf(json: unknown): { version?: unknown; model?: unknown; tokens?: unknown } {
  return typeof json === 'object' && json !== null ? json : {}
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && value >= 0 && value <= largestCount
}
