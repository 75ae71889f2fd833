// `inspect`: what a checkpoint is, in figures, and what of it fits this machine. Reads headers only,
// and starts no engine; a folder with nothing but config.json gives what the config announces.
import { readdirSync } from 'node:fs'
import os from 'node:os'
import { probeGpu } from '../engine/backend.js'
import { sizesOf } from '../engine/budget.js'
import { divideGpuMemory, type FreeMemory } from '../engine/gpubudget.js'
import { movableOf } from '../engine/inram.js'
import { availableBytes } from '../engine/memory.js'
import { type Checkpoint, openCheckpoint } from '../model/checkpoint.js'
import { type ModelConfig, readConfig } from '../model/config.js'
import { ModelError, systemReason } from '../model/error.js'
import { type Inventory, inventory, inventoryOfConfig } from '../model/inventory.js'
import { cudaReport } from './doctor.js'
import { Failure, Status } from './failure.js'
import { refuseUnavailable, type SharedFlags } from './flags.js'
import { logFor } from './log.js'
import { findModel } from './source.js'
import { inspectionTable } from './table.js'

/** All sizes in bytes, shares from 0 to 1. Keys as `inspect --json` prints them. */
export type Inspection = ReturnType<typeof inspectionOf>

interface Read {
  readonly config: ModelConfig
  readonly figures: Inventory
  /** Null: there are no weights. */
  readonly checkpoint: Checkpoint | null
}

/** Returns the exit status; throws for everything that a person is to be told. */
export async function inspect(model: string | undefined, flags: SharedFlags): Promise<number> {
  refuseUnavailable(flags)
  logFor(flags)
  const source = findModel(model)
  const inspection = inspectionOf(source.name, readModel(source.folder, flags), flags)
  process.stdout.write(flags.json ? `${JSON.stringify(inspection)}\n` : inspectionTable(inspection))
  return Status.done
}

function readModel(folder: string, { ropeScaling }: SharedFlags): Read {
  if (hasWeights(folder)) {
    const checkpoint = openCheckpoint(folder, { ropeScaling })
    return { config: checkpoint.config, figures: inventory(checkpoint), checkpoint }
  }
  const config = readConfig(folder, { ropeScaling })
  return { config, figures: inventoryOfConfig(config), checkpoint: null }
}

/** An index without its shards is a damaged checkpoint, not a bare config. */
function hasWeights(folder: string): boolean {
  try {
    return readdirSync(folder).some((file) => /\.safetensors(?:\.index\.json)?$/.test(file))
  } catch (error) {
    throw new Failure(`${folder}: cannot be read: ${systemReason(error)}`)
  }
}

function inspectionOf(name: string, { config, figures, checkpoint }: Read, flags: SharedFlags) {
  const { parameters, bytes, experts } = figures
  const kvPerToken = bytes.kvPerToken * (flags.kvType === 'f32' ? 2 : 1)
  const { yarn } = config
  const freeBytes = availableBytes()
  const gpu = probeGpu()
  return {
    model: name,
    architecture: figures.architecture,
    source: figures.source,
    parameters: {
      total: parameters.total,
      routed: parameters.routed,
      per_expert: parameters.perExpert,
      active: parameters.active,
      active_without_embeddings: parameters.activeWithoutEmbeddings,
    },
    layers: { total: config.layers, moe: experts.layers, first_moe: config.firstMoeLayer },
    experts: {
      total: experts.count,
      per_layer: experts.perLayer,
      per_token_and_layer: config.topK,
      per_token: experts.perToken,
      shared: config.sharedExperts,
    },
    vocabulary: config.vocabulary,
    context: {
      positions: config.context,
      trained: config.trainedContext,
      yarn_factor: yarn === null ? null : yarn.factor,
    },
    bytes: {
      total: bytes.total,
      dense: bytes.dense,
      one_expert: bytes.oneExpert,
      all_experts: bytes.allExperts,
      token_cycle: bytes.tokenCycle,
      kv_per_token: kvPerToken,
    },
    kv_type: flags.kvType,
    quantisation: { announced: config.quantisation, layouts: figures.layouts },
    tensors: figures.tensors,
    shards:
      figures.shards === null
        ? null
        : { count: figures.shards.count, bytes: figures.shards.sizeBytes },
    machine: {
      cores: os.availableParallelism(),
      memory_bytes: os.totalmem(),
      free_bytes: freeBytes,
      cuda: cudaReport(gpu),
    },
    fit: fitOf(config, figures, kvPerToken, freeBytes, flags),
    gpu_fit:
      typeof gpu === 'string' || checkpoint === null
        ? null
        : gpuFitOf(checkpoint, { ram: freeBytes, gpu: gpu.probe.freeBytes }, flags),
  }
}

/** What the engine would have in the GPU's memory, and what stays in RAM; or why it would not. */
function gpuFitOf(checkpoint: Checkpoint, free: FreeMemory, flags: SharedFlags) {
  const { ctxSize, kvType, expertVram } = flags
  const sizes = { ...sizesOf(checkpoint), ...movableOf(checkpoint) }
  try {
    const wishes = { contextTokens: ctxSize, kvType, expertVram }
    const { plan, experts } = divideGpuMemory(checkpoint.config, sizes, wishes, free)
    return {
      problem: null,
      context: plan.contextTokens,
      experts: experts.slots,
      head_in_ram: experts.inRam?.head ?? false,
      mlps_in_ram: experts.inRam?.mlps ?? 0,
    }
  } catch (error) {
    if (error instanceof ModelError) return { problem: error.message }
    throw error
  }
}

/** What is left of the free memory for experts, once dense weights and the context's KV have theirs. */
function fitOf(
  config: ModelConfig,
  { bytes, experts }: Inventory,
  kvPerToken: number,
  freeBytes: number,
  flags: SharedFlags,
) {
  const context = Math.min(flags.ctxSize ?? config.context, config.context)
  const kvBytes = context * kvPerToken
  const leftBytes = freeBytes - bytes.dense - kvBytes
  const fitting = bytes.oneExpert === 0 ? 0 : Math.floor(leftBytes / bytes.oneExpert)
  const count = Math.max(0, Math.min(experts.count, fitting))
  return {
    context,
    kv_bytes: kvBytes,
    dense_and_kv: leftBytes >= 0,
    experts: count,
    share: experts.count === 0 ? null : count / experts.count,
  }
}
