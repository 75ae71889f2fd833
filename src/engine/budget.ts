// Where experts live and how many have a slot: the budget in memory, decided before anything is
// allocated. Pure: sizes of a checkpoint, a person's wishes and free memory in, numbers out, or one
// sentence that names the nearest setting that would fit.
import type { Checkpoint, Layer, Matrix, Mlp } from '../model/checkpoint.js'
import type { ModelConfig } from '../model/config.js'
import { ModelError } from '../model/error.js'
import type { InRam } from './inram.js'
import { kvBlockTokens } from './kv.js'
import { automaticKvShare, type LayoutWishes, type MemoryPlan, planMemory } from './layout.js'

/** Bytes, or a share of all routed experts (0 to 1). */
export type ExpertBudget = { readonly bytes: number } | { readonly share: number }
export type LoadMode = 'mapped' | 'direct'

export interface BudgetWishes {
  readonly expertRam?: ExpertBudget | undefined
  /** Bytes that a budget takes at most where nobody asks for one. */
  readonly expertRamMost?: number | undefined
  readonly loadMode?: LoadMode | 'auto' | undefined
  /** Of a GPU that computes. */
  readonly expertVram?: ExpertBudget | undefined
}

/** What the weights of a checkpoint amount to in memory. */
export interface WeightSizes {
  readonly experts: number
  /** One slot: an expert's matrices, each widened to whole blocks at any phase. */
  readonly slotBytes: number
  readonly expertBytes: number
  /** Everything but routed experts, as it is stored. */
  readonly denseBytes: number
  /** Scales of all tensors, widened to F32. */
  readonly scaleBytes: number
}

export interface ExpertPlan {
  readonly loadMode: LoadMode
  /** What slots lie in: RAM, or the memory of the GPU that computes. */
  readonly tier: 'ram' | 'gpu'
  /** 0 when experts are mapped without a budget. */
  readonly slots: number
  /** Experts that have room in RAM on their way to the GPU; 0 where slots lie in RAM. */
  readonly rooms: number
  /** Slots in RAM below those of a GPU, which are filled from them; 0: there are none. */
  readonly slotsBelow: number
  readonly slotBytes: number
  readonly experts: number
  /** Bytes of one expert that are read when it is missing, on average. */
  readonly expertReadBytes: number
  /** Where slots lie. */
  readonly denseBytes: number
  readonly scaleBytes: number
  readonly scratchBytes: number
  /** Weights that every token needs and a GPU has no room for; null: there are none. */
  readonly inRam: InRam | null
}

/** Blocks that direct reads are made of; native/io/drive.h has the same number. */
const blockBytes = 4096
/** Share of free memory for KV when experts compete for it. */
export const scarceKvShare = 0.1
/** Models whose experts are fewer bytes are mapped unless a budget is asked for. */
const smallModelBytes = 256 * 2 ** 20
/** Head room that an automatic budget leaves: a share of free memory, and at least so much. */
export const headRoomShare = 0.08
export const headRoomBytes = 256 * 2 ** 20

export function sizesOf(checkpoint: Checkpoint): WeightSizes {
  let experts = 0
  let slotBytes = 0
  let expertBytes = 0
  let scaleBytes = 0
  let denseBytes = 0
  const addDense = (matrix: Matrix | null) => {
    if (matrix === null) return
    denseBytes += weightBytes(matrix)
    scaleBytes += scaleBytesOf(matrix)
  }
  for (const matrix of new Set([checkpoint.embedding, checkpoint.finalNorm, checkpoint.head]))
    addDense(matrix)
  for (const layer of checkpoint.layers) {
    for (const matrix of denseOf(layer)) addDense(matrix)
    for (const expert of layer.experts) {
      let own = 0
      for (const matrix of matricesOf(expert)) {
        own += Math.ceil(weightBytes(matrix) / blockBytes) * blockBytes + blockBytes
        expertBytes += weightBytes(matrix)
        scaleBytes += scaleBytesOf(matrix)
      }
      slotBytes = Math.max(slotBytes, own)
      experts += 1
    }
  }
  return { experts, slotBytes, expertBytes, denseBytes, scaleBytes }
}

