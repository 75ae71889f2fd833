// What the engine's two threads say to each other.
import type { MessagePort } from 'node:worker_threads'
import type { ModelConfig } from '../model/config.js'
import type { ForecastMemory } from '../prefetch/forecast.js'
import type { BackendName } from './backend.js'
import type { ExpertPlan } from './budget.js'
import type { GrammarSeat } from './grammarseat.js'
import type { MemoryPlan } from './layout.js'
import type { Emission, Ending } from './loop.js'
import type { OpenWishes } from './open.js'
import type { Request } from './sequence.js'
import type { EngineCounters } from './stats.js'

/**
 * Of the time, what sequences that draw keep while prompts are read: a quarter of their speed, and some
 * for the experts that prompts displace.
 */
export const usualDrawShare = 0.4

/** What the engine is, once it is open. */
export interface EngineFacts {
  readonly config: ModelConfig
  readonly plan: MemoryPlan
  readonly experts: ExpertPlan
  /** Over shared memory: read them at any time. */
  readonly counters: EngineCounters
  /** Shared memory in which the forecast of experts learns; null: nothing is foreseen. */
  readonly forecast: ForecastMemory | null
  /** Of the largest routed expert as it is stored, scales included; 0 where there is none. */
  readonly expertBytes: number
  /** What else a person should know of how it was opened; null: nothing. */
  readonly note: string | null
  readonly backend: BackendName
  /** Within which the same tokens give the same bits. */
  readonly instructionSet: string
  /** Whether the same tokens give the same bits whatever lies where. */
  readonly isReproducible: boolean
  /** Backend, instruction set and threads, for people. */
  readonly device: string
}

/** What a request's cancel flag may say. The device ends its step for any but `no`. */
export const CancelFlag = {
  no: 0,
  /** Nobody wants more of it. */
  forGood: 1,
  /** It will be asked for again with what it has drawn: its keys and values are worth keeping. */
  forNow: 2,
} as const

export interface WorkerData {
  readonly folder: string
  readonly wishes: Omit<OpenWishes, 'control' | 'wake' | 'log'>
  /** Where routing is recorded. */
  readonly tracePath?: string | undefined
  /** Of the time, as `usualDrawShare`, which it is where left out. */
  readonly drawShare?: number | undefined
  /** See EngineWishes. */
  readonly sequencesAtFirst?: number | undefined
  readonly control: Int32Array
  /** One shared word, changed and notified with every message. */
  readonly wake: Int32Array
  readonly port: MessagePort
}

export type ToWorker =
  | {
      readonly kind: 'request'
      readonly slot: number
      readonly request: Request
      /** Where its grammar is followed; null: it has none. */
      readonly seat: GrammarSeat | null
    }
  | { readonly kind: 'close' }

export type FromWorker =
  | { readonly kind: 'ready'; readonly facts: EngineFacts }
  | { readonly kind: 'refused'; readonly message: string }
  /** The device cannot go on; the thread ends all requests and itself. */
  | { readonly kind: 'lost'; readonly message: string }
  /** What was recorded could not be written in the end. */
  | { readonly kind: 'unwritten'; readonly message: string }
  /** What a person should know, one line. */
  | { readonly kind: 'told'; readonly line: string }
  | { readonly kind: 'token'; readonly slot: number; readonly emission: Emission }
  /** So much has been used since that the forecast can learn from it. */
  | { readonly kind: 'lessons' }
  | { readonly kind: 'ending'; readonly slot: number; readonly ending: Ending }
