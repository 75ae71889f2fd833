// A hub of two hosts on this machine, with the manners of the public one: it lists models, sends whoever wants
// a small file to another address of its own and whoever wants a large one to a signed address of a storage,
// which takes nothing but the signature; a model's old name leads to its new one. What goes wrong is each test's
// own: a fault is asked for before every answer with bytes. It keeps a record of every request.
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join, relative } from 'node:path'
import { ringTiny } from './paths.js'

export const hubModel = 'some-org/ring-tiny'
/** What it was called before. */
export const oldModel = 'old-org/ring-tiny'
const signature = 'X-Signature=0123&X-Expires=3600'
const fileOnHub =
  /^\/(?:some-org\/ring-tiny\/resolve|api\/resolve-cache\/models\/some-org\/ring-tiny)\/[0-9a-f]{40}\/(.+)$/

/** What goes wrong with one answer. */
export type Fault =
  | { readonly kind: 'status'; readonly status: number; readonly headers?: Record<string, string> }
  /** The connection breaks after so many bytes of the body. */
  | { readonly kind: 'cut'; readonly bytes: number }
  /** So many bytes come, then nothing more, and the connection stays; `reached` is called at that moment. */
  | { readonly kind: 'stall'; readonly bytes: number; readonly reached?: () => void }
  /** So many bytes come, the rest later. */
  | { readonly kind: 'held'; readonly bytes: number; readonly until: Promise<void> }
  /** One byte is another one. */
  | { readonly kind: 'wrong' }
  /** All of it, with status 200, whatever was asked for. */
  | { readonly kind: 'rangeless' }
  /** In pieces, with pauses between them. */
  | { readonly kind: 'slow'; readonly pieceBytes: number; readonly pauseMs: number }

export interface Request {
  readonly host: 'hub' | 'storage'
  readonly method: string
  readonly path: string
  /** Of the file that is asked for, if any. */
  readonly file: string | null
  readonly range: string | null
  readonly authorization: string | null
}

export interface HubFile {
  readonly path: string
  readonly bytes: Buffer
  readonly isLarge: boolean
  /** Announced instead of the true one. */
  readonly sizeBytes?: number
}

/** Those of the bundled model, as it is: 19 MB. */
export const wholeFiles = filesOf(ringTiny)
/** The same, with shards that are only their beginnings: nobody opens what most tests pull. */
const cutFiles: readonly HubFile[] = wholeFiles.map((file) =>
  file.isLarge ? { ...file, bytes: file.bytes.subarray(0, 300_000) } : file,
)

export class HubServer {
  readonly requests: Request[] = []
  /** Asked before each answer. */
  fault: (request: Request) => Fault | null = () => null
  files: readonly HubFile[] = cutFiles
  /** A listing comes in pages of so many. */
  pageFiles = 4
  readonly #hub: Server
  readonly #storage: Server

  private constructor() {
    this.#hub = createServer((request, response) => this.#answer('hub', request, response))
    this.#storage = createServer((request, response) => this.#answer('storage', request, response))
  }

