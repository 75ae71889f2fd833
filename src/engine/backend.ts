// What computes: the processor, or a GPU by a shared library beside the addon. Here it is found out whether
// that library can be used, and why not, in one sentence; what fits into its memory is decided elsewhere.
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { addonPath, type LibraryProbe, probeLibrary } from '../../native/index.js'
import { ModelError } from '../model/error.js'
import type { Environment } from '../model/locate.js'
import { hasGpu } from './gpu.js'

/** `auto`: the GPU where one can be used. */
export type BackendWish = 'auto' | 'cpu' | 'cuda'
export type BackendName = 'cpu' | 'cuda'

/** A GPU that can be computed on. */
export interface GpuBackend {
  readonly library: string
  readonly probe: LibraryProbe
}

export interface ChosenBackend {
  /** Null: the processor computes. */
  readonly gpu: GpuBackend | null
  /** Why a GPU that is there is not used; null: there is nothing to say. */
  readonly note: string | null
}

const cpu: ChosenBackend = { gpu: null, note: null }

/** Throws ModelError where CUDA is asked for and cannot be had. `root`: where /sys is found. */
export function chooseBackend(
  wish: BackendWish,
  environment: Environment = process.env,
  root = '/',
): ChosenBackend {
  if (wish === 'cpu') return cpu
  const found = probeGpu(environment)
  if (typeof found !== 'string') return { gpu: found, note: null }
  if (wish === 'cuda') throw new ModelError(`--backend cuda: ${found}`)
  return hasGpu(root) ? { gpu: null, note: `the GPU is not used: ${found}` } : cpu
}

/** The GPU that could be computed on, or why there is none, a sentence. */
export function probeGpu(environment: Environment = process.env): GpuBackend | string {
  const named = environment.RING_CUDA_LIBRARY ?? ''
  const library = named === '' ? join(dirname(addonPath), 'ring_cuda.so') : named
  if (named === '' && !existsSync(library)) {
    return 'this build has no CUDA backend: npm run build:gpu makes it where nvcc is, the compiler of the CUDA toolkit'
  }
  const probe = probeLibrary(library)
  return probe.problem === '' ? { library, probe } : probe.problem
}
