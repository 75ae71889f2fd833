// The hub as it is spoken to: its address and our token, from the variables that the public tools read;
// every question asked with patience; every refusal one sentence that says what to do. It knows no file
// of this machine but the token's. The token goes to the hub's own host only: where an answer sends us
// to another one, fetch leaves it out.
import { existsSync } from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { ModelError } from '../model/error.js'
import type { Environment } from '../model/locate.js'
import { readText } from '../model/window.js'
import { Passing, type Patience, patiently, Watchdog } from './patience.js'

const TOKEN_BYTES_MOST = 4096
/** Far above the longest page of a listing. */
const ANSWER_BYTES_MOST = 64 * 2 ** 20
/** From one address of the hub to the next. */
const REDIRECTS_MOST = 5
/** What the hub says, without a code, of a model that it has closed. */
const DISABLED = 'Access to this resource is disabled.'

export interface Account {
  /** Without a slash at the end. */
  readonly endpoint: string
  readonly token: string | null
}

/** Throws ModelError for an HF_ENDPOINT that is none, and where HF_HUB_OFFLINE forbids to ask. */
export function accountOf(environment: Environment): Account {
  const { HF_HUB_OFFLINE, HF_ENDPOINT } = environment
  if (/^(?:1|true|yes|on)$/i.test(HF_HUB_OFFLINE ?? '')) {
    throw new ModelError('HF_HUB_OFFLINE is set, so the hub is not asked; unset it to pull')
  }
  const endpoint = (HF_ENDPOINT ? HF_ENDPOINT : 'https://huggingface.co').replace(/\/+$/, '')
  if (!URL.canParse(endpoint) || !/^https?:/.test(endpoint)) {
    throw new ModelError(
      `HF_ENDPOINT must be an address with https:// or http://, found ${endpoint}`,
    )
  }
  return { endpoint, token: tokenOf(environment) }
}

function tokenOf(environment: Environment): string | null {
  const { HF_TOKEN, HF_TOKEN_PATH, HF_HOME, XDG_CACHE_HOME, HOME } = environment
  if (HF_TOKEN) return HF_TOKEN.trim()
  const cache = XDG_CACHE_HOME ? XDG_CACHE_HOME : join(HOME ? HOME : os.homedir(), '.cache')
  const home = HF_HOME ? HF_HOME : join(cache, 'huggingface')
  const path = HF_TOKEN_PATH ? HF_TOKEN_PATH : join(home, 'token')
  if (!existsSync(path)) return null
  return readText(path, TOKEN_BYTES_MOST).trim() || null
}

export class Hub {
  constructor(
    readonly account: Account,
    /** ORG/NAME */
    readonly model: string,
    readonly patience: Patience,
  ) {}

  /** Asks for something short, and has its whole answer; for the functions of @huggingface/hub. */
  readonly fetch: typeof fetch = async (input, init) => {
    const url = input instanceof Request ? input.url : String(input)
    return patiently(this.model, this.patience, async () => {
      const watchdog = new Watchdog(this.patience)
      try {
        const response = await this.open(url, { ...init, signal: watchdog.signal })
        const body = await wholeBody(response, watchdog)
        return new Response(body, { status: response.status, headers: response.headers })
      } catch (error) {
        throw watchdog.reason(error)
      } finally {
        watchdog.end()
      }
    })
  }

  /** Where a file of a commit is to be had. */
  fileUrl(commit: string, path: string): string {
    const escaped = path.split('/').map(encodeURIComponent).join('/')
    return `${this.account.endpoint}/${this.model}/resolve/${commit}/${escaped}`
  }

