// Where a pulled model lies: the Hugging Face cache as the public tools keep it (blobs named by their
// checksum, snapshots of links to them, refs to snapshots), with blobs in further folders where drives
// share a model. A blob under its name has been checked; one that is still coming ends in .incomplete.
import fs from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { ModelError } from '../model/error.js'
import type { RemoteFile } from './listing.js'

export class Store {
  readonly #folder: string
  readonly folderName: string

  constructor(
    readonly cache: string,
    model: string,
    /** Where large blobs go; none: to the cache. */
    private readonly drives: readonly string[],
  ) {
    this.folderName = `models--${model.replace('/', '--')}`
    this.#folder = resolve(cache, this.folderName)
  }

  snapshot(commit: string): string {
    return join(this.#folder, 'snapshots', commit)
  }

  /** Where the bytes of each file are or will be, in the order of the files. */
  places(files: readonly RemoteFile[], commit: string): Place[] {
    const free = this.#folders().map((folder) => ({ folder, bytes: freeBytes(folder).bytes }))
    // Large ones first, each to where most is free: drives fill evenly.
    const bySize = [...files].sort((a, b) => b.sizeBytes - a.sizeBytes)
    const blobs = new Map<string, string>()
    for (const file of bySize) {
      const { hex, kind } = file.digest
      const known = this.#known(file, commit)
      if (known !== null) blobs.set(hex, known.blob)
      if (blobs.has(hex)) continue
      // Small files belong to the snapshot: they stay in the cache.
      const isSmall = kind === 'git'
      const roomiest = free.reduce((best, one) => (one.bytes > best.bytes ? one : best))
      const folder = isSmall ? join(this.#folder, 'blobs') : roomiest.folder
      if (!isSmall) roomiest.bytes -= file.sizeBytes
      blobs.set(hex, join(folder, hex))
    }
    return files.map((file) => placeOf(file, blobs.get(file.digest.hex) ?? ''))
  }

  /** Makes the snapshot name the blob. */
  link({ file, blob }: Place, commit: string): void {
    const path = join(this.snapshot(commit), file.path)
    const isOwn = dirname(blob) === join(this.#folder, 'blobs')
    const target = isOwn ? relative(dirname(path), blob) : blob
    if (linkTarget(path) === target) return
    fs.mkdirSync(dirname(path), { recursive: true })
    const prepared = `${path}.${process.pid}.link`
    fs.rmSync(prepared, { force: true })
    fs.symlinkSync(target, prepared)
    fs.renameSync(prepared, path)
  }

  /** Makes the revision mean the commit. Done last: until then an older snapshot stays in use. */
  setReference(revision: string, commit: string): void {
    if (revision === commit) return
    const path = join(this.#folder, 'refs', revision)
    fs.mkdirSync(dirname(path), { recursive: true })
    const prepared = `${path}.${process.pid}.partial`
    fs.writeFileSync(prepared, commit, { flush: true })
    fs.renameSync(prepared, path)
  }

  #folders(): string[] {
    if (this.drives.length === 0) return [join(this.#folder, 'blobs')]
    return this.drives.map((drive) => resolve(drive, this.folderName, 'blobs'))
  }

  /** A blob that is there, whole or begun: under any of the folders, or wherever a snapshot names it. */
  #known(file: RemoteFile, commit: string): Place | null {
    const { hex } = file.digest
    const named = linkTarget(join(this.snapshot(commit), file.path))
    const candidates = [join(this.#folder, 'blobs'), ...this.#folders()].map((one) =>
      join(one, hex),
    )
    const linked = resolve(dirname(join(this.snapshot(commit), file.path)), named ?? hex)
    if (named !== null && linked.endsWith(`/${hex}`)) candidates.unshift(linked)
    const found = candidates.map((blob) => placeOf(file, blob))
    return (
      found.find(({ isWhole }) => isWhole) ?? found.find(({ hasBytes }) => hasBytes > 0) ?? null
    )
  }
}

/** A file and where its bytes go. */
export interface Place {
  readonly file: RemoteFile
  readonly blob: string
  readonly isWhole: boolean
  /** Of them there already. */
  readonly hasBytes: number
}

export function incompleteOf(blob: string): string {
  return `${blob}.incomplete`
}

function placeOf(file: RemoteFile, blob: string): Place {
  const isWhole = sizeOf(blob) === file.sizeBytes
  const begun = Math.min(file.sizeBytes, sizeOf(incompleteOf(blob)) ?? 0)
  return { file, blob, isWhole, hasBytes: isWhole ? file.sizeBytes : begun }
}

function sizeOf(path: string): number | null {
  try {
    const status = fs.statSync(path)
    return status.isFile() ? status.size : null
  } catch {
    return null
  }
}

function linkTarget(path: string): string | null {
  try {
    return fs.readlinkSync(path)
  } catch {
    return null
  }
}

/** Of the drive under a folder, which need not be there yet. */
function freeBytes(folder: string): { readonly drive: number; readonly bytes: number } {
  for (let there = folder; ; there = dirname(there)) {
    try {
      const { bavail, bsize } = fs.statfsSync(there)
      return { drive: fs.statSync(there).dev, bytes: bavail * bsize }
    } catch (error) {
      if (there === dirname(there)) throw new ModelError(`${folder}: cannot be looked at: ${error}`)
    }
  }
}

/** What a drive must take and has. */
export interface Room {
  readonly folder: string
  readonly neededBytes: number
  readonly freeBytes: number
}

/** By drive, not by folder: two folders may share one. */
export function roomFor(places: readonly Place[]): Room[] {
  const rooms = new Map<number, Room>()
  for (const { file, blob, hasBytes } of places) {
    if (hasBytes === file.sizeBytes) continue
    const { drive, bytes } = freeBytes(dirname(blob))
    const { folder, neededBytes } = rooms.get(drive) ?? { folder: dirname(blob), neededBytes: 0 }
    const needed = neededBytes + file.sizeBytes - hasBytes
    rooms.set(drive, { folder, neededBytes: needed, freeBytes: bytes })
  }
  return [...rooms.values()]
}