function loadModeOf(wishes: BudgetWishes, sizes: WeightSizes): LoadMode {
  if (sizes.experts === 0) return 'mapped'
  if (wishes.loadMode === 'mapped' || wishes.loadMode === 'direct') return wishes.loadMode
  if (wishes.expertRam !== undefined) return 'direct'
  return sizes.expertBytes <= smallModelBytes ? 'mapped' : 'direct'
}

/** Activations of the largest step, and what each thread computes in. */
export function scratchBytes(config: ModelConfig, stepTokens: number, threads: number): number {
  const { hidden, heads, kvHeads, headDim, experts, topK, expertWidth, denseWidth } = config
  const pairs = Math.max(stepTokens, Math.min(stepTokens, 128) * topK)
  const perToken =
    5 * hidden + (2 * heads + 2 * kvHeads) * headDim + 2 * denseWidth + experts + 4 * topK
  const perPair = 2 * hidden + 2 * expertWidth
  const perThread = 1.6e6
  return 4 * (stepTokens * perToken + pairs * perPair + threads * perThread)
}

/** Throws ModelError when the budget cannot be had. `freeBytes`: before anything was allocated. */
export function planExperts(
  config: ModelConfig,
  sizes: WeightSizes,
  wishes: BudgetWishes,
  plan: MemoryPlan,
  freeBytes: number,
  threads: number,
): ExpertPlan {
  const loadMode = loadModeOf(wishes, sizes)
  const scratch = scratchBytes(config, plan.stepTokens, threads)
  const common = {
    loadMode,
    tier: 'ram' as const,
    rooms: 0,
    slotsBelow: 0,
    slotBytes: sizes.slotBytes,
    experts: sizes.experts,
    expertReadBytes: sizes.experts === 0 ? 0 : sizes.expertBytes / sizes.experts,
    denseBytes: sizes.denseBytes,
    scaleBytes: sizes.scaleBytes,
    scratchBytes: scratch,
    inRam: null,
  }
  if (loadMode === 'mapped') {
    return {
      ...common,
      slots: wishes.expertRam === undefined ? 0 : slotsFor(wishes.expertRam, sizes),
    }
  }
  const pool: Pool = {
    flag: '--expert-ram',
    name: 'memory',
    asked: wishes.expertRam,
    most: wishes.expertRamMost,
    freeBytes,
    headRoom: Math.max(headRoomBytes, freeBytes * headRoomShare),
    last: '--load-mode mapped would fit: it leaves weights in their files',
  }
  return { ...common, slots: slotsIn(pool, sizes, config.topK, plan, scratch) }
}

/** Memory that slots are to lie in, beside all else that every token needs. */
export interface Pool {
  /** Its budget is asked for by this flag. */
  readonly flag: '--expert-ram' | '--expert-vram'
  readonly name: 'memory' | 'GPU memory'
  readonly asked: ExpertBudget | undefined
  /** Bytes that a budget takes at most where nobody asks for one. */
  readonly most: number | undefined
  readonly freeBytes: number
  /** What an automatic budget leaves. */
  readonly headRoom: number
  /** What to do where no setting would fit. */
  readonly last: string
}

/** How many slots it has. Throws ModelError, which names what would fit, where there are too few. */
export function slotsIn(
  pool: Pool,
  sizes: WeightSizes,
  topK: number,
  plan: MemoryPlan,
  scratch: number,
): number {
  const { flag, name, freeBytes, headRoom } = pool
  const asked = pool.asked === undefined ? null : slotsFor(pool.asked, sizes)
  const least = topK
  if (asked !== null && asked < least) {
    throw new ModelError(
      `${flag}: ${asked} of ${sizes.experts} experts would have a slot, fewer than the ${least} that one token wants in a layer; at least ${least * sizes.slotBytes} bytes are needed`,
    )
  }
  const taken = sizes.denseBytes + sizes.scaleBytes + plan.kvBytes + scratch
  const leftBytes = freeBytes - taken
  const fitting = Math.floor((leftBytes - headRoom) / sizes.slotBytes)
  if (asked !== null) {
    if (asked * sizes.slotBytes <= leftBytes) return asked
    const nearest = Math.max(fitting, least) * sizes.slotBytes
    const setting = `${flag} ${nearest}`
    const missing = nearest - leftBytes
    throw new ModelError(
      `${flag}: ${asked} slots need ${asked * sizes.slotBytes} bytes beside ${taken} for the rest, and ${Math.floor(freeBytes)} are free; ${missing <= 0 ? `${setting} would fit` : withLessKv(pool, plan, missing, `${setting} `)}`,
    )
  }
  if (fitting < least) {
    const leastBytes = least * sizes.slotBytes
    throw new ModelError(
      `not enough ${name}: dense weights, scales, KV and scratch need ${taken} bytes, ${least} slots for experts ${leastBytes} and head room ${Math.ceil(headRoom)}, and ${Math.floor(freeBytes)} are free; ${withLessKv(pool, plan, leastBytes + headRoom - leftBytes)}`,
    )
  }
  const most = Math.floor((pool.most ?? Number.POSITIVE_INFINITY) / sizes.slotBytes)
  return Math.min(sizes.experts, fitting, Math.max(least, most))
}

