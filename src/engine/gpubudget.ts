// How memory is divided where a GPU computes: weights that every token needs (but for what inram.ts leaves in
// RAM), KV and activations lie in its memory, and experts have slots in what is left. In RAM lies what is
// copied there: those weights once more, rooms for experts on their way, and, where the GPU does not hold all
// of them, as many more as fit, so that they are copied and not read again. Pure, like budget.ts, and refuses
// in the same words.
import type { ModelConfig } from '../model/config.js'
import { ModelError } from '../model/error.js'
import {
  type BudgetWishes,
  type ExpertPlan,
  headRoomBytes,
  headRoomShare,
  holdsAll,
  type Pool,
  scarceKvShare,
  scratchBytes,
  slotsFor,
  slotsIn,
  type WeightSizes,
} from './budget.js'
import { firstFitting, type InRam, type Movable } from './inram.js'
import { automaticKvShare, type LayoutWishes, type MemoryPlan, planMemory } from './layout.js'

/** Of the GPU's free memory, what is left for whatever else takes some: a screen, fragments. */
const gpuHeadRoomShare = 0.05
/** Steps that may be open at once, each with activations of its own. */
const stepsOpen = 2
/** What a drive is kept busy by where nobody says otherwise. */
const usualDepth = 32
const usualChunkBytes = 2 * 2 ** 20
/** Beside what is being read: one expert being copied, one that waits to be. */
const roomsBesideReads = 2
const roomsLeast = 4
const roomsMost = 64
const instead = '--backend cpu computes without it'
/** A context that other things make room for where nobody asks for one. */
const usefulContext = 4096

/** Bytes before anything was allocated. */
export interface FreeMemory {
  readonly ram: number
  readonly gpu: number
}

/** Throws ModelError when the wishes cannot be met. */
export function divideGpuMemory(
  config: ModelConfig,
  sizes: WeightSizes & Movable,
  wishes: LayoutWishes & BudgetWishes,
  free: FreeMemory,
): { plan: MemoryPlan; experts: ExpertPlan } {
  if (wishes.loadMode === 'mapped') {
    throw new ModelError(
      `--load-mode mapped: a GPU computes in its own memory, into which weights are read; ${instead}`,
    )
  }
  const { denseBytes, scaleBytes } = sizes
  const placed = (way: InRam, of: typeof wishes) => onGpu(config, sizes, of, free.gpu, way)
  const contextTokens = wishes.contextTokens ?? Math.min(config.context, usefulContext)
  // How many slots somebody wants is no reason to compute elsewhere.
  const inRam = firstFitting(sizes, (way) =>
    placed(way, { ...wishes, contextTokens, expertVram: undefined }),
  )
  const shared = placed(inRam, wishes)
  const isShort = wishes.expertVram === undefined && shared.plan.contextTokens < contextTokens
  const { plan, slots, scratch, gpuDenseBytes } = isShort
    ? placed(inRam, { ...wishes, contextTokens })
    : shared
  const expertReadBytes = sizes.experts === 0 ? 0 : sizes.expertBytes / sizes.experts
  const rooms = Math.min(slots, roomsFor(wishes, expertReadBytes))
  const copies = denseBytes + scaleBytes + rooms * sizes.slotBytes
  const ramHeadRoom = Math.max(headRoomBytes, free.ram * headRoomShare)
  if (copies + ramHeadRoom > free.ram) {
    throw new ModelError(
      `not enough memory: what is copied to the GPU needs ${copies} bytes and head room ${Math.ceil(ramHeadRoom)}, and ${Math.floor(free.ram)} are free; --backend cpu --load-mode mapped leaves weights in their files`,
    )
  }
  const slotsBelow =
    slots === sizes.experts
      ? 0
      : planBelow(sizes, wishes, config.topK, rooms, free.ram - copies, ramHeadRoom)
  const experts: ExpertPlan = {
    loadMode: 'direct',
    tier: 'gpu',
    slots,
    rooms,
    slotsBelow,
    slotBytes: sizes.slotBytes,
    experts: sizes.experts,
    expertReadBytes,
    denseBytes: gpuDenseBytes,
    scaleBytes,
    scratchBytes: scratch,
    inRam: inRam.bytes > 0 ? inRam : null,
  }
  return { plan, experts }
}

