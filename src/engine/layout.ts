// How memory is divided before the first token: context, KV blocks, step size, threads (budget.ts has
// the experts' part), and what a device is opened with. Pure: a checkpoint, the machine's free memory and the person's wishes in, numbers out, or an error with the
// setting that would fit. Nothing is allocated here.
import {
  Dtype,
  type Layout,
  MathKind,
  type Pace,
  type ReadFault,
  Rung,
} from '../../native/index.js'
import type { Checkpoint } from '../model/checkpoint.js'
import type { ModelConfig } from '../model/config.js'
import { ModelError } from '../model/error.js'
import { ropeFrequencies } from '../model/rope.js'
import type { InRam } from './inram.js'
import { blocksFor, kvBlockTokens } from './kv.js'
import type { TensorTables } from './tables.js'

export type KvType = 'bf16' | 'f32'
export type MathName = keyof typeof MathKind
export type RungName = keyof typeof Rung

/** How reads of experts reach the drive; absent: chosen by what works here. */
export interface ReadWishes {
  readonly rung?: RungName | undefined
  readonly depth?: number | undefined
  readonly chunkBytes?: number | undefined
  /** A drive made of RAM under the reader. */
  readonly pace?: Pace | undefined
  /** For tests. */
  readonly faults?: readonly ReadFault[] | undefined
  /** Folders that hold copies of the checkpoint's files, or of some. */
  readonly mirrors?: readonly string[] | undefined
}

/** What a person may ask for; absent: decided here. */
export interface LayoutWishes {
  readonly contextTokens?: number | undefined
  readonly kvType?: KvType | undefined
  readonly threads?: number | undefined
  /** Sequences that may be in work at once. */
  readonly sequences?: number | undefined
  /**
   * Tokens whose keys and values all sequences together may keep, at least one context; absent: each
   * sequence has the whole context.
   */
  readonly kvTokens?: number | undefined
  /** Most tokens of one step. */
  readonly stepTokens?: number | undefined
  /** Ids from here on are never sampled; absent: the whole vocabulary may be. */
  readonly sampleable?: number | undefined
  readonly lockstep?: boolean | undefined
  readonly math?: MathName | undefined
  readonly reads?: ReadWishes | undefined
  /** Keep router probabilities of every token, and look-ahead ones at these distances. */
  readonly scores?: { readonly ahead: readonly number[]; readonly attends: boolean } | undefined
}

/** What was decided, in the units people know. */
export interface MemoryPlan {
  readonly contextTokens: number
  readonly sequences: number
  readonly stepTokens: number
  readonly kvType: KvType
  readonly kvBlocks: number
  readonly kvBytes: number
  readonly threads: number
}

/** A prompt is read this many tokens at a time; bounds the memory of activations. */
const defaultStepTokens = 512
/** Share of the free memory that an automatic context may take for KV. */
export const automaticKvShare = 0.5

/** Bytes of keys and values that one token keeps, over all layers. */
export function kvBytesPerToken(config: ModelConfig, kvType: KvType): number {
  const elementBytes = kvType === 'f32' ? 4 : 2
  return 2 * config.layers * config.kvHeads * config.headDim * elementBytes
}

/**
 * Throws ModelError when the wishes cannot be met, naming the flag and what would fit. `freeBytes`:
 * beside what stays in memory, so it is negative where that is too large by itself.
 */
export function planMemory(
  config: ModelConfig,
  wishes: LayoutWishes,
  freeBytes: number,
  kvShare = automaticKvShare,
): MemoryPlan {
  const kvType = wishes.kvType ?? 'bf16'
  const sequences = wishes.sequences ?? 1
  const { kvTokens } = wishes
  // Where all share, one context must have room, and the rest is what is shared.
  const tokenBytes = kvBytesPerToken(config, kvType) * (kvTokens === undefined ? sequences : 1)
  const fitting = (share: number) => Math.floor((freeBytes * share) / tokenBytes)
  const asked = wishes.contextTokens
  if (freeBytes < 0) {
    throw new ModelError(
      `not enough memory: the weights that every token needs are ${Math.ceil(-freeBytes)} bytes more than is free; --load-mode mapped leaves them in their files`,
    )
  }
  if (asked !== undefined && asked > config.context) {
    throw new ModelError(
      `--ctx-size ${asked}: this model has ${config.context} positions; --rope-scaling yarn,FACTOR extends them`,
    )
  }
  if (asked !== undefined && asked > fitting(1)) {
    throw new ModelError(
      `--ctx-size ${asked}: its KV needs ${asked * tokenBytes} bytes and ${Math.floor(freeBytes)} are free; --ctx-size ${fitting(1)} would fit`,
    )
  }
  const contextTokens = asked ?? Math.min(config.context, fitting(kvShare))
  if (contextTokens < 1) {
    throw new ModelError(`not enough memory for the KV of one token (${tokenBytes} bytes)`)
  }
  const perContext = blocksFor(contextTokens)
  const kvBlocks =
    kvTokens === undefined
      ? perContext * sequences
      : Math.min(Math.max(blocksFor(kvTokens), perContext), perContext * sequences)
  return {
    contextTokens,
    sequences,
    stepTokens: Math.max(wishes.stepTokens ?? defaultStepTokens, sequences),
    kvType,
    kvBlocks,
    kvBytes: kvBlocks * kvBlockTokens * kvBytesPerToken(config, kvType),
    threads: wishes.threads ?? 0,
  }
}

