// Routing with early scores for tests, at the size of a large model's layers: logits of the generator, chosen
// from by the router's rules with groups, and early scores that are those logits with noise. Farther away
// the noise is that of nearer by and some more, so that two estimates of one layer agree as real ones do.
// The choice is written out again here, plainly: what is tested must not check itself.
import { UseField } from '../src/cache/records.js'
import { valueOfHalf } from '../src/engine/half.js'
import type { ForecastShape, Foresight } from '../src/prefetch/forecast.js'
import { generate } from '../src/simulate/generate.js'
import { Normal } from '../src/simulate/normal.js'

/** 256 experts, 8 of them chosen from the best 4 of 8 groups. */
export const largeLayers: ForecastShape = {
  moeLayers: 6,
  experts: 256,
  topK: 8,
  groups: 8,
  groupsKept: 4,
  distances: [1, 2, 4],
}
/** Correlation of early logits with the true ones, for each of these distances. */
const likeness = [0.97, 0.95, 0.9]

/** One token in one layer. Scores are sigmoids of logits [expert], `early` by the place of the distance. */
export interface MadeLayer {
  readonly own: Float32Array
  readonly early: readonly Float32Array[]
  /** Rising. */
  readonly chosen: readonly number[]
}

/** [token][MoE layer] of one sequence, the same for the same seed. */
export function madeTokens(seed: number, tokens: number, shape = largeLayers): MadeLayer[][] {
  const { moeLayers, experts, topK } = shape
  const routing = generate(seed, {
    layers: moeLayers,
    experts,
    topK,
    sequences: 1,
    tokens,
    prompt: 0,
  })
  if (routing.scores?.kind !== 'memory') throw new Error('generated scores lie in memory')
  const { halves } = routing.scores
  const normal = new Normal(seed + 1)
  return Array.from({ length: tokens }, (_, token) =>
    Array.from({ length: moeLayers }, (_, layer) => {
      const first = (token * moeLayers + layer) * experts
      const logits = Array.from({ length: experts }, (_, index) =>
        logitOf(halves[first + index] ?? 0),
      )
      const own = scoresOf(logits)
      return { own, early: earlyOf(logits, normal), chosen: choose(own, null, shape) }
    }),
  )
}

/** As the generator made its probabilities. */
function logitOf(half: number): number {
  const probability = Math.max(6e-8, Math.min(0.9995, valueOfHalf(half)))
  return middle + 0.3 * Math.log(probability / (1 - probability))
}

function earlyOf(logits: readonly number[], normal: Normal): Float32Array[] {
  let [nearer, before] = [logits, 1]
  return likeness.map((now) => {
    const [kept, noise] = [now / before, Math.sqrt(1 - (now / before) ** 2)]
    nearer = nearer.map((logit) => kept * logit + noise * normal.next())
    before = now
    return scoresOf(nearer)
  })
}

/** The last expert that is chosen has about one half, as in the generator. */
const middle = 1.6

function scoresOf(logits: readonly number[]): Float32Array {
  return Float32Array.from(logits, (logit) => 1 / (1 + Math.exp(middle - logit)))
}

/** The experts that a router chooses, rising: groups by the sum of their two best, then the best of those kept. */
export function choose(
  scores: Float32Array,
  bias: readonly number[] | null,
  shape: Pick<ForecastShape, 'experts' | 'topK' | 'groups' | 'groupsKept'>,
): number[] {
  const { experts, topK, groups, groupsKept } = shape
  const choice = [...scores].map((score, index) => score + (bias?.[index] ?? 0))
  const size = experts / groups
  const best = (values: readonly number[]) => [...values].sort((a, b) => b - a)
  const groupScores = Array.from({ length: groups }, (_, group) => {
    const [first = 0, second = 0] = best(choice.slice(group * size, (group + 1) * size))
    return first + second
  })
  const leastGroup = best(groupScores)[groupsKept - 1] ?? 0
  const isKept = (index: number) => (groupScores[Math.floor(index / size)] ?? 0) >= leastGroup
  const kept = choice.flatMap((score, index) => (isKept(index) ? [{ score, index }] : []))
  const chosen = kept.sort((a, b) => b.score - a.score).slice(0, topK)
  return chosen.map(({ index }) => index).sort((a, b) => a - b)
}

/** Records of UseField of one token. */
export function recordsOf(
  moeLayer: number,
  chosen: readonly number[],
  experts: number,
): Int32Array {
  const records = new Int32Array(chosen.length * UseField.count)
  for (const [at, index] of chosen.entries()) {
    records[at * UseField.count + UseField.expert] = moeLayer * experts + index
    records[at * UseField.count + UseField.tokens] = 1
  }
  return records
}

/**
 * Walks through the tokens as an engine would: each layer's early scores as soon as they are there, then,
 * before a layer routes, the priors; `see` hears of every estimate with what the layer then chose. `at`
 * is the place of the distance, or null for priors.
 */
export function foreseeAll(
  foresight: Foresight,
  tokens: readonly (readonly MadeLayer[])[],
  see: (at: number | null, probabilities: Float32Array, layer: MadeLayer) => void,
  { experts, distances } = largeLayers,
): void {
  for (const layers of tokens) {
    foresight.begin(Int32Array.of(-1))
    for (const [moeLayer, layer] of layers.entries()) {
      see(null, foresight.prior(moeLayer), layer)
      const records = recordsOf(moeLayer, layer.chosen, experts)
      foresight.used(moeLayer, records, layer.chosen.length, 1)
      for (let at = distances.length - 1; at >= 0; at -= 1) {
        const target = moeLayer + (distances[at] ?? 0)
        const scores = layers[target]?.early[at]
        if (scores === undefined) continue
        see(at, foresight.early(target, at, scores, 1, false), layers[target] ?? layer)
      }
    }
  }
}
