// What stands about the files of a checkpoint: for each a manifest in the cache folder, as `verify`
// recorded it, with what the file was known by at that time. A manifest whose file has another size,
// time or inode by now is stale and never used. The engine takes what stands and goes without the rest.
import { createHash } from 'node:crypto'
import fs from 'node:fs'
import os from 'node:os'
import { basename, dirname, join } from 'node:path'
import type { Checkpoint } from '../model/checkpoint.js'
import { ModelError } from '../model/error.js'
import type { Environment } from '../model/locate.js'
import { withFile } from '../model/window.js'
import {
  decodeManifest,
  encodeManifest,
  type FileIdentity,
  type FileManifest,
  firstBlocks,
} from './manifestfile.js'
import type { TensorChecksums } from './tables.js'

/** Far above any honest manifest: a file of a terabyte needs some 6 MB. */
const MANIFEST_BYTES_LIMIT = 2 ** 28

/** Throws ModelError when there is no such file. */
export function identityOf(path: string): FileIdentity {
  try {
    const real = fs.realpathSync(path)
    const { size, mtimeNs, ino } = fs.statSync(real, { bigint: true })
    return { path: real, sizeBytes: Number(size), mtimeNs: String(mtimeNs), inode: String(ino) }
  } catch (error) {
    throw new ModelError(`${basename(path)}: cannot be found: ${reasonOf(error)}`)
  }
}

export function isSameFile(one: FileIdentity, other: FileIdentity): boolean {
  return (
    one.path === other.path &&
    one.sizeBytes === other.sizeBytes &&
    one.mtimeNs === other.mtimeNs &&
    one.inode === other.inode
  )
}

/** Where this program keeps what it can make again. */
export function cacheFolder({ XDG_CACHE_HOME, HOME }: Environment): string {
  const cache = XDG_CACHE_HOME ? XDG_CACHE_HOME : join(HOME ? HOME : os.homedir(), '.cache')
  return join(cache, 'ring-offload')
}

/** Where manifests and journals lie. */
export function manifestFolder(environment: Environment): string {
  return join(cacheFolder(environment), 'manifests')
}

/** The place of what is known about a file; `kind` is the ending. */
export function manifestPath(folder: string, path: string, kind: 'manifest' | 'journal'): string {
  const name = createHash('sha256').update(path).digest('hex').slice(0, 32)
  return join(folder, `${name}.${kind}`)
}

/** What stands about a file: a manifest, none, or one that is of an earlier state of the file. */
export type Standing =
  | { readonly kind: 'fresh'; readonly manifest: FileManifest }
  | { readonly kind: 'stale'; readonly recorded: Date }
  | { readonly kind: 'absent' }

/** Throws ModelError where what lies there is no manifest. */
export function readManifest(folder: string, identity: FileIdentity): Standing {
  const path = manifestPath(folder, identity.path, 'manifest')
  if (!fs.existsSync(path)) return { kind: 'absent' }
  const manifest = decodeManifest(readBounded(path), `manifest ${path}`)
  const { head } = manifest
  if (isSameFile(head.identity, identity)) return { kind: 'fresh', manifest }
  return { kind: 'stale', recorded: head.recorded }
}

/** Keeps a manifest, whole or not at all. */
export function writeManifest(folder: string, manifest: FileManifest): void {
  const { identity } = manifest.head
  replaceFile(manifestPath(folder, identity.path, 'manifest'), encodeManifest(manifest), true)
}

/** A file of the cache, which must not make us read without end. */
export function readBounded(path: string): Buffer {
  return withFile(path, ({ name, descriptor, sizeBytes }) => {
    if (sizeBytes <= MANIFEST_BYTES_LIMIT) return fs.readFileSync(descriptor)
    throw new ModelError(
      `${name}: expected at most ${MANIFEST_BYTES_LIMIT} bytes, found ${sizeBytes}`,
    )
  })
}

/** Writes beside the place, then moves there. Flushed, it outlives a power cut. */
export function replaceFile(path: string, bytes: Uint8Array, isFlushed: boolean): void {
  const partial = `${path}.${process.pid}.partial`
  try {
    fs.mkdirSync(dirname(path), { recursive: true })
    fs.writeFileSync(partial, bytes, { flush: isFlushed })
    fs.renameSync(partial, path)
    if (isFlushed) syncFolder(dirname(path))
  } catch (error) {
    if (fs.existsSync(partial)) fs.rmSync(partial)
    throw new ModelError(`${path}: cannot be written: ${reasonOf(error)}`)
  }
}

function syncFolder(folder: string): void {
  const descriptor = fs.openSync(folder, 'r')
  try {
    fs.fsyncSync(descriptor)
  } finally {
    fs.closeSync(descriptor)
  }
}

export function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/** The checksums that stand for a checkpoint, and what a log should say of those that do not. */
export interface LoadedManifest {
  readonly checksums: TensorChecksums | null
  readonly note: string | null
}

/**
 * The manifests of a checkpoint's files as far as they stand: blocks of the others are not checked.
 * Never throws; the note says why something that was recorded is not used.
 */
export function loadManifest(
  { files }: Pick<Checkpoint, 'files'>,
  environment: Environment = process.env,
): LoadedManifest {
  const folder = manifestFolder(environment)
  const manifests: (FileManifest | null)[] = []
  const unused: string[] = []
  for (const { path } of files) {
    const found = usableManifest(folder, path)
    manifests.push(typeof found === 'string' ? null : found)
    if (typeof found === 'string') unused.push(found)
  }
  const isRecorded = manifests.some((manifest) => manifest !== null)
  return { checksums: isRecorded ? combine(manifests) : null, note: noteOf(unused) }
}

/** The manifest, null where none was recorded, or why it is not used. */
function usableManifest(folder: string, path: string): FileManifest | null | string {
  try {
    const standing = readManifest(folder, identityOf(path))
    if (standing.kind === 'fresh') return standing.manifest
    return standing.kind === 'absent' ? null : `${basename(path)} has changed since it was recorded`
  } catch (error) {
    return reasonOf(error)
  }
}

function noteOf(unused: readonly string[]): string | null {
  const [first] = unused
  if (first === undefined) return null
  const others = unused.length > 1 ? `, and ${unused.length - 1} more` : ''
  return `checksums are not used: ${first}${others}; verify --record records them anew`
}

function combine(manifests: readonly (FileManifest | null)[]): TensorChecksums {
  const count = manifests.reduce((sum, manifest) => sum + (manifest?.sums.length ?? 0), 0)
  const blocks = new Uint32Array(count)
  let filled = 0
  const parts = manifests.map((manifest) => {
    if (manifest === null) return null
    const { head, sums } = manifest
    const base = filled
    blocks.set(sums, base)
    filled += sums.length
    return { base, extents: head.extents, first: firstBlocks(head.extents) }
  })
  const firstOf = (file: number, offset: number, bytes: number): number => {
    const part = parts[file] ?? null
    if (part === null) return -1
    const extent = extentAt(part.extents, offset)
    // Of another length it is another tensor, with other and fewer or more blocks.
    if (part.extents[2 * extent + 1] !== bytes) return -1
    return part.base + (part.first[extent] ?? 0)
  }
  return { blocks, firstOf }
}

/** The index of the extent that begins at the offset, or -1. */
function extentAt(extents: Float64Array, offset: number): number {
  let [low, high] = [0, extents.length / 2]
  while (low < high) {
    const middle = (low + high) >>> 1
    if ((extents[2 * middle] ?? 0) < offset) low = middle + 1
    else high = middle
  }
  return extents[2 * low] === offset ? low : -1
}