  static async start(): Promise<HubServer> {
    const server = new HubServer()
    for (const one of [server.#hub, server.#storage]) {
      one.listen(0, '127.0.0.1')
      await once(one, 'listening')
    }
    return server
  }

  get endpoint(): string {
    return addressOf(this.#hub)
  }

  /** Changes with the files. */
  get commit(): string {
    const hash = createHash('sha1')
    for (const { path, bytes } of this.files) hash.update(path).update(sha256Of(bytes))
    return hash.digest('hex')
  }

  /** Requests for the bytes of a file, of both hosts. */
  asked(file: string): Request[] {
    return this.requests.filter((one) => one.file === file && one.method === 'GET')
  }

  async stop(): Promise<void> {
    for (const one of [this.#hub, this.#storage]) {
      one.closeAllConnections()
      await new Promise((resolve) => one.close(resolve))
    }
  }

  #answer(host: Request['host'], message: IncomingMessage, response: ServerResponse): void {
    const url = new URL(message.url ?? '/', this.endpoint)
    const path = decodeURIComponent(url.pathname)
    const request: Request = {
      host,
      method: message.method ?? '',
      path: url.pathname,
      file: (host === 'hub' ? fileOnHub : /^\/(.+)$/).exec(path)?.[1] ?? null,
      range: message.headers.range ?? null,
      authorization: message.headers.authorization ?? null,
    }
    this.requests.push(request)
    const fault = this.fault(request)
    if (fault?.kind === 'status') {
      response.writeHead(fault.status, fault.headers).end()
      return
    }
    const isSigned = `?${signature}` === url.search && request.authorization === null
    if (host === 'storage' && !isSigned) response.writeHead(400).end()
    else if (path.includes(oldModel)) {
      response.writeHead(307, { location: url.href.replace(oldModel, hubModel) }).end()
    } else if (request.file !== null) this.#giveFile(request, fault, response)
    else if (url.pathname.startsWith(`/api/models/${hubModel}/`)) this.#giveFacts(url, response)
    else response.writeHead(404, { 'x-error-code': 'RepoNotFound' }).end()
  }

  #giveFacts(url: URL, response: ServerResponse): void {
    const [, kind, name] = /\/(revision|tree)\/(.+)$/.exec(decodeURIComponent(url.pathname)) ?? []
    if (name !== 'main' && name !== this.commit) {
      response.writeHead(404, { 'x-error-code': 'RevisionNotFound' }).end()
      return
    }
    if (kind === 'revision') {
      giveJson(response, { _id: '1', id: hubModel, sha: this.commit })
      return
    }
    const from = Number(url.searchParams.get('cursor') ?? 0)
    const end = from + this.pageFiles
    if (end < this.files.length) {
      url.searchParams.set('cursor', String(end))
      response.setHeader('link', `<${url.href}>; rel="next"`)
    }
    const folder = { type: 'directory', path: 'folder', size: 0, oid: '0'.repeat(40) }
    giveJson(response, [folder, ...this.files.slice(from, end).map(entryOf)])
  }

  #giveFile(request: Request, fault: Fault | null, response: ServerResponse) {
    const { host, file, range, method, path } = request
    const found = this.files.find(({ path }) => path === file)
    if (found === undefined) {
      response.writeHead(404, { 'x-error-code': 'EntryNotFound' }).end()
      return
    }
    if (host === 'hub' && !path.startsWith('/api/')) {
      response.writeHead(found.isLarge ? 302 : 307, this.#whereTo(found)).end()
      return
    }
    const start =
      fault?.kind === 'rangeless' ? 0 : Number(/^bytes=(\d+)-$/.exec(range ?? '')?.[1] ?? 0)
    const body = Buffer.from(found.bytes.subarray(start))
    const size = found.bytes.length
    const isPart = range !== null && fault?.kind !== 'rangeless'
    if (isPart && start >= size) {
      response.writeHead(416, { 'content-range': `bytes */${size}` }).end()
      return
    }
    if (isPart) response.setHeader('content-range', `bytes ${start}-${size - 1}/${size}`)
    response.writeHead(isPart ? 206 : 200, { 'content-length': body.length })
    if (method === 'HEAD') response.end()
    else giveBody(response, body, fault).catch(() => response.destroy())
  }

  /** Where the bytes of a file are, and what the hub says of them on the way. */
  #whereTo({ path, bytes, isLarge }: HubFile): Record<string, string> {
    const escaped = path.split('/').map(encodeURIComponent).join('/')
    const facts = { 'x-repo-commit': this.commit, 'x-linked-size': String(bytes.length) }
    if (!isLarge) {
      const location = `/api/resolve-cache/models/${hubModel}/${this.commit}/${escaped}`
      return { ...facts, location, etag: `"${gitNameOf(bytes)}"` }
    }
    return {
      ...facts,
      location: `${addressOf(this.#storage)}/${escaped}?${signature}`,
      'x-linked-etag': `"${sha256Of(bytes)}"`,
      'x-xet-hash': sha256Of(Buffer.from(path)),
      link: `<${this.endpoint}/api/models/${hubModel}/xet-read-token/${this.commit}>; rel="xet-auth"`,
    }
  }
}

async function giveBody(response: ServerResponse, body: Buffer, fault: Fault | null) {
  if (fault?.kind === 'wrong') body.writeUInt8(body.readUInt8(0) ^ 1, 0)
  if (fault?.kind === 'slow') {
    for (let at = 0; at < body.length && !response.destroyed; at += fault.pieceBytes) {
      response.write(body.subarray(at, at + fault.pieceBytes))
      await new Promise((resolve) => setTimeout(resolve, fault.pauseMs))
    }
  }
  if (fault?.kind === 'held') {
    response.write(body.subarray(0, fault.bytes))
    await fault.until
    response.end(body.subarray(fault.bytes))
    return
  }
  if (fault?.kind === 'cut' || fault?.kind === 'stall') {
    const sent = body.subarray(0, fault.bytes)
    response.write(sent, () => {
      if (fault.kind === 'cut') response.destroy()
      else fault.reached?.()
    })
    return
  }
  response.end(fault?.kind === 'slow' ? undefined : body)
}

function giveJson(response: ServerResponse, value: unknown): void {
  response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(value))
}

/** The files of a folder; what would be large in a real model counts as large. */
function filesOf(folder: string): readonly HubFile[] {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .map((name) => join(folder, name))
    .filter((path) => statSync(path).isFile())
    .sort()
    .map((path) => ({
      path: relative(folder, path),
      bytes: readFileSync(path),
      isLarge: /\.(?:safetensors|gguf|bin)$/.test(path),
    }))
}

/** Each is asked for many times. */
const sha256s = new WeakMap<Buffer, string>()

export function sha256Of(bytes: Buffer): string {
  const found = sha256s.get(bytes) ?? createHash('sha256').update(bytes).digest('hex')
  sha256s.set(bytes, found)
  return found
}

/** As git names a blob. */
export function gitNameOf(bytes: Buffer): string {
  return createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex')
}

function entryOf({ path, bytes, isLarge, sizeBytes = bytes.length }: HubFile) {
  const entry = { type: 'file', path, size: sizeBytes }
  if (!isLarge) return { ...entry, oid: gitNameOf(bytes) }
  return {
    ...entry,
    oid: '0'.repeat(40),
    lfs: { oid: sha256Of(bytes), size: sizeBytes, pointerSize: 134 },
  }
}

/** Another port is another host to whoever asks. */
function addressOf(server: Server): string {
  const { port } = server.address() as AddressInfo
  return `http://127.0.0.1:${port}`
}
