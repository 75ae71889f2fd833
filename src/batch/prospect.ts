// What a batch of any size will probably give on this machine with this model, before anything is loaded:
// sizes from the checkpoint's headers, rates from what is known of the machine. The only one here that
// looks at either; what follows from them is cost.ts.
import {
  type BudgetWishes,
  type ExpertBudget,
  loadModeOf,
  sizesOf,
  type WeightSizes,
} from '../engine/budget.js'
import { type KvType, kvBytesPerToken } from '../engine/layout.js'
import { knownRates } from '../engine/rates.js'
import { openCheckpoint } from '../model/checkpoint.js'
import type { Environment } from '../model/locate.js'
import {
  type ExpertRoom,
  type MachineRates,
  type ModelSizes,
  type StepCost,
  stepCost,
} from './cost.js'

export interface ProspectWishes extends BudgetWishes {
  readonly kvType: KvType
  /** Of the drive, bytes per second; absent: what is known of it. */
  readonly paced?: number | undefined
}

/** Of free memory, what is left alone beside experts, keys and values. */
const HEAD_ROOM_SHARE = 0.08

export class Prospect {
  readonly #model: ModelSizes
  readonly #room: ExpertRoom
  readonly #machine: MachineRates
  readonly #kvTokenBytes: number
  readonly #slotBytes: number
  readonly #isDriveMeasured: boolean

  /** Throws ModelError for a checkpoint that cannot be read. */
  constructor(folder: string, wishes: ProspectWishes, freeBytes: number, environment: Environment) {
    const checkpoint = openCheckpoint(folder)
    const { config } = checkpoint
    const sizes = sizesOf(checkpoint)
    const { drive, memory, products } = knownRates(folder, environment)
    this.#model = {
      moeLayers: config.layers - config.firstMoeLayer,
      experts: config.experts,
      topK: config.topK,
      expertBytes: sizes.experts === 0 ? 0 : sizes.expertBytes / sizes.experts,
      denseBytes: sizes.denseBytes,
    }
    this.#room = roomOf(wishes, sizes, freeBytes)
    this.#machine = {
      drive: wishes.paced ?? drive.perSecond,
      memory: memory.perSecond,
      products: products.perSecond,
    }
    this.#isDriveMeasured = wishes.paced !== undefined || drive.isMeasured
    this.#kvTokenBytes = kvBytesPerToken(config, wishes.kvType)
    this.#slotBytes = sizes.slotBytes
  }

  /** Of a step of so many sequences, which have the keys and values of so many tokens each. */
  costOf(sequences: number, tokensEach: number): StepCost {
    const kvBytes = tokensEach * this.#kvTokenBytes
    return stepCost(sequences, this.#model, this.#room, this.#machine, kvBytes)
  }

  /** One sentence: why so many, and what it costs. */
  told(sequences: number, tokensEach: number): string {
    const rate = (size: number) => shortly(this.costOf(size, tokensEach).tokensPerSecond)
    const { bound } = this.costOf(sequences, tokensEach)
    const half = Math.ceil(sequences / 2)
    const assumed =
      bound === 'drive' && !this.#isDriveMeasured
        ? ` (assumed at ${this.#machine.drive / 1e9} GB/s; doctor measures it)`
        : ''
    const other = half < sequences ? `, with ${half} ${rate(half)}` : ''
    return `${sequences} at once: about ${rate(sequences)} tokens/s by ${bound === 'drive' ? 'the drive' : bound}${assumed}${other}${this.#displaced(sequences, tokensEach)}`
  }

  /** What keys and values take from experts. */
  #displaced(sequences: number, tokensEach: number): string {
    if (this.#room.kind !== 'left') return ''
    const bytes = sequences * tokensEach * this.#kvTokenBytes
    const all = this.#model.moeLayers * this.#model.experts
    const fewer = Math.max(0, all - this.costOf(sequences, tokensEach).slots)
    const taken = Math.min(fewer, Math.ceil(bytes / this.#slotBytes))
    return taken === 0 ? '' : `; their keys and values take the slots of ${taken} experts`
  }
}

function roomOf(wishes: BudgetWishes, sizes: WeightSizes, freeBytes: number): ExpertRoom {
  if (loadModeOf(wishes, sizes) === 'mapped') return { kind: 'memory' }
  const { slotBytes, experts, denseBytes, scaleBytes } = sizes
  const { expertRam } = wishes
  if (expertRam !== undefined)
    return { kind: 'slots', slots: slotsOf(expertRam, experts, slotBytes) }
  const bytes = freeBytes * (1 - HEAD_ROOM_SHARE) - denseBytes - scaleBytes
  return { kind: 'left', bytes, slotBytes }
}

function slotsOf(budget: ExpertBudget, experts: number, slotBytes: number): number {
  return 'share' in budget ? budget.share * experts : budget.bytes / slotBytes
}

function shortly(value: number): string {
  return value.toPrecision(3)
}
