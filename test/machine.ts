// A machine whose sums can be done by hand: 1 GB/s, experts of 10 MB that take 10 ms, layers of 8 ms of
// which experts have a half.
import type { MachineModel } from '../src/simulate/machine.js'

export const machine: MachineModel = {
  bytesPerSecond: 1e9,
  latencySeconds: 0,
  chunkBytes: 1e6,
  depth: 16,
  copyBytesPerSecond: Number.POSITIVE_INFINITY,
  expertBytes: 1e7,
  layerSeconds: 8e-3,
  expertShare: 0.5,
}
