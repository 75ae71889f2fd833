// What keys and values of a text depend on besides its tokens, as one line of text: the model's files,
// how positions are turned, how values are kept, and what computes. Two of these that differ in anything
// share no KV. Files are known by name, size and time, and by some of their bytes.
import { createHash } from 'node:crypto'
import fs from 'node:fs'
import { basename, join } from 'node:path'
import type { Checkpoint } from '../model/checkpoint.js'
import { kvBlockTokens } from './kv.js'
import type { KvType } from './layout.js'

export interface KvOrigin {
  /** Of the model's files. */
  readonly model: string
  /** YaRN, or null. */
  readonly rope: unknown
  readonly kvType: KvType
  readonly blockTokens: number
  /** Backend, instruction set, products and version of the kernels. */
  readonly computes: string
}

/** Of every file, this many bytes at this many places are part of its identity. */
const sampleBytes = 4096
const samples = 8

export function originOf(checkpoint: Checkpoint, kvType: KvType, computes: string): KvOrigin {
  const rope = checkpoint.config.yarn ?? null
  return { model: modelDigest(checkpoint), rope, kvType, blockTokens: kvBlockTokens, computes }
}

export function identityOf({ model, rope, kvType, blockTokens, computes }: KvOrigin): string {
  return JSON.stringify([model, rope, kvType, blockTokens, computes])
}

export function modelDigest({ folder, files }: Pick<Checkpoint, 'folder' | 'files'>): string {
  const hash = createHash('sha256').update(fs.readFileSync(join(folder, 'config.json')))
  const sample = new Uint8Array(sampleBytes)
  for (const { path, sizeBytes } of files) {
    const descriptor = fs.openSync(path, 'r')
    try {
      const { mtimeNs } = fs.fstatSync(descriptor, { bigint: true })
      hash.update(JSON.stringify([basename(path), sizeBytes, String(mtimeNs)]))
      for (let nth = 0; nth < samples; nth += 1) {
        const at = Math.floor((Math.max(0, sizeBytes - sampleBytes) * nth) / (samples - 1))
        const count = fs.readSync(descriptor, sample, 0, sampleBytes, at)
        hash.update(sample.subarray(0, count))
      }
    } finally {
      fs.closeSync(descriptor)
    }
  }
  return hash.digest('hex')
}