/** What lies in the GPU's memory where so much stays in RAM. Throws ModelError where that is too much. */
function onGpu(
  config: ModelConfig,
  all: WeightSizes & Movable,
  wishes: LayoutWishes & BudgetWishes,
  freeBytes: number,
  inRam: InRam,
): { plan: MemoryPlan; slots: number; scratch: number; gpuDenseBytes: number } {
  const denseBytes = all.denseBytes - all.embeddingBytes - inRam.bytes
  const sizes = { ...all, denseBytes }
  const { scaleBytes } = sizes
  const headRoom = Math.max(headRoomBytes, freeBytes * gpuHeadRoomShare)
  const forKv = freeBytes - denseBytes - scaleBytes
  if (forKv < headRoom) {
    const lightest = inRam.bytes > 0 ? ', the head and all MLPs left in RAM' : ''
    throw new ModelError(
      `not enough GPU memory: dense weights and scales need ${denseBytes + scaleBytes} bytes${lightest} and head room ${Math.ceil(headRoom)}, and ${freeBytes} are free; ${instead}`,
    )
  }
  const isScarce = !holdsAll(sizes, freeBytes)
  const plan = planMemory(config, wishes, forKv, isScarce ? scarceKvShare : automaticKvShare)
  const logits = 4 * config.vocabulary * plan.sequences
  const scratch = stepsOpen * (scratchBytes(config, plan.stepTokens, 0) + logits)
  const pool: Pool = {
    flag: '--expert-vram',
    name: 'GPU memory',
    asked: wishes.expertVram,
    most: undefined,
    freeBytes,
    headRoom,
    last: instead,
  }
  const slots = sizes.experts === 0 ? 0 : slotsIn(pool, sizes, config.topK, plan, scratch)
  return { plan, slots, scratch, gpuDenseBytes: denseBytes }
}

/** How many experts have a slot in RAM below those of the GPU; rooms count as part of what is asked for. */
function planBelow(
  sizes: WeightSizes,
  { expertRam, expertRamMost }: BudgetWishes,
  topK: number,
  rooms: number,
  leftBytes: number,
  headRoom: number,
): number {
  const { slotBytes } = sizes
  const fitting = Math.max(0, Math.floor((leftBytes - headRoom) / slotBytes))
  if (expertRam !== undefined) {
    const all = slotsFor(expertRam, sizes)
    const asked = all === sizes.experts ? all : Math.max(0, all - rooms)
    if (asked * slotBytes <= leftBytes) return asked < topK ? 0 : asked
    throw new ModelError(
      `--expert-ram: ${asked + rooms} slots need ${(asked + rooms) * slotBytes} bytes, and ${Math.floor(leftBytes) + rooms * slotBytes} are free; --expert-ram ${(fitting + rooms) * slotBytes} would fit`,
    )
  }
  const most = Math.floor((expertRamMost ?? Number.POSITIVE_INFINITY) / slotBytes) - rooms
  const slots = Math.min(sizes.experts, fitting, most)
  // Fewer than one token wants of a layer would only be in each other's way.
  return slots < topK ? 0 : slots
}

/** So many that the drive's queue is full while others are copied. */
function roomsFor({ reads }: LayoutWishes, expertBytes: number): number {
  const inFlight = (reads?.depth ?? usualDepth) * (reads?.chunkBytes ?? usualChunkBytes)
  const reading = Math.ceil(inFlight / Math.max(1, expertBytes))
  return Math.max(roomsLeast, Math.min(roomsMost, reading + roomsBesideReads))
}