  /**
   * Whether a file may be had at all: a listing is public also where the files are not. Followed as far as the
   * hub itself answers (a model that was renamed lies elsewhere on it); the storage is not asked.
   */
  async mayFetch(commit: string, path: string): Promise<void> {
    let url = this.fileUrl(commit, path)
    for (let hops = 0; hops <= REDIRECTS_MOST; hops += 1) {
      const { headers } = await this.fetch(url, { method: 'HEAD', redirect: 'manual' })
      const location = headers.get('location')
      if (location === null || !URL.canParse(location, url)) return
      const next = new URL(location, url)
      if (!this.#isOurs(next)) return
      url = next.href
    }
    throw new ModelError(`${this.model}: the hub sends from one address to the next without end`)
  }

  /** The beginning of an answer. Throws Passing for what another try may mend, ModelError for the rest. */
  async open(url: string, init: RequestInit): Promise<Response> {
    const headers = new Headers(init.headers)
    headers.set('accept-encoding', 'identity')
    const { token } = this.account
    if (token !== null && this.#isOurs(new URL(url))) {
      headers.set('authorization', `Bearer ${token}`)
    }
    const response = await fetch(url, { ...init, headers })
    if (response.status < 400 || response.status === 416) return response
    await response.body?.cancel()
    throw this.#refusal(response, this.#isOurs(new URL(response.url)))
  }

  #isOurs({ origin }: URL): boolean {
    return origin === new URL(this.account.endpoint).origin
  }

  #refusal({ status, headers }: Response, isFromHub: boolean): Error {
    const { endpoint, token } = this.account
    const code = headers.get('x-error-code') ?? ''
    const page = `${endpoint}/${this.model}`
    if (status === 429) return new Passing('too many requests (429)', waitOf(headers))
    if (status >= 500 || status === 408)
      return new Passing(`the hub fails (${status})`, waitOf(headers))
    // Another host's address holds for some minutes; the next try gets a new one from the hub.
    if (!isFromHub) return new Passing(`the storage refuses (${status})`)
    const known = token === null ? 'set HF_TOKEN to' : 'HF_TOKEN must be'
    if (headers.get('x-error-message') === DISABLED) {
      return new ModelError(`${this.model}: was disabled by the hub (${status}); see ${page}`)
    }
    if (code === 'GatedRepo' || (status === 403 && code === '')) {
      return new ModelError(
        `${this.model}: is gated (${status}); accept its terms at ${page}, and ${known} a token of that account that may read gated models`,
      )
    }
    if (code === 'RevisionNotFound') {
      return new ModelError(`${this.model}: has no such revision (${status}); see ${page}`)
    }
    if (code === 'EntryNotFound') {
      return new ModelError(`${this.model}: the hub lists a file that it does not have (${status})`)
    }
    if (status === 401 || status === 403) {
      const reason =
        token === null
          ? 'no such model, or a private one: set HF_TOKEN to a token that may read it'
          : 'the token in HF_TOKEN or in the token file is not accepted'
      return new ModelError(`${this.model}: ${reason} (${status})`)
    }
    if (status === 404) {
      return new ModelError(`${this.model}: no such model at ${endpoint} (404)`)
    }
    return new ModelError(`${this.model}: the hub refuses with status ${status}`)
  }
}

async function wholeBody(response: Response, watchdog: Watchdog): Promise<Uint8Array | null> {
  if (response.body === null) return null
  const parts: Uint8Array[] = []
  let bytes = 0
  for await (const part of response.body) {
    watchdog.fed()
    parts.push(part)
    bytes += part.length
    if (bytes > ANSWER_BYTES_MOST) throw new ModelError('the hub: its answer has no end')
  }
  return bytes === 0 ? null : Buffer.concat(parts)
}

/** Retry-After, as seconds or as a date; else the time until the count of requests begins anew, by RateLimit. */
function waitOf(headers: Headers): number | null {
  const text = headers.get('retry-after')
  if (text === null) {
    const limit = /^"[^"]*";.*\bt=(\d{1,9})\b/.exec(headers.get('ratelimit') ?? '')
    return limit === null ? null : Number(limit[1])
  }
  const seconds = /^\d{1,9}$/.test(text) ? Number(text) : (Date.parse(text) - Date.now()) / 1000
  return Number.isFinite(seconds) ? Math.max(0, seconds) : null
}
