/**
 * Rotary position encoding: what the config says about stretching it (YaRN), and the frequencies
 * that follow. Angles and products belong to the backend. Every operation is rounded to float32 on
 * its own, in the order of the public implementations, because the last bit of a frequency is
 * multiplied by positions in the thousands.
 */
import { ModelError, shown } from './error.js'
import { atLeast, nullish, object, oneOf, parseFields, real, whole } from './fields.js'
import { isRecord } from './json.js'

/** YaRN (Peng et al. 2023): low frequencies are divided by the factor, high ones kept. */
export interface Yarn {
  readonly factor: number
  /** Positions of the model before it was stretched. */
  readonly originalContext: number
  /** Rotations over the original context above which a frequency is kept, and below which it is divided. */
  readonly betaFast: number
  readonly betaSlow: number
  /** What cos and sin are multiplied by; null for 0.1 ln(factor) + 1. */
  readonly attentionFactor: number | null
}

export interface RopeFrequencies {
  /** rotaryDim / 2 values: radians per position of each rotated pair (i, i + rotaryDim / 2). */
  readonly inverse: Float32Array
  /** Multiplies cos and sin; 1 without YaRN. */
  readonly magnitude: number
}

/** Radians per position: theta^(-2i / rotaryDim), blended with the same over the factor under YaRN. */
export function ropeFrequencies(config: {
  readonly rotaryDim: number
  readonly ropeTheta: number
  readonly yarn: Yarn | null
}): RopeFrequencies {
  const { rotaryDim, ropeTheta, yarn } = config
  const round = Math.fround
  const inverse = new Float32Array(rotaryDim / 2)
  for (let pair = 0; pair < inverse.length; pair += 1) {
    inverse[pair] = 1 / round(ropeTheta ** round((2 * pair) / rotaryDim))
  }
  if (yarn === null) return { inverse, magnitude: 1 }
  const { low, high } = yarnRange(rotaryDim, ropeTheta, yarn)
  for (const [pair, kept] of inverse.entries()) {
    const ramp = Math.min(Math.max(round(round(pair - low) / round(high - low)), 0), 1)
    const divided = round(round(kept / yarn.factor) * ramp)
    inverse[pair] = round(kept * round(1 - ramp)) + divided
  }
  const magnitude = yarn.attentionFactor ?? 0.1 * Math.log(yarn.factor) + 1
  return { inverse, magnitude }
}

/** The pairs between which the ramp runs from "kept" (0) to "divided" (1). */
function yarnRange(rotaryDim: number, theta: number, yarn: Yarn): { low: number; high: number } {
  // The pair that turns `rotations` times within the original context.
  const pairAt = (rotations: number) =>
    (rotaryDim * Math.log(yarn.originalContext / (rotations * 2 * Math.PI))) / (2 * Math.log(theta))
  const low = Math.max(Math.floor(pairAt(yarn.betaFast)), 0)
  const high = Math.min(Math.ceil(pairAt(yarn.betaSlow)), rotaryDim - 1)
  return { low, high: low === high ? high + 0.001 : high }
}

/** Past this YaRN can no longer be meant: published factors are 2 to 64. */
const FACTOR_LIMIT = 1024
const factor = atLeast(1, FACTOR_LIMIT)
const rotations = real(0, 1e6)
const yarnKeys = object({
  factor,
  original_max_position_embeddings: nullish(whole(1, 2 ** 30)),
  beta_fast: nullish(rotations),
  beta_slow: nullish(rotations),
  attention_factor: nullish(real(0, 100)),
  truncate: nullish(oneOf(true)),
})

/**
 * `rope_scaling` of a config (or `rope_parameters`, where newer tools write it), and the user's own
 * factor, which replaces the config's and stretches the same original. Without an original in the
 * config, that is max_position_embeddings (`longest`).
 */
export function readYarn(
  raw: Record<string, unknown>,
  file: string,
  longest: number,
  wantedFactor: number | undefined,
): Yarn | null {
  const announced = announcedYarn(raw, file, longest)
  if (wantedFactor === undefined) return announced
  const { factor } = parseFields(wanted, { factor: wantedFactor }, '--rope-scaling')
  const { originalContext, betaFast, betaSlow } = announced ?? {
    originalContext: longest,
    betaFast: 32,
    betaSlow: 1,
  }
  return { factor, originalContext, betaFast, betaSlow, attentionFactor: null }
}

const wanted = object({ factor })

function announcedYarn(raw: Record<string, unknown>, file: string, longest: number): Yarn | null {
  const key = raw.rope_scaling != null ? 'rope_scaling' : 'rope_parameters'
  const said = raw[key] ?? {}
  if (!isRecord(said)) {
    throw new ModelError(`${file}: ${key} must be an object, found ${shown(said)}`)
  }
  const kind = said.rope_type ?? said.type ?? 'default'
  if (kind === 'default') return null
  if (kind !== 'yarn') {
    throw new ModelError(`${file}: ${key}.type must be "yarn" or "default", found ${shown(kind)}`)
  }
  for (const unsupported of ['mscale', 'mscale_all_dim']) {
    if (said[unsupported] != null) {
      throw new ModelError(
        `${file}: ${key}.${unsupported} must be absent (attention_factor says the same), found ${shown(said[unsupported])}`,
      )
    }
  }
  const keys = parseFields(yarnKeys, said, file, [key])
  const betaFast = keys.beta_fast ?? 32
  const betaSlow = keys.beta_slow ?? 1
  if (betaFast <= betaSlow) {
    throw new ModelError(
      `${file}: ${key}.beta_fast must be above beta_slow (${betaSlow}), found ${betaFast}`,
    )
  }
  return {
    factor: keys.factor,
    originalContext: keys.original_max_position_embeddings ?? longest,
    betaFast,
    betaSlow,
    attentionFactor: keys.attention_factor ?? null,
  }
}
