// The door between policy and mechanism: the types of the few calls that cross it, the loading of the
// addon, and the check that both sides read the same contract. Arguments are numbers and typed arrays;
// nothing here waits for a promise. Only src/engine may import this file. What may surprise: a step's
// batch is copied by `begin`, so its arrays may be filled again at once, but `control` stays shared
// from `open` to `close`, because cancel flags are read while layers run.
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Code, contract, type MathKind, type Reason, type Rung } from './contract.js'

export * from './contract.js'

/** The error that native throws: `code` for the program, `message` for a person. */
export interface DeviceError extends Error {
  readonly code: keyof typeof Code
  /** Row over both tensor tables that the error is about, or -1. */
  readonly tensor: number
}

export function isDeviceError(error: unknown): error is DeviceError {
  return error instanceof Error && 'code' in error && String(error.code) in Code
}

/** What this machine has. */
export interface Machine {
  readonly cores: number
  readonly memoryBytes: number
  readonly instructionSet: string
}

/** Everything that is decided before a device opens; read during `open` only, except `control`. */
export interface Layout {
  readonly files: readonly {
    readonly path: string
    readonly sizeBytes: number
    /** Other files that hold the same bytes; reads are spread over all. */
    readonly mirrors?: readonly string[]
  }[]
  readonly shape: {
    readonly layers: number
    readonly hidden: number
    readonly heads: number
    readonly kvHeads: number
    readonly headDim: number
    readonly rotaryDim: number
    readonly experts: number
    readonly topK: number
    readonly groups: number
    readonly groupsKept: number
    readonly firstMoeLayer: number
    readonly vocabulary: number
    /** Ids from here on are padding and never sampled. */
    readonly sampleable: number
    readonly routedScale: number
    readonly epsilon: number
    readonly ropeMagnitude: number
  }
  readonly limits: {
    readonly stepTokens: number
    readonly parts: number
    /** Most positions of one sequence. */
    readonly context: number
    readonly kvBlocks: number
    readonly kvBlockTokens: number
    readonly kvDtype: number
    /** 0: as many as the machine has. */
    readonly threads: number
    readonly math: number
    /**
     * What a backend in a library leaves in RAM, for the processor to multiply with: the head, and the MLPs
     * (dense ones and shared experts) of so many first layers.
     */
    readonly headInRam: boolean
    readonly mlpsInRam: number
  }
  /** [rotaryDim / 2] inverse frequencies. */
  readonly ropeInverse: Float32Array
  /** Dense table, [OuterTensor.count + layers * LayerTensor.count][TensorField.count]. */
  readonly tensors: Float64Array
  /** [MoE layer][expert][ExpertTensor.count][TensorField.count]. */
  readonly expertTensors: Float64Array
  /** Slots for experts; 0: experts and dense weights are computed with where they are mapped. */
  readonly slots: number
  /** Path of a shared library whose backend computes; empty: the CPU's. */
  readonly library: string
  /** Experts that have room in RAM on their way into slots of the backend's own. */
  readonly rooms: number
  /** Slots in RAM below those of such a backend, which are filled from them as well. */
  readonly slotsBelow: number
  readonly io: ReaderLayout
  /** CRC32C blocks that TensorField.checksums points into. */
  readonly checksums: Uint32Array
  /** Keep router probabilities of every token of a step, for a trace, and those that look ahead. */
  readonly keepsScores: boolean
  /** Those behind the next layer's attention. */
  readonly keepsAttended: boolean
  /** Distances to look ahead, in layers, rising. */
  readonly ahead: Int32Array
  /**
   * [MoE layer][experts] the router's probabilities as each layer last had them, the mean over the
   * tokens of its step; written where a layer routes. Empty: not wanted.
   */
  readonly scores: Float32Array
  /** Stop at every MoE layer: the path of misses, for tests and replay. */
  readonly lockstep: boolean
  /** Over a SharedArrayBuffer where another thread may cancel. */
  readonly control: Int32Array
  /** [Counter.count], over a SharedArrayBuffer where another thread reads along. */
  readonly counters: Float64Array
}

/** How reads are made. Zeros leave a choice to the drive. */
export interface ReaderLayout {
  readonly rung: Rung
  readonly depth: number
  readonly chunkBytes: number
  /** The drive made of RAM; needed by Rung.paced. */
  readonly pace?: Pace
  /** What shall go wrong, for tests. */
  readonly faults: readonly ReadFault[]
}

export interface Pace {
  readonly bytesPerSecond: number
  readonly latencySeconds: number
  readonly depth: number
  /** Share by which latencies vary, 0 to 1. */
  readonly jitter: number
  readonly seed: number
}

