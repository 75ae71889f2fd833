// What a job of any size will probably give on this machine with this model, before anything is loaded: the
// plan's own model, asked with this config, what is free here and what a job needs. The only one here
// that looks at either; which size follows from it is size.ts.
import type { BudgetWishes } from '../engine/budget.js'
import type { KvType, MathName } from '../engine/layout.js'
import type { ModelConfig } from '../model/config.js'
import type { Environment } from '../model/locate.js'
import type { Bottleneck } from '../plan/decode.js'
import { type Fit, fitOf } from '../plan/fit.js'
import { type Geometry, geometryOf } from '../plan/geometry.js'
import { machineHere, routingFor } from '../plan/here.js'
import { type PlannedMachine, withNumbers } from '../plan/machine.js'
import { batchPlan } from '../plan/manytokens.js'
import type { PlannedRouting } from '../plan/routing.js'
import { type BatchSize, SHARE_HELD } from './size.js'

export interface ProspectWishes extends BudgetWishes {
  readonly kvType: KvType
  readonly math: MathName
  readonly threads?: number | undefined
  /** Of the drive, bytes per second; absent: what is known of it. */
  readonly paced?: number | undefined
}

interface Prospected {
  readonly fit: Fit
  readonly tokensPerSecond: number
  readonly bottleneck: Bottleneck
}

const boundNames: Readonly<Record<Bottleneck, string>> = {
  drive: 'the drive',
  memory: 'memory',
  processor: 'computing',
  link: 'the link to the GPU',
  gpu: 'the GPU',
}

export class Prospect {
  readonly #config: ModelConfig
  readonly #wishes: ProspectWishes
  readonly #machine: PlannedMachine
  /** Null: the model has no layer with routed experts, and nothing is planned of it. */
  readonly #model: { readonly geometry: Geometry; readonly routing: PlannedRouting } | null

  constructor(
    folder: string,
    config: ModelConfig,
    wishes: ProspectWishes,
    freeBytes: number,
    environment: Environment,
  ) {
    const { math, paced, threads } = wishes
    const { machine } = machineHere(environment, folder, math)
    const here = withNumbers(machine, { ram: freeBytes }, 'told')
    const given = {
      ...(paced === undefined ? {} : { drive: paced }),
      ...(threads === undefined ? {} : { cores: threads }),
    }
    this.#config = config
    this.#wishes = wishes
    this.#machine = withNumbers(here, given, 'given')
    const hasExperts = config.firstMoeLayer < config.layers
    this.#model = hasExperts ? { geometry: geometryOf(config), routing: routingFor(config) } : null
  }

  /** With so many sequences in each step, of an engine that is opened so; 0 where that does not fit. */
  rateOf(sequences: number, opened: BatchSize): number {
    // Without experts nothing is known but that weights are read once for all.
    if (this.#model === null) return sequences
    return this.#prospected(sequences, opened)?.tokensPerSecond ?? 0
  }

  /** One sentence: why so many, and what it costs. */
  told(size: BatchSize): string {
    const { sequences: most, atFirst } = size
    const sequences = atFirst ?? most
    const tried =
      atFirst === null
        ? ''
        : `; more and fewer are tried out${most > sequences ? `, up to ${most}` : ''}`
    const found = this.#prospected(sequences, size)
    if (found === null) return `${sequences} at once${tried}`
    const { drive } = this.#machine
    const { tokensPerSecond, bottleneck, fit } = found
    const assumed =
      bottleneck === 'drive' && drive.source === 'assumed'
        ? ` (assumed at ${drive.value / 1e9} GB/s; doctor measures it)`
        : ''
    const half = Math.ceil(sequences / 2)
    const other = half < sequences ? `, with ${half} ${shortly(this.rateOf(half, size))}` : ''
    return `${sequences} at once: about ${shortly(tokensPerSecond)} tokens/s by ${boundNames[bottleneck]}${assumed}${other}${this.#displaced(fit, size)}${tried}`
  }

  /** What keys and values take from experts. */
  #displaced({ slots }: Fit, size: BatchSize): string {
    const { contextTokens } = size
    const alone = this.#fitFor({
      sequences: 1,
      atFirst: null,
      contextTokens,
      kvTokens: contextTokens,
    })
    const taken = alone === null ? 0 : alone.slots.ram - slots.ram
    return taken <= 0 ? '' : `; their keys and values take the slots of ${taken} experts`
  }

  #prospected(sequences: number, opened: BatchSize): Prospected | null {
    const fit = this.#fitFor(opened)
    if (this.#model === null || fit === null) return null
    const placed = { ...this.#model, machine: this.#machine, fit }
    const positions = (SHARE_HELD * opened.kvTokens) / opened.sequences
    const { tokensPerSecond, bottleneck } = batchPlan(placed, sequences, positions)
    return { fit, tokensPerSecond: tokensPerSecond.likely, bottleneck }
  }

  #fitFor({ sequences, contextTokens, kvTokens }: BatchSize): Fit | null {
    if (this.#model === null) return null
    const { kvType, expertRam, expertRamMost, loadMode } = this.#wishes
    const wishes = {
      kvType,
      expertRam,
      expertRamMost,
      loadMode,
      sequences,
      contextTokens,
      kvTokens,
    }
    const fit = fitOf(this.#config, this.#model.geometry, this.#machine, wishes)
    return 'problem' in fit ? null : fit
  }
}

function shortly(value: number): string {
  return value.toPrecision(3)
}
