// Who may ask. Keys are compared by their digests in constant time, all of them every time, so that an
// answer's delay says nothing about how much of a key was right. Without keys the server is for this
// machine only, and then a request must also name this machine: a page of a stranger can point its own
// host name here, and a browser would let it read the answers.
import { createHash, timingSafeEqual } from 'node:crypto'
import type { IncomingHttpHeaders } from 'node:http'
import { isIP } from 'node:net'

export class Keys {
  readonly #digests: readonly Buffer[]

  constructor(keys: readonly string[]) {
    this.#digests = keys.map(digestOf)
  }

  get areNone(): boolean {
    return this.#digests.length === 0
  }

  /** Whether the headers hold one of the keys: as OpenAI's clients send it, or as Anthropic's do. */
  admit(headers: IncomingHttpHeaders): boolean {
    const { authorization = '', 'x-api-key': bare = '' } = headers
    const [, bearer = String(bare)] = /^Bearer +(\S+)\s*$/i.exec(authorization) ?? []
    const digest = digestOf(bearer)
    let isKnown = false
    for (const known of this.#digests) isKnown = timingSafeEqual(known, digest) || isKnown
    return isKnown
  }
}

/** Whether only this machine reaches a server on `host`. */
export function isLoopback(host: string): boolean {
  const bare = host.replace(/^\[(.*)\]$/, '$1').toLowerCase()
  return bare === 'localhost' || bare === '::1' || (isIP(bare) === 4 && bare.startsWith('127.'))
}

/** The host that a Host header names, without the port. */
export function hostNamed(header: string | undefined): string {
  return (header ?? '').replace(/:\d*$/, '')
}

function digestOf(key: string): Buffer {
  return createHash('sha256').update(key, 'utf8').digest()
}