export interface ReadFault {
  readonly kind: number
  readonly file: number
  readonly offset: number
  readonly bytes: number
  /** -1: always. */
  readonly times: number
  readonly delaySeconds: number
}

/** What one step computes. Lists follow each other part after part; the records say how long. */
export interface Batch {
  parts: number
  /** [parts][PartField.count] */
  part: Int32Array
  tokens: Int32Array
  /** KV blocks of every part's sequence, from its first token on. */
  blocks: Int32Array
  /** [parts][SamplingField.count] */
  sampling: Float64Array
  /** Tokens so far of the parts whose penalties need them. */
  history: Int32Array
  biasIds: Int32Array
  biasValues: Float32Array
  /** For every masked part ceil(vocabulary / 32) words, bit set: allowed. */
  masks: Uint32Array
  /** Stop with Reason.ahead where experts of later layers may have to be read; absent: do not. */
  looksAhead?: boolean
}

/** What a step gives. Row r is the r-th row with logits, in part order. */
export interface Outcome {
  /** [rows] the drawn token, or -1 */
  next: Int32Array
  /** [rows] natural log-probability of the drawn token, else of the known following one, else NaN */
  logprobs: Float32Array
  topCount: number
  /** [rows][topCount], most likely first */
  topIds: Int32Array
  topLogprobs: Float32Array
  /** [rows][vocabulary], raw */
  logits?: Float32Array
  /** [MoE layer][token][topK], by falling choice score */
  experts?: Uint16Array
  weights?: Float32Array
  /** [parts] Code of each part: a part may fail while the step goes on. */
  faults?: Int32Array
  /** [MoE layer][token][1 + ahead][experts], when the layout keeps them. */
  scores?: Float32Array
  /** Written when the step, or a part of it, failed: why. */
  message?: string
}

/**
 * The one native object. Its calls throw a DeviceError when they are refused; a refused call changes
 * nothing. It belongs to the thread that opened it.
 */
export interface Device {
  open(layout: Layout): void
  /** Starts a step and returns its number; at most Limit.steps_open are open at once. */
  begin(batch: Batch): number
  /** Runs until a decision is wanted or the step ends; fills `stop` [StopField.experts + experts]. */
  advance(step: number, stop: Int32Array): Reason
  /**
   * Computes the wanted experts that have a place (-1: not yet), aligned with the last stop's list. What
   * has not landed of a step that looks ahead may be left to `advance`, which comes back with Reason.ahead
   * first.
   */
  mix(step: number, places: Int32Array): void
  /** Hands over orders [n][OrderField.count]. */
  stage(orders: Int32Array): void
  /** Fills events [n][EventField.count] and returns n; waits up to waitMs when there are none. */
  poll(events: Int32Array, waitMs: number): number
  /**
   * Fills what layers routed to since the last call, [n][UseField.count], and returns n. Layers come
   * whole, so there must be room for one.
   */
  routed(uses: Int32Array): number
  /**
   * At a stop of a step of at most Limit.ahead_tokens: probabilities that the routers of later layers
   * give now, [ahead][token][experts]; zeros where no layer is. `attends`: behind the next layer's
   * attention, which is run early for it.
   */
  foresee(step: number, attends: boolean, scores: Float32Array): void
  /** What routers add to their probabilities before they choose: [MoE layer][experts]. */
  routerBiases(biases: Float32Array): void
  /**
   * Ends the step and fills the outcome; returns `done`, or why there is none. `masks`: in place of
   * those of the batch, where they became known after `begin`.
   */
  sample(step: number, outcome: Outcome, masks?: Uint32Array): Reason
  /** Copies the first tokens of a KV block into another one. Like the two below, between steps only. */
  copyBlock(from: number, to: number, tokens: number): void
  /**
   * The first tokens of a KV block as bytes, [layer][keys, values][kv head][token][headDim] in the
   * layout's dtype; `into` and `from` have exactly that length.
   */
  readBlock(block: number, tokens: number, into: Uint8Array): void
  writeBlock(block: number, tokens: number, from: Uint8Array): void
  /** All that bits depend on besides model and layout; empty when not open. */
  identify(): string
  /** Frees everything; may be called in any state, again too. */
  close(): void
  /** Backend, instruction set, threads: one line for people; empty when not open. */
  describe(): string
}

/** What a backend in a shared library would compute on. */
export interface LibraryProbe {
  /** Why it cannot be used, a sentence; empty: it can. */
  readonly problem: string
  /** Of the processor. */
  readonly name: string
  readonly memoryBytes: number
  readonly freeBytes: number
  /** What it can do, as its maker numbers that. */
  readonly computeMajor: number
  readonly computeMinor: number
  readonly driver: string
}

