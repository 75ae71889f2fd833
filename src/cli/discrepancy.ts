// How two engines differ over the same tokens: log-probabilities here against those there, and which
// experts each chose. Pure: samples and scores in, figures out. `here` stands for the engine that trains,
// `there` for the one that drew, so a ratio is what IcePop calls train by infer.
import type { Scored } from '../engine/score.js'
import type { Sample } from './samples.js'
import type { Band } from './scoreflags.js'
import type { RoutingShape } from './scoreline.js'

/** Upper ends of the sizes that differences are counted by, in nats; the first is none at all. */
export const sizeEnds = [0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, Number.POSITIVE_INFINITY] as const

/** Differences are log p here - log p there, in nats; shares go from 0 to 1. */
export interface DiscrepancyFigures {
  readonly samples: number
  /** Compared. */
  readonly tokens: number
  /** Of which the other engine says nothing; the first of a sample is none of them. */
  readonly unsaid: number
  readonly mean: number
  readonly median: number
  readonly p1: number
  readonly p99: number
  readonly largest: number
  /** Whose difference is the largest. */
  readonly worst: { readonly id: string | number; readonly token: number }
  /** Share of tokens by the size of their difference, as `sizeEnds`. */
  readonly sizes: readonly number[]
  /** Shares of tokens whose ratio lies below and above the band. */
  readonly below: number
  readonly above: number
  /**
   * KL(there || here) a token, where `there` drew the tokens: the mean of r - 1 - log r, and of -log r
   * (Schulman, "Approximating KL divergence", k3 and k1).
   */
  readonly k3: number
  readonly k1: number
  /** Null: no sample tells of it. */
  readonly routing: RoutingFigures | null
}

export interface RoutingFigures {
  readonly tokens: number
  /** Share of tokens that have the same set in every layer that is told. */
  readonly agreeEverywhere: number
  readonly layers: readonly LayerAgreement[]
}

export interface LayerAgreement {
  readonly layer: number
  /** Share of tokens with the same set of experts. */
  readonly agree: number
  /** Mean share of a token's experts that both chose. */
  readonly overlap: number
}

interface LayerCounts {
  tokens: number
  agreeing: number
  overlap: number
}

const CHUNK_TOKENS = 2 ** 16

export class Discrepancy {
  /** Full ones, and the one that fills. */
  readonly #chunks: Float64Array[] = []
  #chunk = new Float64Array(CHUNK_TOKENS)
  #filled = 0
  #samples = 0
  #unsaid = 0
  #largest = -1
  #worst: DiscrepancyFigures['worst'] = { id: '', token: 0 }
  readonly #layers = new Map<number, LayerCounts>()
  #routedTokens = 0
  #agreeingTokens = 0

  constructor(private readonly shape: RoutingShape) {}

  /** `scored` has the experts where the sample has them. */
  add(sample: Sample, scored: Scored): void {
    this.#samples += 1
    for (let token = 1; token < sample.tokens.length; token += 1) {
      const difference =
        (scored.logprobs[token] ?? Number.NaN) - (sample.logprobs[token] ?? Number.NaN)
      if (!Number.isFinite(difference)) this.#unsaid += 1
      else this.#count(difference, sample.id, token)
    }
    if (sample.routing !== null) this.#addRouting(sample, scored.experts)
  }

  /** Null where nothing could be compared. */
  figures({ least, most }: Band): DiscrepancyFigures | null {
    const sorted = this.#sorted()
    const tokens = sorted.length
    if (tokens === 0) return null
    let [sum, k3, below, above] = [0, 0, 0, 0]
    const sizes = sizeEnds.map(() => 0)
    for (const difference of sorted) {
      sum += difference
      k3 += Math.expm1(difference) - difference
      if (Math.exp(difference) < least) below += 1
      if (Math.exp(difference) > most) above += 1
      const size = sizeEnds.findIndex((end) => Math.abs(difference) <= end)
      sizes[size] = (sizes[size] ?? 0) + 1
    }
    return {
      ...{ samples: this.#samples, tokens, unsaid: this.#unsaid },
      mean: sum / tokens,
      median: quantile(sorted, 0.5),
      p1: quantile(sorted, 0.01),
      p99: quantile(sorted, 0.99),
      ...{ largest: this.#largest, worst: this.#worst },
      sizes: sizes.map((count) => count / tokens),
      ...{ below: below / tokens, above: above / tokens },
      ...{ k3: k3 / tokens, k1: -sum / tokens },
      routing: this.#routingFigures(),
    }
  }

  #count(difference: number, id: string | number, token: number): void {
    if (Math.abs(difference) > this.#largest) {
      this.#largest = Math.abs(difference)
      this.#worst = { id, token }
    }
    this.#chunk[this.#filled] = difference
    this.#filled += 1
    if (this.#filled < CHUNK_TOKENS) return
    this.#chunks.push(this.#chunk)
    this.#chunk = new Float64Array(CHUNK_TOKENS)
    this.#filled = 0
  }

  #sorted(): Float64Array {
    const all = new Float64Array(this.#chunks.length * CHUNK_TOKENS + this.#filled)
    for (const [at, chunk] of this.#chunks.entries()) all.set(chunk, at * CHUNK_TOKENS)
    all.set(this.#chunk.subarray(0, this.#filled), this.#chunks.length * CHUNK_TOKENS)
    return all.sort()
  }

  /** Layers that this model does not route in count for nothing. */
  #addRouting({ tokens, routing }: Sample, ours: Uint16Array): void {
    if (routing === null) return
    const { firstMoeLayer, moeLayers, topK } = this.shape
    const isSame = new Uint8Array(tokens.length).fill(1)
    for (const [row, number] of routing.layers.entries()) {
      const layer = number - firstMoeLayer
      if (layer < 0 || layer >= moeLayers) continue
      const counts = this.#countsOf(number)
      for (let token = 0; token < tokens.length; token += 1) {
        const first = (layer * tokens.length + token) * topK
        const there = new Set(routing.experts[row]?.[token])
        const both = ours.subarray(first, first + topK).filter((one) => there.has(one)).length
        const isAgreed = both === topK && there.size === topK
        counts.tokens += 1
        counts.overlap += both / topK
        if (isAgreed) counts.agreeing += 1
        else isSame[token] = 0
      }
    }
    this.#routedTokens += tokens.length
    this.#agreeingTokens += isSame.reduce((sum, one) => sum + one, 0)
  }

  #countsOf(layer: number): LayerCounts {
    const counts = this.#layers.get(layer) ?? { tokens: 0, agreeing: 0, overlap: 0 }
    this.#layers.set(layer, counts)
    return counts
  }

  #routingFigures(): RoutingFigures | null {
    if (this.#layers.size === 0) return null
    const layers = [...this.#layers].sort(([one], [other]) => one - other)
    return {
      tokens: this.#routedTokens,
      agreeEverywhere: this.#agreeingTokens / this.#routedTokens,
      layers: layers.map(([layer, { tokens, agreeing, overlap }]) => ({
        layer,
        agree: agreeing / tokens,
        overlap: overlap / tokens,
      })),
    }
  }
}

/** Between neighbours in proportion. */
function quantile(sorted: Float64Array, share: number): number {
  const place = share * (sorted.length - 1)
  const [before, after] = [Math.floor(place), Math.ceil(place)]
  const [low, high] = [sorted[before] ?? Number.NaN, sorted[after] ?? Number.NaN]
  return low + (high - low) * (place - before)
}
