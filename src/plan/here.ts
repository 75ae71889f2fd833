// What plans are made of here: this machine as far as it is known without measuring, and routing to rehearse
// on. For `plan`, and for jobs that ask the same model how many answers to have in work. The only file here that
// reads a system.
import { knownMachine } from '../engine/knownmachine.js'
import type { MathName } from '../engine/layout.js'
import type { DriveMeasure } from '../engine/machine.js'
import { bundled } from '../model/bundled.js'
import type { ModelConfig } from '../model/config.js'
import type { Environment } from '../model/locate.js'
import { knownRouters } from '../simulate/foresightrouter.js'
import { readRouting } from '../simulate/source.js'
import { assumedMachine, type PlannedMachine, withNumbers } from './machine.js'
import { isAlike, madeRouting, type PlannedRouting, recordedRouting } from './routing.js'

const bundledRouting = 'models/routing/ring-tiny.trace'

/** This machine with the drive under a folder, which must be there: told, measured by doctor, or assumed. */
export function machineHere(
  environment: Environment,
  folder: string,
  math: MathName,
): { readonly machine: PlannedMachine; readonly isMeasured: boolean } {
  const { host, memory, computing, reads } = knownMachine(environment, folder)
  const told = { ram: host.memory.availableBytes, cores: host.processor.cores }
  const products = math === 'bf16' ? computing?.bf16ProductsPerSecond : computing?.productsPerSecond
  const measured = {
    ...(memory === null ? {} : { memory: memory.bytesPerSecond }),
    ...(memory === null || computing === null
      ? {}
      : { reading: computing.oneTokenBytesPerSecond / memory.bytesPerSecond }),
    ...(computing === null || typeof products !== 'number'
      ? {}
      : { products: products / computing.threads }),
    ...(reads === null ? {} : { drive: reads.bytesPerSecond, ...besideOf(reads) }),
  }
  const machine = withNumbers(withNumbers(assumedMachine(), told, 'told'), measured, 'measured')
  return {
    machine,
    isMeasured: memory !== null && computing !== null && (reads?.beside ?? null) !== null,
  }
}

function besideOf({ bytesPerSecond, beside }: DriveMeasure) {
  if (beside === null) return {}
  const kept = Math.min(1, beside.bytesPerSecond / bytesPerSecond)
  return { beside: kept, lost: (1 - beside.computing) / beside.bytesPerSecond }
}

/** The trace, or what was recorded of such layers, or what is made up of them. Throws ModelError for another trace. */
export function routingFor(config: ModelConfig, tracePath?: string): PlannedRouting {
  const trace = readRouting(tracePath ?? bundled(bundledRouting))
  if (tracePath === undefined && !isAlike(trace, config)) return madeRouting(config)
  return recordedRouting(trace, knownRouters(trace), config)
}