interface Addon {
  readonly contract: Readonly<Record<string, number>>
  probe(): Machine
  probeLibrary(path: string): LibraryProbe
  measureDrive(probe: DriveProbe): DriveRate
  measureMemory(threads: number): number
  measureProducts(products: ProductsProbe): number[]
  hashExtent(path: string, offset: number, bytes: number, out: Uint32Array, copy?: Uint8Array): void
  readonly Device: new () => Device
}

function findAddon(): string {
  let folder = dirname(fileURLToPath(import.meta.url))
  while (!existsSync(join(folder, 'package.json'))) {
    const parent = dirname(folder)
    if (parent === folder) throw new Error('ring-offload: package.json not found above the program')
    folder = parent
  }
  return join(folder, 'build/native/Release/ring_native.node')
}

/** Names of the entries in which the two sides of the contract differ. */
export function contractDifferences(theirs: Readonly<Record<string, number>>): string[] {
  const ours = new Map<string, number>()
  for (const [group, entries] of Object.entries(contract)) {
    for (const [name, value] of Object.entries(entries)) ours.set(`${group}.${name}`, value)
  }
  const names = new Set([...ours.keys(), ...Object.keys(theirs)])
  return [...names].filter((name) => ours.get(name) !== theirs[name])
}

function loadAddon(path: string): Addon {
  if (!existsSync(path)) {
    throw new Error(
      `ring-offload: ${path} is not built; run npm start in a checkout, npm rebuild ring-offload where it is installed`,
    )
  }
  const addon = createRequire(import.meta.url)(path) as Addon
  const differing = contractDifferences(addon.contract)
  if (differing.length > 0) {
    throw new Error(
      `ring-offload: the addon was built from other sources (${differing.join(', ')} differ); build again`,
    )
  }
  return addon
}

/** The file that the native part is, by which one build is told from another. */
export const addonPath = findAddon()

const addon = loadAddon(addonPath)

/** The numbers of the addon's side of the contract, by `group.name`. */
export const nativeContract = addon.contract

export function probe(): Machine {
  return addon.probe()
}

/** Opens the library of a compute backend and asks it; a library that is open stays so. */
export function probeLibrary(path: string): LibraryProbe {
  return addon.probeLibrary(path)
}

/** Random reads of whole chunks, nothing else between. */
export interface DriveProbe {
  readonly files: Layout['files']
  readonly io: ReaderLayout
  readonly chunkBytes: number
  readonly depth: number
  /** Read in all, unless `seconds` are over before. */
  readonly bytes: number
  readonly seconds: number
  readonly seed: number
  /** That multiply one token with weights meanwhile; 0: nothing else is done. */
  readonly besideThreads: number
}

export interface DriveRate {
  readonly bytesPerSecond: number
  /** Of weights, by the threads beside. */
  readonly weightBytesPerSecond: number
  /** How the bytes were read, and what could not be had, for people. */
  readonly reader: string
}

/** Blocks the calling thread for seconds. */
export function measureDrive(probe: DriveProbe): DriveRate {
  return addon.measureDrive(probe)
}

/**
 * Bytes per second that so many threads (0: as many as the backend takes) read from memory when they
 * do nothing else; blocks the calling thread for a few tenths of a second.
 */
export function measureMemory(threads: number): number {
  return addon.measureMemory(threads)
}

/** Products with FP8 weights of routed experts that lie in memory, by the kernels that models are computed with. */
export interface ProductsProbe {
  /** 0: as many as the backend takes. */
  readonly threads: number
  readonly math: (typeof MathKind)[keyof typeof MathKind]
  /** That each weight is multiplied with: a rate for each entry. */
  readonly tokens: readonly number[]
  /** For each of them; longer where rounds are slow. */
  readonly seconds: number
}

/**
 * Bytes of weights per second, each multiplied with so many tokens; all 0 where the processor has no such
 * products. Blocks the calling thread. Throws a DeviceError where memory is short.
 */
export function measureProducts(products: ProductsProbe): number[] {
  return addon.measureProducts(products)
}

/**
 * CRC32C of every mebibyte of an extent of a file, the last of what is left; `out` has one word for
 * each. `copy` gets the bytes themselves. Blocks the calling thread. Throws a DeviceError when the bytes
 * cannot be read.
 */
export function hashExtent(
  path: string,
  offset: number,
  bytes: number,
  out: Uint32Array,
  copy?: Uint8Array,
): void {
  addon.hashExtent(path, offset, bytes, out, copy)
}

export function createDevice(): Device {
  return new addon.Device()
}