/**
 * The nearest setting where bytes are missing although slots are fewest: a shorter context if that
 * frees them. `beside`: what has to be set as well.
 */
function withLessKv(pool: Pool, plan: MemoryPlan, missingBytes: number, beside = ''): string {
  const kvBlockBytes = (plan.kvBytes / plan.kvBlocks) * plan.sequences
  const tokens = Math.floor((plan.kvBytes - missingBytes) / kvBlockBytes) * kvBlockTokens
  if (tokens < 1) return pool.last
  return `${beside}--ctx-size ${tokens} would fit`
}

/**
 * KV first, then slots for experts of what is left, for whoever opens a model and whoever only plans to.
 * Throws ModelError when the wishes cannot be met. `freeBytes`: before anything was allocated.
 */
export function divideMemory(
  config: ModelConfig,
  sizes: WeightSizes,
  wishes: LayoutWishes & BudgetWishes,
  freeBytes: number,
  threads: number,
): { plan: MemoryPlan; experts: ExpertPlan } {
  const isScarce = loadModeOf(wishes, sizes) === 'direct' && !holdsAll(sizes, freeBytes)
  const forKv = isScarce ? freeBytes - sizes.denseBytes - sizes.scaleBytes : freeBytes
  const plan = planMemory(config, wishes, forKv, isScarce ? scarceKvShare : automaticKvShare)
  return { plan, experts: planExperts(config, sizes, wishes, plan, freeBytes, threads) }
}

/** Whether all experts would have a slot beside the dense weights and half of the free memory. */
export function holdsAll(sizes: WeightSizes, freeBytes: number): boolean {
  return sizes.experts * sizes.slotBytes + sizes.denseBytes + sizes.scaleBytes < freeBytes / 2
}

export function slotsFor(budget: ExpertBudget, sizes: WeightSizes): number {
  const slots =
    'share' in budget
      ? Math.round(budget.share * sizes.experts)
      : Math.floor(budget.bytes / sizes.slotBytes)
  return Math.min(slots, sizes.experts)
}

const elementBytes = { F8_E4M3: 1, BF16: 2, F32: 4 } as const

export function weightBytes(matrix: Matrix): number {
  return matrix.rows * matrix.columns * elementBytes[matrix.dtype]
}

function scaleBytesOf(matrix: Matrix): number {
  const { scale } = matrix
  if (scale === null) return 0
  if (scale.kind === 'row') return 4 * matrix.rows
  return (
    4 * Math.ceil(matrix.rows / scale.blockRows) * Math.ceil(matrix.columns / scale.blockColumns)
  )
}

export function matricesOf(mlp: Mlp): Matrix[] {
  return [mlp.gate, mlp.up, mlp.down]
}

function denseOf(layer: Layer): (Matrix | null)[] {
  const { inputNorm, qkv, qkvBias, queryNorm, keyNorm, attentionOut, attentionOutBias } = layer
  const { postNorm, mlp, router, routerBias } = layer
  return [
    ...[inputNorm, qkv, qkvBias, queryNorm, keyNorm, attentionOut, attentionOutBias, postNorm],
    ...(mlp === null ? [] : matricesOf(mlp)),
    ...[router, routerBias],
  ]
}
