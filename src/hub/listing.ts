// What a model on the hub is made of at one commit: names, sizes and checksums, checked before use,
// because names become paths. And which of its files are wanted: the model without its other formats,
// or what globs say. It must not know where anything is kept.
import { listFiles, modelInfo } from '@huggingface/hub'
import { ModelError, shown } from '../model/error.js'
import type { Hub } from './hub.js'

/** What a blob is known by: the sha256 of its bytes, or git's sha1 of a small file. */
export type Digest = { readonly kind: 'sha256' | 'git'; readonly hex: string }

export interface RemoteFile {
  /** In the repository; slashes part folders. */
  readonly path: string
  readonly sizeBytes: number
  readonly digest: Digest
}

export interface Listing {
  /** 40 hexadecimal digits. */
  readonly commit: string
  readonly files: readonly RemoteFile[]
}

const FILES_MOST = 100_000

/** Asks the hub. Throws ModelError for a listing that cannot be trusted, too. */
export async function listing(hub: Hub, revision: string): Promise<Listing> {
  const { account, model: name, fetch } = hub
  const hubUrl = account.endpoint
  const { sha } = await answered(hub, () =>
    modelInfo({ name, revision, hubUrl, fetch, additionalFields: ['sha'] }),
  )
  if (typeof sha !== 'string' || !/^[0-9a-f]{40}$/.test(sha)) {
    throw new ModelError(`${name}: expected a commit of the hub, found ${shown(sha)}`)
  }
  const files = await answered(hub, async () => {
    const found: RemoteFile[] = []
    for await (const entry of listFiles({
      repo: name,
      recursive: true,
      revision: sha,
      hubUrl,
      fetch,
    })) {
      if (entry.type !== 'file') continue
      found.push(remoteFile(name, entry))
      if (found.length > FILES_MOST)
        throw new ModelError(`${name}: has more than ${FILES_MOST} files`)
    }
    return found
  })
  return { commit: sha, files: files.sort((a, b) => (a.path < b.path ? -1 : 1)) }
}

/** An answer that is no JSON of the expected shape is the hub's fault, and is said so. */
async function answered<Result>(hub: Hub, ask: () => Promise<Result>): Promise<Result> {
  try {
    return await ask()
  } catch (error) {
    if (!(error instanceof SyntaxError || error instanceof TypeError)) throw error
    throw new ModelError(`${hub.model}: ${hub.account.endpoint} does not answer as a hub does`)
  }
}

interface Entry {
  readonly path: string
  readonly size: number
  readonly oid?: string
  readonly lfs?: { readonly oid: string; readonly size: number }
}

function remoteFile(model: string, { path, size, oid, lfs }: Entry): RemoteFile {
  if (typeof path !== 'string' || !isInside(path)) {
    throw new ModelError(`${model}: expected names inside the model's folder, found ${shown(path)}`)
  }
  const sizeBytes = lfs?.size ?? size
  const hex = lfs?.oid ?? oid
  const digits = lfs === undefined ? 40 : 64
  if (typeof hex !== 'string' || hex.length !== digits || !/^[0-9a-f]+$/.test(hex)) {
    throw new ModelError(`${model}: ${shown(path)}: expected a checksum, found ${shown(hex)}`)
  }
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 0) {
    throw new ModelError(`${model}: ${shown(path)}: expected a size, found ${shown(sizeBytes)}`)
  }
  return { path, sizeBytes, digest: { kind: lfs === undefined ? 'git' : 'sha256', hex } }
}

/** Whether a path stays in the folder that it is joined to. */
function isInside(path: string): boolean {
  const parts = path.split('/')
  return parts.every(
    (part) => part !== '' && part !== '.' && part !== '..' && !/[\\\p{Cc}]/u.test(part),
  )
}

export interface Wanted {
  readonly files: readonly RemoteFile[]
  /** Left out without being asked: the same weights for other programs. */
  readonly otherFormats: readonly RemoteFile[]
}

const OTHER_FORMATS =
  /\.(?:gguf|ggml|onnx|onnx_data|pt|pth|ckpt|h5|msgpack|tflite|ot|mlmodel|npz)$/i
const PICKLED = /\.bin$/i

/** Globs decide where any are given; else all files but those of other formats. */
export function wanted(
  { files }: Listing,
  include: readonly string[],
  exclude: readonly string[],
): Wanted {
  const [isIncluded, isExcluded] = [matcher(include), matcher(exclude)]
  const left = files.filter(({ path }) => !isExcluded(path))
  if (include.length > 0) {
    return { files: left.filter(({ path }) => isIncluded(path)), otherFormats: [] }
  }
  const hasOurs = left.some(({ path }) => path.endsWith('.safetensors'))
  const isOther = ({ path }: RemoteFile) =>
    OTHER_FORMATS.test(path) || (hasOurs && PICKLED.test(path))
  return { files: left.filter((file) => !isOther(file)), otherFormats: left.filter(isOther) }
}

/** `*` is any text, slashes too, and `?` one character; a glob without a slash is tried on the last part too. */
function matcher(globs: readonly string[]): (path: string) => boolean {
  const patterns = globs.map((glob) => {
    const text = glob
      .replace(/\*+/g, '*')
      .replace(/[.+^${}()|[\]\\]/g, '\\$&')
      .replaceAll('*', '.*')
      .replaceAll('?', '.')
    return new RegExp(glob.includes('/') ? `^${text}$` : `^(?:.*/)?${text}$`, 's')
  })
  return (path) => patterns.some((pattern) => pattern.test(path))
}
