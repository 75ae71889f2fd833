// The machine that is planned for: a few numbers, and of each where it comes from. What nobody measured or
// told is assumed, and said to be. It reads no system; names are those of `--machine`.

/** Measured here, told by the system, given by the person, or assumed. */
export type Source = 'measured' | 'told' | 'given' | 'assumed'

export interface Known {
  readonly value: number
  readonly source: Source
}

/** Names as `--machine` and `--what-if` have them; `simulate --machine` means the same by those it shares. */
export const machineNames = [
  'ram',
  'cores',
  'memory',
  'reading',
  'products',
  'drive',
  'drives',
  'beside',
  'lost',
  'latency',
  'chunk',
  'depth',
  'gpu',
  'vram',
  'copy',
] as const
export type MachineName = (typeof machineNames)[number]

/**
 * ram: bytes that are free for a model. memory, drive (of one drive), vram (of the GPU's memory) and copy (of
 * the link to the GPU): bytes a second. latency: seconds. chunk, gpu (its memory): bytes; gpu 0: none. As the
 * kernels do by themselves: reading: of `memory`, what products of one token read weights at, a share; products:
 * multiply-adds of a core a second with each token more. While all cores compute and drives are read: beside: of
 * a drive's rate, what is left, a share; lost: seconds of computing for each byte that is read meanwhile.
 */
export type PlannedMachine = Readonly<Record<MachineName, Known>>

const GIB = 2 ** 30

/** What a person who says nothing is taken to have. */
const assumptions: Readonly<Record<MachineName, number>> = {
  ram: 58 * GIB,
  cores: 8,
  memory: 50e9,
  reading: 0.96,
  products: 7e10,
  drive: 3e9,
  drives: 1,
  beside: 0.88,
  lost: 0,
  latency: 100e-6,
  chunk: 2 * 2 ** 20,
  depth: 32,
  gpu: 0,
  vram: 900e9,
  copy: 25e9,
}

/** What the system keeps of memory for itself where the whole of it is given. */
const systemBytes = 2 * GIB

/** Numbers of another source take the places of those that there are. */
export function withNumbers(
  machine: PlannedMachine,
  numbers: Partial<Readonly<Record<MachineName, number>>>,
  source: Source,
): PlannedMachine {
  const known = Object.entries(numbers).map(([name, value]) => [name, { value, source }] as const)
  return { ...machine, ...Object.fromEntries(known) }
}

/** A machine of which nothing is known. */
export function assumedMachine(): PlannedMachine {
  const known = machineNames.map((name) => [
    name,
    { value: assumptions[name], source: 'assumed' } as const,
  ])
  return Object.fromEntries(known) as Record<MachineName, Known>
}

/** Of all memory that a machine has, what is free for a model. */
export function freeOf(ramBytes: number): number {
  return Math.max(0, ramBytes - systemBytes)
}