/** All that a device's layout is made of. */
export interface LayoutParts {
  readonly checkpoint: Checkpoint
  /** The checkpoint's files, each with its copies. */
  readonly files: Layout['files']
  readonly tables: TensorTables
  readonly plan: MemoryPlan
  readonly wishes: LayoutWishes
  /** See Layout.slots. */
  readonly slots: number
  /** See Layout.library and what follows it there; absent: the processor computes. */
  readonly library?: string
  readonly rooms?: number
  readonly slotsBelow?: number
  /** Null or absent: a backend has all weights where it computes. */
  readonly inRam?: InRam | null
  readonly control: Int32Array
  readonly counters: Float64Array
  /** See Layout.ahead and Layout.scores. */
  readonly ahead?: readonly number[]
  readonly scores?: Float32Array
}

export function layoutOf(parts: LayoutParts): Layout {
  const { checkpoint, files, tables, plan, wishes, slots } = parts
  const { config } = checkpoint
  const rope = ropeFrequencies(config)
  return {
    files,
    shape: {
      layers: config.layers,
      hidden: config.hidden,
      heads: config.heads,
      kvHeads: config.kvHeads,
      headDim: config.headDim,
      rotaryDim: config.rotaryDim,
      experts: config.experts,
      topK: config.topK,
      groups: config.groups,
      groupsKept: config.groupsKept,
      firstMoeLayer: config.firstMoeLayer,
      vocabulary: config.vocabulary,
      sampleable: Math.min(wishes.sampleable ?? config.vocabulary, config.vocabulary),
      routedScale: config.routedScale,
      epsilon: config.epsilon,
      ropeMagnitude: rope.magnitude,
    },
    limits: {
      stepTokens: plan.stepTokens,
      parts: plan.sequences,
      context: plan.contextTokens,
      kvBlocks: plan.kvBlocks,
      kvBlockTokens,
      kvDtype: plan.kvType === 'f32' ? Dtype.f32 : Dtype.bf16,
      threads: plan.threads,
      math: MathKind[wishes.math ?? 'f32'],
      headInRam: parts.inRam?.head ?? false,
      mlpsInRam: parts.inRam?.mlps ?? 0,
    },
    slots,
    library: parts.library ?? '',
    rooms: parts.rooms ?? 0,
    slotsBelow: parts.slotsBelow ?? 0,
    io: readerOf(wishes.reads ?? {}),
    checksums: tables.checksums,
    keepsScores: wishes.scores !== undefined,
    keepsAttended: wishes.scores?.attends ?? false,
    ahead: Int32Array.from(parts.ahead ?? []),
    scores: parts.scores ?? new Float32Array(0),
    ropeInverse: rope.inverse,
    tensors: tables.tensors,
    expertTensors: tables.expertTensors,
    lockstep: wishes.lockstep ?? false,
    control: parts.control,
    counters: parts.counters,
  }
}

/** The reader's part of a layout. */
export function readerOf({ rung, depth, chunkBytes, pace, faults }: ReadWishes): Layout['io'] {
  return {
    rung: pace === undefined ? Rung[rung ?? 'automatic'] : Rung.paced,
    depth: depth ?? 0,
    chunkBytes: chunkBytes ?? 0,
    faults: faults ?? [],
    ...(pace === undefined ? {} : { pace: { ...pace, depth: depth ?? pace.depth } }),
  }
}
