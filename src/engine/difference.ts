// Where a file is no longer as its manifest says. It compares sums only and touches no disk.
import { BLOCK_BYTES, type FileManifest, firstBlocks, isSameExtents } from './manifestfile.js'

/** Adjacent blocks of a tensor, or of the header, that are not as they were recorded. */
export interface Difference {
  readonly file: string
  readonly tensor: string
  /** First byte in the file of the first such block. */
  readonly byte: number
  readonly bytes: number
  readonly since: Date
}

/** What people call a file and its extents. */
export interface FileNames {
  readonly file: string
  readonly names: readonly string[]
}

/** Adjacent blocks of an extent as one. */
export function differences(
  earlier: FileManifest,
  { head, sums }: FileManifest,
  { file, names }: FileNames,
): Difference[] {
  const since = earlier.head.recorded
  // A header that puts its tensors elsewhere has changed itself; their old sums say nothing.
  if (!isSameExtents(earlier.head, head)) {
    return [{ file, tensor: 'header', byte: 0, bytes: head.extents[1] ?? 0, since }]
  }
  const first = firstBlocks(head.extents)
  const found: Difference[] = []
  for (const [extent, tensor] of names.entries()) {
    const [offset = 0, bytes = 0] = head.extents.subarray(2 * extent, 2 * extent + 2)
    const [begin = 0, end = 0] = first.subarray(extent, extent + 2)
    for (let block = begin; block < end; block += 1) {
      if (sums[block] === earlier.sums[block]) continue
      const from = block
      while (block + 1 < end && sums[block + 1] !== earlier.sums[block + 1]) block += 1
      const [start, stop] = [(from - begin) * BLOCK_BYTES, (block + 1 - begin) * BLOCK_BYTES]
      const byte = offset + start
      found.push({ file, tensor, byte, bytes: Math.min(stop, bytes) - start, since })
    }
  }
  return found
}

export function byPlace(one: Difference, other: Difference): number {
  if (one.file !== other.file) return one.file < other.file ? -1 : 1
  return one.byte - other.byte
}
