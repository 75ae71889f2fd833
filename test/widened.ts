// The model that figures of speed are taken on: ring-tiny enlarged 16 by 16, 4 GB of experts of 25 MB,
// whose routing is the routing of ring-tiny. And one run of `bench` on it.
import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { command, lastObject } from './command.js'
import { ringTiny } from './paths.js'

export interface Widened {
  readonly folder: string
  remove(): void
}

/** Times as wide; 16 makes 4 GB. RING_WIDE names such a one that is there already; it is not removed. */
export async function widened(factor = 16): Promise<Widened> {
  const given = process.env.RING_WIDE
  if (given !== undefined && factor === 16) return { folder: given, remove: () => {} }
  const parent = mkdtempSync(join(os.tmpdir(), 'ring-wide-'))
  const folder = join(parent, 'wide')
  const made = await command([
    'widen',
    ringTiny,
    folder,
    '--hidden',
    `${factor}`,
    '--expert',
    `${factor}`,
  ])
  if (made.status !== 0) throw new Error(made.stderr)
  return { folder, remove: () => rmSync(parent, { recursive: true }) }
}

/** What `bench` prints of a pass, as far as figures are taken from it. */
export interface BenchPass {
  readonly tokens: readonly number[]
  readonly prefill_tok_s: number
  readonly decode_tok_s: number
  readonly experts: { readonly requests: number; readonly misses: number }
  readonly io: {
    readonly bytes_read: number
    readonly bytes_needed: number
    readonly ceiling_bytes_s: number
    readonly busy: number
    readonly share_of_bound: number
    readonly attainable: number
    readonly reader_cpu_s: number
    readonly checksum_s: number
  }
  readonly compute_s: Readonly<Record<string, number>>
  readonly memory: { readonly share_of_bound: number; readonly ceiling_bytes_s: number }
}

export interface BenchResult extends BenchPass {
  readonly warm: BenchPass
}

export async function benchOf(
  folder: string,
  words: readonly string[],
  environment: Readonly<Record<string, string>> = {},
): Promise<BenchResult> {
  const ran = await command(['bench', folder, ...words, '--json'], { environment })
  if (ran.status !== 0) throw new Error(ran.stderr)
  return lastObject(ran) as unknown as BenchResult
}
