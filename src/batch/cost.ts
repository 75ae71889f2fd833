// What a step of many sequences costs, by a model of the machine: the experts that it wants and memory does
// not hold come from the drive, what is there is read from memory, and each token is multiplied with
// its weights; these go on at the same time. Keys and values take memory from slots. Pure: knows sizes and
// rates, and no engine.

export interface ModelSizes {
  readonly moeLayers: number
  /** Of a layer, and those that one token wants. */
  readonly experts: number
  readonly topK: number
  /** Of one expert, and of all else that a token needs. */
  readonly expertBytes: number
  readonly denseBytes: number
}

/** Where experts live: all in their maps in memory, in so many slots, or in slots of what memory is left. */
export type ExpertRoom =
  | { readonly kind: 'memory' }
  | { readonly kind: 'slots'; readonly slots: number }
  | { readonly kind: 'left'; readonly bytes: number; readonly slotBytes: number }

export interface MachineRates {
  /** Bytes per second. */
  readonly drive: number
  readonly memory: number
  /** Multiply-adds per second. */
  readonly products: number
}

export interface StepCost {
  readonly tokensPerSecond: number
  readonly bound: 'drive' | 'memory' | 'computing'
  /** Experts of the whole model that have a slot. */
  readonly slots: number
}

/** What a step takes whatever is in it, in seconds: its way through the policy and the threads. */
const stepSeconds = 5e-4
/** Bytes of a weight. */
const weightBytes = 1

/** Distinct experts of a layer that so many tokens want, where each is as likely as any other. */
export function unionOf(tokens: number, { experts, topK }: ModelSizes): number {
  return experts * (1 - (1 - topK / experts) ** tokens)
}

/** `kvBytes`: keys and values of one sequence. */
export function stepCost(
  sequences: number,
  model: ModelSizes,
  room: ExpertRoom,
  machine: MachineRates,
  kvBytes: number,
): StepCost {
  const { moeLayers, experts, topK, expertBytes, denseBytes } = model
  const all = moeLayers * experts
  const slots = slotsOf(room, all, sequences * kvBytes)
  const union = moeLayers * unionOf(sequences, model)
  const perToken = denseBytes + moeLayers * topK * expertBytes
  const seconds = {
    drive: all === 0 ? 0 : (union * (1 - slots / all) * expertBytes) / machine.drive,
    memory: (denseBytes + union * expertBytes) / machine.memory,
    computing: (sequences * perToken) / weightBytes / machine.products,
  }
  const bounds = ['drive', 'memory', 'computing'] as const
  const bound = bounds.reduce((one, other) => (seconds[other] > seconds[one] ? other : one))
  return { tokensPerSecond: sequences / (stepSeconds + seconds[bound]), bound, slots }
}

function slotsOf(room: ExpertRoom, all: number, kvBytes: number): number {
  if (room.kind === 'memory') return all
  const slots = room.kind === 'slots' ? room.slots : (room.bytes - kvBytes) / room.slotBytes
  return Math.max(0, Math.min(all, Math.floor(slots)))
}

/** What more sequences give beyond this is not worth the wait for each answer. */
const enough = 0.95

/** The fewest at once, up to `most`, that come near the best rate; `costOf` tells of one number. */
export function bestBatch(most: number, costOf: (sequences: number) => StepCost): number {
  const candidates = new Set([most])
  for (let size = 1; size < most; size = Math.max(size + 1, Math.ceil(size * 1.25))) {
    candidates.add(size)
  }
  const rising = [...candidates].sort((one, other) => one - other)
  const best = Math.max(...rising.map((size) => costOf(size).tokensPerSecond))
  return rising.find((size) => costOf(size).tokensPerSecond >= enough * best) ?? most
}
